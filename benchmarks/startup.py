"""How long train.py takes to answer: `--help`, and a config's first training step; and where that
time goes.

python -m benchmarks.startup --output runs/startup.json

In every round, in turn and in processes of their own: `train.py --help`, bare imports of torch,
lightning and diffusers, and `train.py --config configs/digits/latent.yaml` into an empty folder,
ended after the first training step (of stage 1, which comes first), with W&B offline as for a user
without a key. Seconds are of the wall and of the processor: the latter is what the wall would be on
an idle machine, but for waiting (for W&B's service). Last, by `-X importtime`, the modules' own
import times by package. There is nothing here for a GPU but its driver's start; `--device cuda`
includes it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from statistics import median

from benchmarks.clock import ROOT, arguments, line, ratio, start, write

IMPORTS = "import torch, lightning.pytorch, diffusers.models"
# train.py as it is, but that its Trainer gets one callback more, which says when each part was done
# and ends the process
FIRST_STEP = """
import json, os, runpy, sys, time
marks = {}
mark = lambda name: marks.update({name: (time.time(), time.process_time())})
steps, sys.argv = int(sys.argv[1]), ["train.py", *sys.argv[2:]]
from ldm.training import run
import lightning.pytorch as pl
mark("imports")
class Stop(pl.Callback):
    def on_train_start(self, trainer, module):
        mark("W&B, first panels")
    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == steps:
            mark("first step")
            print(json.dumps(marks), file=sys.stderr, flush=True)
            os._exit(0)
def with_stop(*parts, build=run.build_trainer):
    mark("config, data, network")
    trainer = build(*parts)
    trainer.callbacks.append(Stop())
    mark("trainer")
    return trainer
run.build_trainer = with_stop
runpy.run_path("train.py", run_name="__main__")
"""
Took = tuple[
    float, float, str
]  # seconds of the wall, of the processor, and what was said on stderr


def launch(*command: str) -> Took:
    """Run Python to its end."""
    env = os.environ | {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    before, began = os.times(), time.time()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    after, wall = os.times(), time.time() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[:80]}: {done.stderr[-2000:]}")
    processor = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return wall, processor, done.stderr


def first_step(args: argparse.Namespace, *flags: str) -> tuple[Took, dict[str, list[float]]]:
    """A new run to its first step; and the seconds of each part, of the wall and of the processor."""
    with tempfile.TemporaryDirectory() as output:
        accelerator = "cpu" if args.device == "cpu" else "gpu"
        settings = [f"output={output}", f"trainer.accelerator={accelerator}", "trainer.devices=1"]
        began = time.time()
        took = launch(*flags, "-c", FIRST_STEP, str(args.steps), "--config", args.config, *settings)
    marks = json.loads(took[2].splitlines()[-1])
    parts, last = {}, (began, 0.0)
    for name, mark in marks.items():
        parts[name] = [mark[0] - last[0], mark[1] - last[1]]
        last = mark
    return took, parts


def import_times(report: str) -> dict[str, float]:
    """Seconds of `-X importtime`'s report spent in each package's own modules, the dearest first."""
    seconds: Counter[str] = Counter()
    for row in report.splitlines():
        own, _, name = (
            part.strip() for part in (row.removeprefix("import time:") + "||").split("|")[:3]
        )
        if row.startswith("import time:") and own.isdigit():
            seconds[name.split(".")[0]] += int(own) / 1e6
    return dict(seconds.most_common())


def main() -> None:
    parser = arguments(__doc__, rounds=5, steps=1)
    parser.add_argument("--config", default="configs/digits/latent.yaml")
    args = start(parser)
    parts: list[dict[str, list[float]]] = []

    def run() -> Took:
        took, each = first_step(args)
        parts.append(each)
        return took

    works: dict[str, Callable[[], Took]] = {
        "--help": lambda: launch("train.py", "--help"),
        "imports": lambda: launch("-c", IMPORTS),
        "first step": run,
    }
    took: dict[str, list[Took]] = {name: [] for name in works}
    first_step(args)  # files into memory
    for i in range(args.rounds):
        for name in list(works)[:: 1 if i % 2 else -1]:
            took[name].append(works[name]())
    asked = {"first step": "asked: under 12 s"}
    seconds = {
        name: {"wall": [t[0] for t in all_], "processor": [t[1] for t in all_]}
        for name, all_ in took.items()
    }
    for name, found in seconds.items():
        wall, processor = median(found["wall"]), median(found["processor"])
        best = min(found["wall"])
        print(
            f"{name:26} wall {wall:6.2f} s ({best:.2f} at best), processor {processor:6.2f} s  {asked.get(name, '')}"
        )
    each = {name: [median(p[name][k] for p in parts) for k in (0, 1)] for name in parts[0]}
    for name, (wall, processor) in each.items():
        print(f"    {name:22} wall {wall:6.2f} s, processor {processor:6.2f} s")
    over = ratio(seconds["first step"]["processor"], seconds["imports"]["processor"])
    line("first step over bare imports, processor's time", over)
    packages = import_times(first_step(args, "-X", "importtime")[0][2])
    print(
        "imports by package, s: "
        + ", ".join(f"{name} {spent:.2f}" for name, spent in list(packages.items())[:12])
    )
    write(
        args,
        seconds=seconds,
        parts=each,
        ratios={"first step over bare imports": over},
        imports=packages,
    )


if __name__ == "__main__":
    main()
