"""Judge a checkpoint of jets: as many jets as there are test jets, with their numbers of
constituents, by JetNet's metrics.

python -m benchmarks.judge_jets --checkpoint checkpoints/jets-gluon --data-root DIR            # as it samples itself
python -m benchmarks.judge_jets --checkpoint checkpoints/jets-gluon --data-root DIR --solvers  # solvers at 10 ... 200

Beside each figure stands the floor, truth against truth: validation jets in the generated ones'
place. Writes jets.json, jets.md, histograms.png and jet-images.png (solvers.json, solvers.md,
solvers.png) into --output. The times of the solvers' table are the processor's; "mass off the
flow's" is the mean error of the relative mass, seed by seed, against the adaptive solver at 1e-5:
the solver's own error, without the samples' noise.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL.Image import Image as Picture
from tqdm import tqdm

from ldm.config import SampleConfig
from ldm.diffusion.solvers import DDIM, AdaptiveODE, DPMpp2M, EulerMaruyama, Heun
from ldm.errors import guard
from ldm.evaluation.jets import (
    Trial,
    available,
    cloud,
    generate_like,
    judge,
    load_jets,
    save_record,
    sides,
)
from ldm.jets.data import Jets, JetSet
from ldm.jets.kinematics import jet_kinematics
from ldm.jets.metrics import ALL, CHEAP, Cloud, Comparison, Sample
from ldm.jets.plots import histograms, jet_images
from ldm.metrics.records import Figure
from ldm.metrics.words import for_axis
from ldm.sampling.model import Model, restore
from ldm.sampling.settings import Overrides
from ldm.scripts.flags import Parser
from ldm.system.plots import floor_line, picture, plain_ticks, say, sheet, styled

SCALES = {"w1m": 1e3, "w1p": 1e3, "w1efp": 1e5, "fpd": 1e3, "kpd": 1e6}
BUDGETS = (10, 20, 50, 100, 200)
TOLERANCES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
FIXED = {
    "DDIM": DDIM(),
    "Euler-Maruyama": EulerMaruyama(),
    "Heun": Heun("angle"),
    "Heun in sigma / alpha": Heun(),
    "DPM++2M": DPMpp2M(),
}


def scaled(name: str) -> tuple[str, float]:
    """w1m_10k -> ("w1m_10k (1e-3)", 1e3): what makes its figures readable."""
    scale = SCALES.get(name.split("_")[0], 1.0)
    return (f"{name} (1e-{len(str(int(scale))) - 1})" if scale > 1 else name), scale


def markdown(figures: dict[str, Figure]) -> str:
    lines = ["| metric | generated | truth vs. truth |", "|---|---|---|"]
    for name, f in figures.items():
        title, scale = scaled(name)
        cells = [
            f"{v * scale:.3g}" + (f" +- {s * scale:.2g}" if s is not None else "")
            for v, s in spread(f)
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(f: Figure) -> list[tuple[float, float | None]]:
    return [(f.value, f.std), (f.floor, f.floor_std)]


def main_table(model: Model, settings: SampleConfig, args: argparse.Namespace, jets: Jets) -> None:
    wanted = available(jets, args.metrics.split(",") if args.metrics else None)
    real, few, valid = sides(jets, "test", args.count)
    start = time.process_time()
    with tqdm(total=len(few), desc="generating", unit="jet", mininterval=10) as bar:
        features, seconds = generate_like(model, settings, few, args.seed, bar.update)
    busy = time.process_time() - start
    generated, names = JetSet(*features, few.jet, few.types), ("test", "generated")
    histograms(cloud(real), cloud(generated), names).save(args.output / "histograms.png")
    jet_images(cloud(real), cloud(generated), names).save(args.output / "jet-images.png")
    figures = judge(Trial(real, generated, valid, jets.kinds), wanted, args.clip)
    how = settings.solved
    rate = len(few) / seconds
    record = {
        "checkpoint": args.checkpoint,
        "step": model.step,
        "sampler": how,
        "jets": len(few),
        "real_jets": len(real),
        "floor_jets": len(valid),
        "clip": args.clip,
        "jets_per_second": rate,
        "jets_per_cpu_second": len(few) / busy,
        "threads": torch.get_num_threads(),
        "same_numbers": bool((generated.counts == few.counts).all()),
        "figures": {name: vars(figure) for name, figure in figures.items()},
    }
    save_record(args.output / "jets.json", record)
    how = f"{how}, {rate:.0f} jets/s ({len(few) / busy:.0f} a CPU second) on {torch.get_num_threads()} thread(s)"
    said = f"{len(few)} jets against {len(real)}, {how}, step {model.step}"
    text = f"{markdown(figures)}\n\n{said}\n"
    (args.output / "jets.md").write_text(text)
    print(text)


# -- solvers ---------------------------------------------------------------------------------------
def plan(settings: SampleConfig, args: argparse.Namespace) -> list[tuple[str, SampleConfig]]:
    """Each solver at each budget of evaluations; Heun takes two a step, the adaptive one what its
    tolerance needs.
    """
    rows = [
        ("adaptive ODE", replace(settings, solver=AdaptiveODE(rtol=e, atol=e), steps=1))
        for e in args.tolerances
    ]
    for budget in args.budgets:
        for name in args.only:
            solver = FIXED[name]
            rows.append(
                (
                    name,
                    replace(
                        settings,
                        solver=solver,
                        steps=(budget + 1) // 2 if isinstance(solver, Heun) else budget,
                    ),
                )
            )
    return rows


def solver_table(
    model: Model, settings: SampleConfig, args: argparse.Namespace, jets: Jets
) -> None:
    test, few, valid = sides(jets, "test", args.count)
    real, calls = Sample("test", cloud(test), args.clip), [0]
    model.denoiser.net.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    floor, rows = measure(real, cloud(valid), args.clip), []
    settings, began = replace(settings, batch_size=args.batch_size or len(few)), time.perf_counter()
    exact = None  # the flow's own jets for these seeds: the first row's, of the tightest tolerance
    for name, chosen in plan(settings, args):
        calls[0], start = 0, time.process_time()  # the processor's time: others share the machine
        generated, _ = generate_like(model, chosen, few, args.seed)
        seconds = time.process_time() - start
        batches = -(-len(few) // chosen.batch_size)
        row = {
            "solver": name,
            "evaluations": calls[0] / batches,
            "ms_per_jet": 1e3 * seconds / len(few),
        }
        masses = jet_kinematics(*generated)["mass"]
        exact = masses if exact is None else exact
        row["mass_error"] = (
            None if name == "Euler-Maruyama" else (masses - exact).abs().mean().item()
        )
        rows.append(row | measure(real, generated, args.clip))
        print(rows[-1], flush=True)
    record = {
        "checkpoint": args.checkpoint,
        "step": model.step,
        "jets": len(few),
        "real": len(test),
        "floor": floor,
    }
    save_record(
        args.output / "solvers.json", record | {"rows": rows, "threads": torch.get_num_threads()}
    )
    text = solver_markdown(rows, floor, f"{len(few)} jets against {len(test)}")
    (args.output / "solvers.md").write_text(text + "\n")
    title = f"Solvers of one checkpoint: {len(few):,} generated against {len(test):,} test jets"
    draw(rows, floor, title).save(args.output / "solvers.png", optimize=True)
    print(text, f"\n{time.perf_counter() - began:.0f} s in all")


def measure(real: Sample, generated: Cloud, clip: float | None) -> dict[str, float]:
    comparison = Comparison(real, Sample("generated", generated, clip))
    found = [item for metric in (*CHEAP, "fpd") for item in comparison.measure(metric).items()]
    return {name: value for name, (value, _) in found if name.count("_") == 1}


def solver_markdown(rows: list[dict], floor: dict[str, float], title: str) -> str:
    heads = [scaled(name) for name in floor]
    columns = [
        title,
        "evaluations",
        "ms a jet",
        "mass off the flow's (1e-3)",
        *(head for head, _ in heads),
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    numbers = lambda row: " | ".join(
        f"{row[n] * s:.2f}" for n, (_, s) in zip(floor, heads, strict=True)
    )
    for row in sorted(rows, key=lambda row: row["solver"]):
        off = "" if row["mass_error"] is None else f"{row['mass_error'] * 1e3:.2f}"
        lines.append(
            f"| {row['solver']} | {row['evaluations']:.0f} | {row['ms_per_jet']:.1f} | {off} | {numbers(row)} |"
        )
    return "\n".join([*lines, f"| truth vs. truth | | | | {numbers(floor)} |"])


@styled()
def draw(rows: list[dict], floor: dict[str, float], title: str) -> Picture:
    """W1M and FPD over evaluations, and over milliseconds a jet, logarithmic."""
    figure, axes = sheet(title, 2, 2, (9, 7.2), sharex="col", sharey="row")
    names = [next(name for name in floor if name.startswith(kind)) for kind in ("w1m", "fpd")]
    across = {"evaluations": "evaluations of the network", "ms_per_jet": "ms for a jet"}
    for i, name in enumerate(names):
        for j, (key, label) in enumerate(across.items()):
            ax, words = axes[i, j], for_axis(name)
            for solver in dict.fromkeys(row["solver"] for row in rows):
                points = sorted((row[key], row[name]) for row in rows if row["solver"] == solver)
                ax.plot(*zip(*points, strict=True), "o-", label=solver)
            floor_line(ax, floor[name])
            say(ax, label if i else "", "" if j else words, xscale="log", yscale="log")
            plain_ticks(ax.xaxis)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return picture(figure)


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument(
        "--data-root", help="the file or folder of the jets (default: where they lay in training)"
    )
    parser.add_argument(
        "--count",
        type=int,
        help="jets (default: as many as there are test jets; with --solvers 1000)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--solver", help="(default: the checkpoint's own, as its steps are)")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--metrics", help=f"some of {','.join(ALL)}")
    parser.add_argument(
        "--clip", type=float, help="cut |eta| and |phi| to it (default: as they are)"
    )
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("evaluations/jets"))
    parser.add_argument("--solvers", action="store_true", help="compare solvers")
    text = "of --solvers: evaluations, tolerances of the adaptive solver (the tightest first: the "
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help=text + "flow)")
    parser.add_argument("--tolerances", type=float, nargs="+", default=TOLERANCES)
    parser.add_argument("--only", nargs="+", choices=FIXED, default=[*FIXED])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    jets, model = load_jets(args.checkpoint, args.data_root), restore(args.checkpoint)
    settings = Overrides(args.solver, steps=args.steps, batch_size=args.batch_size).over(
        model.settings
    )
    if args.solvers:
        args.count = args.count or 1000
        solver_table(model, settings, args, jets)
    else:
        main_table(model, settings, args, jets)


if __name__ == "__main__":
    guard(main)
