"""What the choice of threads costs on an idle machine, and what it saves beside one busy process.

python -m benchmarks.threads --output threads.json

`train.py` on the digits for some seconds, with one thread, with all of them, and as
`trainer.threads=0` chooses; then the same beside a process that does nothing but count. Steps a
second are of the wall clock, from the first step to the last, checks and panels left out of
neither. Asked: beside the busy process at most 1.3 times one thread's time, idle at least 97 % of
the rate of all threads. On a machine that others use, `--first` gives ours the cores before theirs
(Linux, root: the nice value of a session of its own); the load is printed.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from benchmarks.clock import ROOT, arguments, write

WAYS = {"one": "1", "all": str(os.cpu_count()), "chosen": "0"}


def first() -> None:
    """A session of its own, before all others in the system's scheduling."""
    os.setsid()
    Path("/proc/self/autogroup").write_text("-20")


def rate(threads: str, seconds: int, before: Callable[[], None] | None) -> float:
    """Steps a second of a fresh run."""
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OMP_", "MKL_", "LDM_THREADS"))
    }
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"output={folder}",
            f"trainer.threads={threads}",
            "trainer.log=1",
            "trainer.accelerator=cpu",
        ]
        settings += [
            f"trainer.options.max_time={{seconds: {seconds}}}",
            "sample.every=0",
            "sample.count=1",
            "sample.steps=1",
        ]
        settings += [
            "sample.trajectory=0",
            "sample.batch_size=1",
            "trainer.validate=100000",
            "logger.mode=disabled",
        ]
        command = [sys.executable, "train.py", "--config", "configs/digits/pixel.yaml", *settings]
        done = subprocess.run(
            command, cwd=ROOT, env=env, preexec_fn=before, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(done.stderr)
        with open(Path(folder, "digits-pixel", "metrics.csv"), newline="") as file:
            speeds = [
                float(row["speed/images_per_second"])
                for row in csv.DictReader(file)
                if row["speed/images_per_second"]
            ]
    return len(speeds) / sum(128 / speed for speed in speeds)


@contextmanager
def busy(before: Callable[[], None] | None):
    """One other process at work."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"], preexec_fn=before)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def parse() -> argparse.Namespace:
    parser = arguments(__doc__, rounds=3, steps=0)
    parser.add_argument("--seconds", type=int, default=20, help="of training in each run")
    parser.add_argument("--first", action="store_true", help="before other people's processes")
    parser.add_argument("--places", nargs="+", default=["idle", "busy"], choices=["idle", "busy"])
    return parser.parse_args()


def main() -> None:
    args = parse()
    before = first if args.first else None
    found: dict[str, dict[str, list[float]]] = {
        place: {way: [] for way in WAYS} for place in args.places
    }
    for i in range(args.rounds):
        for place in args.places:
            for way in list(WAYS)[:: 1 if i % 2 else -1]:
                if place == "busy":
                    with busy(before):
                        found[place][way].append(rate(WAYS[way], args.seconds, before))
                else:
                    found[place][way].append(rate(WAYS[way], args.seconds, before))
                print(
                    f"{place:5} {way:7} {found[place][way][-1]:6.2f} steps/s  load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    rates = {
        place: {way: statistics.median(values) for way, values in ways.items()}
        for place, ways in found.items()
    }
    if "busy" in rates:
        print(
            f"beside one busy process, time over one thread's: {rates['busy']['one'] / rates['busy']['chosen']:.2f}  asked: 1.3"
        )
    if "idle" in rates:
        best = max(rates["idle"]["one"], rates["idle"]["all"])
        print(f"idle, share of the best rate: {rates['idle']['chosen'] / best:.3f}  asked: 0.97")
    write(args, rates=rates, rounds=found)


if __name__ == "__main__":
    main()
