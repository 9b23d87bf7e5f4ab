"""Kill training at random moments and resume: does it end with the bits of the run that was never stopped?

python benchmarks/kills.py [--kills 20] [--seed 0]

Runs train.py in subprocesses on the embedded digits (tests/configs), in turn: pixel, latent, autoencoder, autoencoder with
a discriminator, VQ, pixel on two processes. Each is killed once by SIGKILL, SIGTERM or SIGINT at a random moment between
its first save and its end (as long as the uninterrupted run took for that), and resumed; weights, averages and optimisers
are compared bit by bit with the uninterrupted run.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ldm.checkpoint import newest_whole

ROOT = Path(__file__).parent.parent
GAN = "discriminator={weight: 0.5, warmup: 5, channels: 8, layers: 1}"
LONG = ["trainer.max_steps=150", "trainer.save=7", "trainer.validate=20", "sample.every=40"]
KINDS = {
    "pixel": ("pixel", LONG),
    "latent": ("latent", LONG),
    "autoencoder": ("autoencoder", LONG[:3]),
    "gan": ("autoencoder", [*LONG[:3], GAN]),
    "vq": ("autoencoder", [*LONG[:3], "network={name: VQModel, channels: [8, 16], latent_channels: 2, codes: 16}"]),
    "pixel, 2 processes": ("pixel", [*LONG, "trainer.devices=2"]),
}


def command(kind: str, output: Path, stage1: Path | None, resume: bool = False) -> list[str]:
    config, more = KINDS[kind]
    common = [f"output={output}", "trainer.accelerator=cpu", "logger.mode=disabled", "trainer.threads=1"]
    space = [f"space.autoencoder={stage1}"] if config == "latent" else []
    flags = ["--resume"] if resume else []
    path = ROOT / "tests" / "configs" / f"{config}.yaml"
    return [sys.executable, str(ROOT / "train.py"), "--config", str(path), *flags, *common, *more, *space]


def run(arguments: list[str], folder: Path, kill_after: float | None = None, number: int = 0) -> tuple[int, str, float]:
    """Start in a process group of its own; a SIGKILL goes to the whole group, as a node's failure does.

    `kill_after` counts from the first save in `folder`. Returns the status, what was said, and the seconds since that save.
    """
    process = subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    while not (folder / "last.ckpt").exists() and process.poll() is None:
        time.sleep(0.01)
    saved = time.perf_counter()
    if kill_after is not None:
        time.sleep(kill_after)
        if process.poll() is None and number == signal.SIGKILL:
            os.killpg(process.pid, signal.SIGKILL)
        elif process.poll() is None:
            process.send_signal(number)
    said, _ = process.communicate(timeout=600)
    return process.returncode, said, time.perf_counter() - saved


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the state that must be equal, by a name of its own."""
    state = torch.load(path, weights_only=True)
    found = {f"raw {k}": v for k, v in state["state_dict"].items()}
    found |= {f"ema {k}": v for k, v in state["ldm"]["ema"]["weights"].items()}
    for i, optimiser in enumerate(state["optimizer_states"]):
        for j, moments in optimiser["state"].items():
            found |= {f"optimiser {i} {j} {k}": torch.as_tensor(v) for k, v in moments.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}
    chance = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp())
    stage1, wholes, equal, lost, inside = folder / "stage1" / "tiny-autoencoder", {}, 0, 0, 0
    status, said, _ = run(command("autoencoder", folder / "stage1", None), stage1)
    assert status == 0, said
    for i in range(args.kills):
        kind = list(KINDS)[i % len(KINDS)]
        name = f"tiny-{KINDS[kind][0]}"
        if kind not in wholes:
            status, said, took = run(command(kind, folder / f"whole-{kind}", stage1), folder / f"whole-{kind}" / name)
            assert status == 0, said
            wholes[kind] = (tensors(folder / f"whole-{kind}" / name / "last.ckpt"), took)
        truth, length = wholes[kind]
        number = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        after = chance.uniform(0.0, 0.8) * length
        out = folder / f"killed-{i}"
        first, _, _ = run(command(kind, out, stage1), out / name, after, number)
        left = list((out / name).glob("*.ckpt")) if (out / name).exists() else []
        path, _, complaints = newest_whole(out / name) if left else (None, {}, [])
        lost += len(complaints)
        at = torch.load(path, weights_only=True)["global_step"] if path else 0
        inside += 0 < at < 150
        status, said = (0, "") if first == 0 else run(command(kind, out, stage1, resume=True), out / name)[:2]
        done = status == 0 or "is finished" in said  # killed after its last save
        end = tensors(out / name / "last.ckpt") if done else {}
        same = end.keys() == truth.keys() and all(torch.equal(end[k], truth[k]) for k in truth)
        equal += same
        what = f"{signal.Signals(number).name} after {after:.1f} s, status {first}, resumed from step {at}"
        print(f"{i + 1:2} {kind:20} {what}: {'equal' if same else 'DIFFERENT ' + said[-500:]}", flush=True)
    where = f"{inside} were killed between the first step and the last (seed {args.seed})"
    print(f"{equal} of {args.kills} end bit-equal; {lost} files lost; {where}")


if __name__ == "__main__":
    main()
