"""Kill training at random moments and resume: does it end with the bits and the rows of the run
that was never stopped?

python benchmarks/kills.py [--kills 24] [--seed 0]

Runs train.py in subprocesses on the embedded digits and jets (tests/configs), in turn: pixel with
data workers, latent, autoencoder, autoencoder with a discriminator, VQ, jets, in-painting, pixel on
two processes. Every second save is at a step that is validated too. Each run is killed once, by
SIGKILL, SIGTERM, SIGINT or SIGUSR1 to its whole process group, at a random moment between its first
save and its end (as long as the uninterrupted run took for that), and resumed. Weights, averages,
optimisers and callbacks of last.ckpt, the weights of best.ckpt and the rows of metrics.csv, less
what the clock says, are compared with the uninterrupted run's.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ldm.checkpoints.checkpoint import newest_whole
from ldm.scripts.flags import Parser

ROOT = Path(__file__).parent.parent
GAN = "discriminator={weight: 0.5, warmup: 5, channels: 8, layers: 1}"
STEPS = 120
LONG = [f"trainer.max_steps={STEPS}", "trainer.save=5", "trainer.validate=10", "trainer.log=3"]
DRAWN = [*LONG, "sample.every=40"]
KINDS = {
    "pixel, workers": ("pixel", [*DRAWN, "data.workers=2"]),
    "latent": ("latent", DRAWN),
    "autoencoder": ("autoencoder", LONG),
    "gan": ("autoencoder", [*LONG, GAN]),
    "vq": (
        "autoencoder",
        [*LONG, "network={name: VQModel, channels: [8, 16], latent_channels: 2, codes: 16}"],
    ),
    "jets": ("jets", DRAWN),
    "in-painting": ("pixel", [*DRAWN, "task=Inpaint"]),
    "pixel, 2 processes": ("pixel", [*DRAWN, "trainer.devices=2"]),
}


def command(kind: str, output: Path, stage1: Path | None, resume: bool = False) -> list[str]:
    config, more = KINDS[kind]
    common = [
        f"output={output}",
        "trainer.accelerator=cpu",
        "logger.mode=disabled",
        "trainer.threads=1",
    ]
    space = [f"space.autoencoder={stage1}"] if config == "latent" else []
    flags = ["--resume"] if resume else []
    path = ROOT / "tests" / "configs" / f"{config}.yaml"
    return [
        sys.executable,
        str(ROOT / "train.py"),
        "--config",
        str(path),
        *flags,
        *common,
        *more,
        *space,
    ]


def run(
    arguments: list[str], folder: Path, kill_after: float | None = None, number: int = 0
) -> tuple[int, str, float]:
    """Start in a process group of its own; a signal goes to the whole group, as a terminal's and a
    job system's do.

    `kill_after` counts from the first save in `folder`. Returns the status, what was said, and the
    seconds since that save.
    """
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while not (folder / "last.ckpt").exists() and process.poll() is None:
        time.sleep(0.01)
    saved = time.perf_counter()
    if kill_after is not None:
        time.sleep(kill_after)
        if process.poll() is None:
            os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=600)
    return process.returncode, said, time.perf_counter() - saved


def results(folder: Path) -> dict[str, Any]:
    """All that must be equal, by a name of its own: tensors, and text."""
    state, best = (
        torch.load(folder / f"{name}.ckpt", weights_only=True) for name in ("last", "best")
    )
    found: dict[str, Any] = {f"raw {k}": v for k, v in state["state_dict"].items()}
    found |= {f"ema {k}": v for k, v in state["ldm"]["ema"]["weights"].items()}
    found |= {f"best {k}": v for k, v in best["state_dict"].items()} | {
        "best step": str(best["global_step"])
    }
    for i, optimiser in enumerate(state["optimizer_states"]):
        for j, moments in optimiser["state"].items():
            found |= {f"optimiser {i} {j} {k}": torch.as_tensor(v) for k, v in moments.items()}
    return found | {"callbacks": str(state["callbacks"]), "rows": str(rows(folder))}


def rows(folder: Path) -> list[dict[str, str]]:
    """Of metrics.csv, without what the clock says."""
    with open(folder / "metrics.csv", newline="") as file:
        return [
            {k: v for k, v in row.items() if not k.startswith("speed/")}
            for row in csv.DictReader(file)
        ]


def different(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of what is not equal to the last bit."""
    equal = lambda x, y: (
        torch.equal(x, y) if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) else x == y
    )
    return [key for key in {**a, **b} if key not in a or key not in b or not equal(a[key], b[key])]


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}
    chance = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp())
    stage1, wholes, equal, lost, inside, together = (
        folder / "stage1" / "tiny-autoencoder",
        {},
        0,
        0,
        0,
        0,
    )
    status, said, _ = run(command("autoencoder", folder / "stage1", None), stage1)
    assert status == 0, said
    for i in range(args.kills):
        kind = list(KINDS)[i % len(KINDS)]
        name = f"tiny-{KINDS[kind][0]}"
        if kind not in wholes:
            status, said, took = run(
                command(kind, folder / f"whole-{kind}", stage1), folder / f"whole-{kind}" / name
            )
            assert status == 0, said
            wholes[kind] = (results(folder / f"whole-{kind}" / name), took)
        truth, length = wholes[kind]
        number = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
        after = chance.uniform(0.0, 0.8) * length
        out = folder / f"killed-{i}"
        first, _, _ = run(command(kind, out, stage1), out / name, after, number)
        left = list((out / name).glob("*.ckpt")) if (out / name).exists() else []
        path, _, complaints = newest_whole(out / name) if left else (None, {}, [])
        lost += len(complaints)
        at = torch.load(path, weights_only=True)["global_step"] if path else 0
        inside += 0 < at < STEPS
        together += 0 < at < STEPS and at % 10 == 0
        status, said = (
            (0, "") if first == 0 else run(command(kind, out, stage1, resume=True), out / name)[:2]
        )
        done = status == 0 or "is finished" in said  # killed after its last save
        wrong = different(results(out / name), truth) if done else ["it did not end"]
        equal += not wrong
        what = f"{signal.Signals(number).name} after {after:.1f} s, status {first}, resumed from step {at}"
        print(
            f"{i + 1:2} {kind:20} {what}: {f'DIFFERENT {wrong[:5]} {said[-500:]}' if wrong else 'equal'}",
            flush=True,
        )
    where = f"{inside} went on between the first step and the last, {together} of them at a step that was saved and validated"
    print(
        f"{equal} of {args.kills} end with the same bits and rows; {lost} files lost; {where} (seed {args.seed})"
    )


if __name__ == "__main__":
    main()
