"""Two processes with one thread each against one process with one: images/s of train.py.

python -m benchmarks.ddp --data-root DIR --output runs/ddp.json          # on an idle machine with two cores or more
python -m benchmarks.ddp --data-root DIR --device cuda --devices 8

In turn, `train.py trainer.devices=1` and `trainer.devices=2` (gloo, or NCCL on GPUs), each a run of
its own, sampling and validation off. The rate is what the run itself writes into metrics.csv,
pictures a second over all processes, the mean of its rows after the first. That is wall clock, of
necessity: the machine must be idle. What other processes took of it meanwhile stands beside each
rate, in cores (Linux only); above 0.1 a round is marked, and says nothing of the code.
"""

import argparse
import contextlib
import csv
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.clock import ROOT, arguments, line, ratio, start, write

ROWS = 4  # of metrics.csv in a run; the first is of the start
IDLE = 0.1  # cores that others may take


def busy() -> float:
    """Seconds that all cores together have worked since the machine started; not a number where
    Linux does not say.
    """
    path = Path("/proc/stat")
    if not path.exists():
        return float("nan")
    user, nice, system, _, _, irq, softirq = map(int, path.read_text().splitlines()[0].split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def adopt() -> None:
    """Become the parent of orphans (Linux): ranks that Lightning starts outlive theirs, and their
    time would be others'.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def own() -> float:
    """Seconds that this process and those it has waited for have worked."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0)[0]:
            pass
    return sum(
        u.ru_utime + u.ru_stime
        for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def train(args: argparse.Namespace, devices: int) -> dict[str, float]:
    """One run: its images/s, and the cores that others took meanwhile."""
    with tempfile.TemporaryDirectory() as output:
        accelerator = "cpu" if args.device == "cpu" else "gpu"
        settings = [
            f"output={output}",
            "name=run",
            f"trainer.accelerator={accelerator}",
            f"trainer.devices={devices}",
        ]
        settings += [
            f"trainer.max_steps={ROWS * args.steps}",
            f"trainer.log={args.steps}",
            "trainer.options.limit_val_batches=0",
        ]
        settings += [
            "sample.every=0",
            "sample.count=1",
            "sample.steps=1",
            "sample.trajectory=0",
            "logger.mode=disabled",
        ]
        settings += ["trainer.threads=1"] if args.device == "cpu" else []
        settings += [f"data.root={args.data_root}"] if args.data_root else []
        began, others = time.perf_counter(), busy() - own()
        command = [sys.executable, "train.py", "--config", args.config, *settings]
        env = os.environ | ({"OMP_NUM_THREADS": "1"} if args.device == "cpu" else {})
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        others = (busy() - own() - others) / (time.perf_counter() - began)
        with open(Path(output, "run", "metrics.csv"), newline="") as file:
            rates = [
                float(row["speed/images_per_second"])
                for row in csv.DictReader(file)
                if row["speed/images_per_second"]
            ]
    return {"images_per_second": fmean(rates[1:]), "others": others}


def main() -> None:
    parser = arguments(__doc__, rounds=5, steps=10)
    parser.add_argument("--config", default="configs/fashion/pixel-cpu.yaml")
    parser.add_argument("--data-root", metavar="DIR")
    parser.add_argument("--devices", type=int, default=2)
    args = start(parser)
    adopt()
    runs: dict[int, list[dict[str, float]]] = {1: [], args.devices: []}
    for i in range(args.rounds):
        for devices in list(runs)[:: 1 if i % 2 else -1]:
            runs[devices].append(one := train(args, devices))
            mark = "" if one["others"] < IDLE else "  NOT IDLE"
            print(
                f"{devices} processes: {one['images_per_second']:.1f} images/s, others {one['others']:.2f} cores{mark}"
            )
    rates = {devices: [r["images_per_second"] for r in found] for devices, found in runs.items()}
    found: dict[str, Any] = ratio(rates[args.devices], rates[1])
    idle = all(r["others"] < IDLE for each in runs.values() for r in each)
    line(
        f"{args.devices} processes over one, images/s",
        found,
        "1.8" if idle else "1.8, but the machine was NOT IDLE",
    )
    write(args, ratios={f"{args.devices} processes over one": found}, runs=runs, idle=idle)


if __name__ == "__main__":
    main()
