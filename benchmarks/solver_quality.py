"""Quality over network evaluations: one checkpoint, several solvers, the same seeds; a table, a
plot, JSON.

python -m benchmarks.solver_quality --checkpoint checkpoints/fashion-latent --data-root DIR --output runs/solvers

Each solver takes as many steps as fit into 10, 20, 50 evaluations of the network (Heun needs two a
step); DDPM takes 1000. Guidance 1, so that an evaluation is one call; with --guidance W it is a
pair, in one batch. What is done already is read back from the JSON and not done again; `seconds`
are the processor's.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image as Picture

from benchmarks.judged import Log, judge_of
from ldm.config import SampleConfig
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers import (
    DDIM,
    DDPM,
    Counted,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp3M,
    EulerMaruyama,
    Heun,
    Solver,
    sample,
)
from ldm.evaluation.pictures import Judge, evaluate
from ldm.metrics.words import for_axis
from ldm.sampling.model import Model, restore
from ldm.scripts.flags import Parser
from ldm.system.plots import floor_line, picture, plain_ticks, say, sheet, styled

SOLVERS = {
    "DDIM": DDIM(),
    "Heun": Heun(),
    "Heun in the angle": Heun("angle"),
    "DPM++2M": DPMpp2M(),
    "DPM++3M": DPMpp3M(),
    "DPM++2M-SDE": DPMpp2MSDE(),
    "Euler-Maruyama": EulerMaruyama(),
}


NAME = "solver_quality"
SAME = ("solver", "steps", "count", "guidance", "seed")  # what makes two rows one
METRICS = ("fd", "kd", "precision", "recall", "class_share")


@dataclass
class Free:
    """A denoiser that costs nothing."""

    schedule: Schedule

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x_t


def evaluations(solver: Solver, model: Model, steps: int) -> int:
    """How often a solver asks the network in so many steps: counted, not claimed."""
    counted = Counted(Free(model.denoiser.schedule))
    sample(
        solver, counted, torch.zeros(1, 1), counted.schedule.grid(steps), lambda: torch.zeros(1, 1)
    )
    return counted.calls


def steps_within(solver: Solver, model: Model, budget: int) -> int:
    """The most steps that take at most `budget` evaluations."""
    return max(n for n in range(1, budget + 1) if evaluations(solver, model, n) <= budget)


def measure(
    model: Model, job: dict[str, Any], solver: Solver, batch: int, judge: Judge
) -> dict[str, Any]:
    guidance = job.get("guidance", 1.0)
    settings = SampleConfig(solver, job["steps"], guidance=guidance, batch_size=batch)
    began, seed = time.process_time(), job.get("seed", 0)
    figures = evaluate(model, settings, range(seed, seed + job["count"]), judge, quiet=True)
    seconds = time.process_time() - began
    values = {key: {"value": f.value, "std": f.std, "floor": f.floor} for key, f in figures.items()}
    row = job | {"evaluations": evaluations(solver, model, job["steps"])}
    return row | {"seconds": seconds, "figures": values}


def markdown(rows: list[dict[str, Any]]) -> str:
    keys = list(rows[0]["figures"])
    best = min(row["figures"][keys[0]]["value"] for row in rows)
    lines = [
        f"| solver | evaluations | {' | '.join(keys)} | {keys[0]} over the best |",
        "|---" * (len(keys) + 3) + "|",
    ]
    for row in rows:
        values = [row["figures"][key]["value"] for key in keys]
        cells = [
            row["solver"],
            str(row["evaluations"]),
            *(f"{v:.4g}" for v in values),
            f"{values[0] / best:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    floors = [
        f"{f['floor']:.4g}" if (f := rows[0]["figures"][key])["floor"] is not None else "-"
        for key in keys
    ]
    return "\n".join([*lines, f"| truth-vs-truth | - | {' | '.join(floors)} | |"])


@styled()
def draw(rows: list[dict[str, Any]]) -> Picture:
    """The first figure over evaluations of the network, a line a solver, DDPM a star."""
    key = next(iter(rows[0]["figures"]))
    figure, axes = sheet(
        "Quality over network evaluations: one checkpoint, several solvers", size=(8, 5)
    )
    ax = axes[0, 0]
    for name in dict.fromkeys(row["solver"] for row in rows):
        mine = [row for row in rows if row["solver"] == name]
        across = [row["evaluations"] for row in mine]
        values = [row["figures"][key]["value"] for row in mine]
        style, size = ("k*", 10) if name == "DDPM" else ("o-", 5)
        ax.plot(across, values, style, label=name, markersize=size)
    if (floor := rows[0]["figures"][key]["floor"]) is not None:
        floor_line(ax, floor)
    words = for_axis(key)
    say(ax, "evaluations of the network", words, xscale="log", yscale="log")
    plain_ticks(ax.xaxis, ax.yaxis)
    figure.legend(loc="outside lower center", ncols=4)
    return picture(figure)


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data-root")
    parser.add_argument("--features", default="auto")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first sample")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=[*SOLVERS])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--ddpm", type=int, default=1000, metavar="STEPS", help="0: leave it out")
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("runs/solver_quality"))
    args = parser.parse_args()
    model, log = restore(args.checkpoint, device=args.device), Log(args.output / f"{NAME}.json")
    judge = judge_of(args.checkpoint, METRICS, args.data_root, args.features, args.device)
    jobs = [
        (n, s, steps_within(s, model, budget))
        for budget in args.evaluations
        for n, s in SOLVERS.items()
        if n in args.solvers
    ]
    jobs += [("DDPM", DDPM(), args.ddpm)] if args.ddpm else []
    more = {"guidance": args.guidance} if args.guidance != 1 else {}
    more |= {"seed": args.seed} if args.seed else {}
    for name, solver, steps in jobs:
        job = {"solver": name, "steps": steps, "count": args.count} | more
        if not log.has(job, SAME):
            print(f"{name}, {steps} steps", flush=True)
            log.add(measure(model, job, solver, args.batch_size, judge))
    text = markdown(log.rows)
    (args.output / f"{NAME}.md").write_text(text + "\n")
    draw(log.rows).save(args.output / f"{NAME}.png", optimize=True)
    print(text)


if __name__ == "__main__":
    main()
