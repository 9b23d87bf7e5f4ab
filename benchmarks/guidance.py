"""Guidance away from the null condition (classifier-free) and from worse models (autoguidance):
precision against recall, and the Fréchet distance, over weights; a table, a plot, JSON.

python -m benchmarks.guidance --checkpoint checkpoints/fashion-latent --data-root DIR \\
    --guide small=RUN --guide short=RUN --output runs/guidance

Each guide is a run that `sample.guide` can name. The seeds are the same for all. What is done
already is read back from the JSON and not done again; `seconds` are the processor's.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL.Image import Image as Picture

from benchmarks.judged import Log, judge_of
from ldm.errors import guard
from ldm.evaluation.pictures import Judge, evaluate
from ldm.sampling.model import Model, restore
from ldm.sampling.settings import Overrides
from ldm.scripts.flags import Parser
from ldm.system.plots import floor_line, picture, say, sheet, styled

FREE = "null condition"  # classifier-free
WEIGHTS = (1.0, 1.25, 1.5, 2.0, 3.0)
KEYS = ("fd", "precision", "recall", "class")
METRICS = ("fd", "precision", "recall", "class_share")
SAME = ("guide", "guidance", "steps", "seed", "count")  # what makes two rows one


def jobs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What is to be measured; weight 1 is no guidance, and the same for all."""
    guides = {FREE: "none"} | dict(pair.split("=", 1) for pair in args.guide)
    each = {"steps": args.steps, "seed": args.seed, "count": args.count}
    return [
        {"guide": name, "run": run, "guidance": weight} | each
        for name, run in guides.items()
        for weight in args.weights
        if weight != 1 or name == FREE
    ]


def measure(model: Model, job: dict[str, Any], judge: Judge) -> dict[str, Any]:
    asked = Overrides(steps=job["steps"], guidance=job["guidance"], guide=job["run"])
    settings = replace(asked.over(model.settings, model.schedule), batch_size=job["batch_size"])
    began, seeds = time.process_time(), range(job["seed"], job["seed"] + job["count"])
    figures = evaluate(model, settings, seeds, judge, quiet=True)
    values = {key: [f.value, f.floor] for key, f in named(figures).items()}
    return job | {"seconds": time.process_time() - began, "figures": values}


def named(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures by their short names: fd_fashion_2k is fd."""
    found = {key: next((k for k in figures if k.startswith(key)), None) for key in KEYS}
    return {key: figures[name] for key, name in found.items() if name is not None}


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| guided away from | steps | weight | Fréchet distance | precision | recall | its class | CPU s |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        values = [row["figures"][key][0] for key in KEYS if key in row["figures"]]
        cells = [f"{value:.3g}" for value in values]
        cells = [row["guide"], f"{row['steps']}", f"{row['guidance']:g}", *cells]
        cells.append(f"{row['seconds']:.0f}" if row["seconds"] else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@styled()
def draw(rows: list[dict[str, Any]]) -> Picture:
    """Precision against recall, a line for each guide; and the Fréchet distance over weights."""
    title = f"Guidance away from a worse estimate ({rows[0]['count']:,} samples a point)"
    figure, axes = sheet(title, 1, 2, size=(11, 5))
    for name, steps in dict.fromkeys((row["guide"], row["steps"]) for row in rows):
        mine = [row for row in rows if row["steps"] == steps]  # weight 1 is the same for all guides
        mine = [row for row in mine if row["guide"] == name or row["guidance"] == 1]
        mine.sort(key=lambda row: row["guidance"])
        at = {
            key: [row["figures"][key][0] for row in mine] for key in ("fd", "precision", "recall")
        }
        weights = [row["guidance"] for row in mine]
        label = "the null condition (classifier-free)" if name == FREE else f"guide: {name}"
        label += f", {steps} steps"
        axes[0, 0].plot(at["recall"], at["precision"], "o-", label=label)
        for x, y, weight in zip(at["recall"], at["precision"], weights, strict=True):
            axes[0, 0].annotate(f"{weight:g}", (x, y), xytext=(4, 4), textcoords="offset points")
        axes[0, 1].plot(weights, at["fd"], "o-")
    say(axes[0, 0], "recall", "precision", title="numbers: the weight; right and up is better")
    say(axes[0, 1], "weight of the guidance", "Fréchet distance", title="lower is better")
    if (floor := rows[0]["figures"]["fd"][1]) is not None:
        floor_line(axes[0, 1], floor)
    figure.legend(loc="outside lower center", ncols=3)
    return picture(figure)


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data-root")
    parser.add_argument("--guide", action="append", default=[], metavar="NAME=RUN")
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS, metavar="W")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--output", type=Path, default=Path("runs/guidance"))
    args = parser.parse_args()
    model, judge = restore(args.checkpoint), judge_of(args.checkpoint, METRICS, args.data_root)
    log = Log(args.output / "guidance.json")
    for job in jobs(args):
        if not log.has(job, SAME):
            log.add(measure(model, job | {"batch_size": args.batch_size}, judge))
            print(markdown(log.rows[-1:]).splitlines()[-1], flush=True)
    shown = [row for row in log.rows if (row["seed"], row["count"]) == (args.seed, args.count)]
    (args.output / "guidance.md").write_text(markdown(shown) + "\n")
    draw(shown).save(args.output / "guidance.png", optimize=True)
    print(markdown(shown))


if __name__ == "__main__":
    guard(main)
