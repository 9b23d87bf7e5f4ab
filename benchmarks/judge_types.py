"""Judge a checkpoint of several types of jets, each type by itself.

python -m benchmarks.judge_types --checkpoint checkpoints/jets-five --data-root DIR
python -m benchmarks.judge_types --checkpoint checkpoints/jets-five --data-root DIR --like

Type, pt, mass and number of constituents are drawn by the model's own joint law, as `sample.py`
draws them; with --like they are those of the test jets. Beside each figure stands the floor,
held-out jets in the generated ones' place. Writes types.json, types.md and masses.png.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image as Picture

from benchmarks.judge_jets import markdown
from ldm.config import SampleConfig
from ldm.errors import guard
from ldm.evaluation.jets import Trial, cloud, extras_of, judge, load_jets, save_record
from ldm.jets.data import Jets, JetSet
from ldm.jets.kinematics import jet_kinematics
from ldm.metrics.records import Figure
from ldm.sampling.conditions import Condition, completed
from ldm.sampling.generate import generate
from ldm.sampling.jets import space_of
from ldm.sampling.model import Model, restore
from ldm.scripts.flags import Parser
from ldm.system.plots import GENERATED, REAL, picture, say, sheet, styled
from ldm.system.progress import Bar

METRICS = "w1m,w1p,w1efp,w1tau21,w1tau32,fpd"
Masses = dict[str, tuple[np.ndarray, np.ndarray]]  # of each type, real and generated, in GeV


def made(
    model: Model, settings: SampleConfig, like: JetSet, kind: int, args: argparse.Namespace
) -> JetSet:
    """As many jets of a type as `like` has: of the model's own law, or each like a real one."""
    labels, seeds = [kind] * len(like), [args.seed + i for i in range(len(like))]
    given = Condition(labels, extras=extras_of(model, like) if args.like else {})
    whole = completed(model, seeds, given)
    with Bar(f"{model.classes[kind]} jets", len(like), "jet") as bar:
        features = generate(model, settings, seeds, whole, bar.update)
    jet = space_of(model).in_gev(whole.extras["jet"])
    return JetSet(features, whole.extras["mask"], jet, like.types)


def masses(jets: JetSet) -> np.ndarray:
    """Masses in GeV of the summed constituents."""
    return (jet_kinematics(*cloud(jets))["mass"] * jets.jet[:, 0]).numpy()


def judged(model: Model, jets: Jets, args: argparse.Namespace) -> tuple[dict, Masses]:
    """Each type's figures, and the masses behind the picture."""
    settings = replace(model.settings, batch_size=args.batch_size or model.settings.batch_size)
    figures: dict[str, dict[str, Figure]] = {}
    found: Masses = {}
    for kind, name in enumerate(jets.classes):
        real, others = (part.rows(part.types == kind) for part in (jets.test, jets.valid))
        few, others = real.rows(slice(args.count)), others.rows(slice(args.count))
        generated = made(model, settings, few, kind, args)
        trial = Trial(real, generated, others, jets.kinds)
        figures[name] = judge(trial, args.metrics.split(","), quiet=True)
        found[name] = masses(real), masses(generated)
        print(
            f"{name}: {len(few)} jets against {len(real)}\n{markdown(figures[name])}\n", flush=True
        )
    return figures, found


@styled()
def spectra(found: Masses, edges: np.ndarray) -> Picture:
    """A panel for each type: generated masses over the real ones."""
    figure, axes = sheet("Masses of generated and real jets", 1, len(found), (2.6 * len(found), 3))
    for ax, (name, (real, generated)) in zip(axes[0], found.items(), strict=True):
        for values, words, style in (
            (real, "real", {"color": REAL, "alpha": 0.35, "fill": True}),
            (generated, "generated", {"color": GENERATED, "linewidth": 1.5}),
        ):
            ax.stairs(np.histogram(values, edges, density=True)[0], edges, label=words, **style)
        say(ax, "jet mass in GeV", "density", f"{name} jets")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return picture(figure)


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data-root", help="the folder of the jets (default: as recorded)")
    parser.add_argument("--count", type=int, default=2000, help="jets of each type at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--metrics", default=METRICS)
    parser.add_argument("--like", action="store_true", help="pt, mass, number of the test jets")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("evaluations/types"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    model = restore(args.checkpoint)
    figures, found = judged(model, load_jets(args.checkpoint, args.data_root), args)
    spectra(found, np.linspace(0, 250, 63)).save(args.output / "masses.png", optimize=True)
    text = "\n\n".join(f"## {name}\n\n{markdown(of)}" for name, of in figures.items())
    (args.output / "types.md").write_text(text + "\n")
    record = {"checkpoint": args.checkpoint, "step": model.step, "like": args.like}
    named = {name: {k: vars(v) for k, v in of.items()} for name, of in figures.items()}
    save_record(args.output / "types.json", record | {"figures": named})


if __name__ == "__main__":
    guard(main)
