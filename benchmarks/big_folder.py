"""The start on a folder of very many pictures: the first time, and when nothing has changed since.

python -m benchmarks.big_folder --names 1280000 --place /tmp --output runs/big-folder.json

Makes a folder of classes whose pictures are hard links to a few JPEGs, loads it as training does
(ImageFolder) in a process of its own, then twice more, and takes it away again. Each process says
how long `load` took, and the hashes of the data that a checkpoint and the caches ask for; the CPU
time with that of its helpers; and how much memory of its own it took at most, beside what it had
with everything imported. Then one picture is added, and one written over, and the time until that is
noticed is taken.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.clock import write
from ldm.scripts.flags import Parser

SOURCES = 64  # a file has at most 65,000 names


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--place", type=Path, help="where the folder is made (a local disk)")
    parser.add_argument("--output", type=Path, metavar="JSON")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.device = "cpu"
    if args.load:
        print(json.dumps(load(args.load)))
        return
    with tempfile.TemporaryDirectory(dir=args.place) as place:
        root, first = make(Path(place), args.names, args.classes)
        time.sleep(2.5)  # what has just changed would be looked at twice
        found = {name: in_process(place, root) for name in ("first", "second", "third")}
        for name, what in found.items():
            print(f"{name:8}", ", ".join(f"{key} {value:.2f}" for key, value in what.items()))
        os.link(first, root / "class0000" / "added.jpg")
        found["one added"] = in_process(place, root)
        time.sleep(2.5)
        (root / "class0001" / "added.jpg").write_bytes(first.read_bytes())
        in_process(place, root)
        with open(root / "class0001" / "added.jpg", "ab") as file:
            file.write(b"more")
        found["one written over"] = in_process(place, root)
        for name in ("one added", "one written over"):
            print(name, ", ".join(f"{key} {value:.2f}" for key, value in found[name].items()))
        write(args, found=found)
        shutil.rmtree(root)


def make(place: Path, names: int, classes: int) -> tuple[Path, Path]:
    """The folder, and one of the files that its names are of."""
    root, sources = place / "pictures", []
    for i in range(SOURCES):
        values = np.random.default_rng(i).integers(0, 256, (96, 128, 3), np.uint8)
        sources.append(place / f"source{i}.jpg")
        Image.fromarray(values).save(sources[-1], quality=50)
    for c in tqdm(range(classes), "making", unit="class"):
        (folder := root / f"class{c:04d}").mkdir(parents=True)
        for i in range(c, names, classes):
            os.link(sources[i % SOURCES], folder / f"picture{i:08d}.jpg")
    return root, sources[0]


def in_process(place: str, root: Path) -> dict[str, float]:
    """What a new process found."""
    command = [sys.executable, "-m", "benchmarks.big_folder", "--load", str(root)]
    env = os.environ | {"XDG_CACHE_HOME": f"{place}/cache", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def load(root: Path) -> dict[str, float]:
    """Load it here, and ask for its hashes."""
    from ldm.errors import Refusal
    from ldm.pictures.folders import ImageFolder

    ImageFolder(root=str(root))
    before, cpu, began = own_memory(), cpu_time(), time.perf_counter()
    peak = Peak()
    images = ImageFolder(root=str(root)).load()
    loaded = time.perf_counter() - began
    refused = 0.0
    try:
        images.train.identity()
        images.train.fingerprint()
    except Refusal as refusal:
        print(refusal)
        refused = 1.0
    found = {"load s": loaded, "with hashes s": time.perf_counter() - began, "refused": refused}
    return found | {
        "CPU s": cpu_time() - cpu,
        "MB": (peak.end() - before) / 1e6,
        "pictures": float(len(images.train) + len(images.test)),
    }


def cpu_time() -> float:
    """Of this process and those of its helpers that have ended, seconds."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(each)[:2]) for each in who)


def own_memory() -> int:
    """Bytes that are not of files that other processes may share (Linux)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


class Peak:
    """The most of it, looked at a hundred times a second."""

    def __init__(self) -> None:
        self.most, self.over = 0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.over.wait(0.01):
            self.most = max(self.most, own_memory())

    def end(self) -> int:
        self.over.set()
        self.thread.join()
        return max(self.most, own_memory())


if __name__ == "__main__":
    main()
