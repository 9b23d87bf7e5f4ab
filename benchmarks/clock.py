"""How the benchmarks take times, compare them and write them down.

Two things are timed in turn in one run, which goes first alternates, and what counts is the median
of the rounds' ratios: whatever else the machine does falls on both. On a CPU one thread in this
process's own time, which others on the same cores do not lengthen (they do make it noisier, by
caches and clock rates); on a GPU wall clock, with the device synchronised on both sides.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ldm.scripts.flags import Parser

ROOT = Path(__file__).parent.parent
Work = Callable[[], object]


def arguments(doc: str, rounds: int, steps: int) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, metavar="JSON")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--device", default="cpu")
    return parser


def start(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the flags; on a CPU one thread, so that the process's own time is what the work takes."""
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    return args


def now(device: str) -> float:
    """Seconds: of this process on a CPU; of the wall, with all work on it done, on a GPU."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def clock(work: Work, device: str) -> float:
    """Seconds that the work takes."""
    began = now(device)
    work()
    return now(device) - began


def in_turn(works: dict[str, Work], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each in every round, after one that is not timed; every other round goes in the
    other order.
    """
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds):
        for name in list(works)[:: 1 if i % 2 else -1]:
            times[name].append(clock(works[name], device))
    return times


def ratio(over: list[float], under: list[float]) -> dict[str, Any]:
    """The rounds' ratios and their median."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return {"ratios": ratios, "median": statistics.median(ratios)}


def line(name: str, found: dict[str, Any], asked: str = "", digits: int = 3) -> None:
    """A ratio for the person who watches, with the span of its rounds."""
    span = f"{min(found['ratios']):.{digits}f} ... {max(found['ratios']):.{digits}f}"
    print(
        f"{name:58} {found['median']:.{digits}f}  ({span}){f'  asked: {asked}' if asked else ''}",
        flush=True,
    )


def write(args: argparse.Namespace, **found: Any) -> None:
    """What was found as JSON, with the flags, the machine and the versions."""
    if args.output is None:
        return
    args.output.parent.mkdir(parents=True, exist_ok=True)
    flags = {
        key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()
    }
    record = {
        "flags": flags,
        "machine": machine(args.device),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    args.output.write_text(json.dumps(record | found, indent=1) + "\n")


def machine(device: str) -> dict[str, Any]:
    """Where it ran, and on what code."""
    names = [text for text in _lines("/proc/cpuinfo") if text.startswith("model name")]
    return {
        "cpu": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "commit": commit(),
        "versions": {name: _version(name) for name in ("ldm", "torch", "lightning", "diffusers")},
    }


def commit() -> str:
    """Empty outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
