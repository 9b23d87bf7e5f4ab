"""Does a sample depend on its seed alone? The same seeds in other batches, on other numbers of
processes, by three solvers.

python benchmarks/seeds.py checkpoints/fashion-pixel-cpu [--count 64] [--steps 10]

Every run is sample.py in a subprocess. Compared with batches of 64 on one process, in grey levels
of 255: batches are filled up to --batch-size, so equal sizes must give equal bits; other sizes may
be rounded differently by a convolution.
"""

import argparse
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.scripts.flags import Parser

ROOT = Path(__file__).parent.parent


def pictures(folder: Path) -> np.ndarray:
    """Every sample of a run, in the order of its seeds."""
    return np.stack([np.asarray(Image.open(p), dtype=int) for p in sorted(folder.glob("0*.png"))])


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    print(
        "| solver | batch | processes | equal pictures | largest difference (of 255) |\n|---|---|---|---|---|"
    )
    for solver in ("DDPM", "DDIM", "EulerMaruyama"):
        reference = None
        for batch, devices in product((64, 1, 7), (1, 2)):
            out = folder / f"{solver}-{batch}-{devices}"
            how = [
                "--solver",
                solver,
                "--steps",
                args.steps,
                "--batch-size",
                batch,
                "--devices",
                devices,
                "--count",
                args.count,
            ]
            command = [
                sys.executable,
                ROOT / "sample.py",
                "--checkpoint",
                args.checkpoint,
                "--output",
                out,
                *how,
                "--device",
                "cpu",
            ]
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
            found = pictures(out)
            reference = found if reference is None else reference
            difference = np.abs(found - reference).reshape(len(found), -1).max(1)
            print(
                f"| {solver} | {batch} | {devices} | {(difference == 0).sum()} of {len(found)} | {difference.max()} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
