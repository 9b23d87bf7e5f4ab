"""Quality over network evaluations: one checkpoint, several solvers, the same seeds; a table, a
plot, JSON.

python -m benchmarks.solver_quality --checkpoint checkpoints/fashion-latent --data-root DIR --output runs/solvers

Each solver takes as many steps as fit into 10, 20, 50 evaluations of the network (Heun needs two a
step); DDPM takes 1000. Guidance 1, so that an evaluation is one call; with --guidance W it is a
pair, in one batch. What is done already is read back from the JSON and not done again; `seconds`
are the processor's.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image as Picture

from ldm.checkpoints import checkpoint
from ldm.config import SampleConfig, from_dict
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
from ldm.evaluation.pictures import Judge, evaluate, load_data
from ldm.metrics.features import choose
from ldm.metrics.reference import cached_reference
from ldm.metrics.words import for_axis
from ldm.sampling.model import Model, restore
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    args.output.mkdir(parents=True, exist_ok=True)
    file = checkpoint.find_checkpoint(args.checkpoint)
    meta = checkpoint.read_checkpoint(file)["ldm"]
    config = from_dict(meta["config"], str(file))
    features = choose(args.features, type(config.data).__name__).to(args.device)
    real = cached_reference(
        load_data(config.data, args.data_root, meta).train,
        features,
        f"{type(config.data).__name__} train",
    )
    model, log = restore(file, device=args.device), args.output / "solver_quality.json"
    jobs = [
        (n, s, steps_within(s, model, budget))
        for budget in args.evaluations
        for n, s in SOLVERS.items()
        if n in args.solvers
    ]
    jobs += [("DDPM", DDPM(), args.ddpm)] if args.ddpm else []
    rows = json.loads(log.read_text()) if log.exists() else []
    more = {"guidance": args.guidance} if args.guidance != 1 else {}
    more |= {"seed": args.seed} if args.seed else {}
    for name, solver, steps in jobs:
        job = {"solver": name, "steps": steps, "count": args.count} | more
        if any({key: row[key] for key in SAME if key in row} == job for row in rows):
            continue
        print(f"{name}, {steps} steps", flush=True)
        judge = Judge(features, real, METRICS)
        rows.append(measure(model, job, solver, args.batch_size, judge))
        log.write_text(json.dumps(rows, indent=1) + "\n")
    text = markdown(rows)
    (args.output / "solver_quality.md").write_text(text + "\n")
    draw(rows).save(args.output / "solver_quality.png", optimize=True)
    print(text)


if __name__ == "__main__":
    main()
