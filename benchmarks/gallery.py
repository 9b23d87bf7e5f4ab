"""The pictures of README and docs that no other command writes, from the models in the box.

python -m benchmarks.gallery banner --jets FILE            # docs/pictures/banner.png, README's top
python -m benchmarks.gallery real reconstructions --fashion DIR
python -m benchmarks.gallery curves                        # from the tables of docs/lecture.md and docs/results.md

banner: a forward and a reverse process, emoji from prompts, the mass of generated jets against
held-out ones. real: held-out clothes in the layout of the samples. reconstructions: held-out
clothes and what stage 1 makes of them. curves: the plots of two tables, where the records of the
runs are gone and their figures stand in the docs.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks import latent_vs_pixel, solver_quality
from benchmarks.clock import ROOT
from ldm.config import SampleConfig
from ldm.diffusion.solvers import Heun
from ldm.errors import guard
from ldm.evaluation.jets import cloud, generate_like, load_jets
from ldm.jets.metrics import Cloud
from ldm.jets.plots import quantities, values
from ldm.pictures.images import FashionMNIST
from ldm.pictures.labels import Labels, gallery, labelled
from ldm.sampling.conditions import Condition, completed
from ldm.sampling.generate import Job, generate
from ldm.sampling.model import restore
from ldm.sampling.trajectory import FORWARD, REVERSE, Recorder
from ldm.scripts.flags import Parser
from ldm.system.batches import as_bytes, as_floats
from ldm.system.plots import DPI, GENERATED, REAL, picture, say, sheet, styled

PICTURES, BOX = ROOT / "docs" / "pictures", ROOT / "checkpoints"
PROMPTS = ["rocket", "slice of pizza", "strawberry", "dog face"]
TITLE = "Clothes to noise and back, by latent diffusion (noise as its decoder shows it)"
FRAMES, GAP = 10, 14  # columns of the strip; px between the parts
CLASSES, EACH = 10, 6  # rows of the grid of real pictures
FLOOR = 0.82  # Fréchet distance of 1,000 real pictures, docs/lecture.md


# -- banner ----------------------------------------------------------------------------------------
def strip() -> Image.Image:
    """One sample of the clothes, from data to noise and back."""
    model = restore(BOX / "fashion-latent")
    job = Job(model, model.settings, [9], completed(model, [9], Condition()))
    way = Recorder(model, job.settings, job.seeds, 1)
    job.run(watch=way)
    rows, times = way.rows(FRAMES)
    said = [f"t = {t:.2f}" for t in times.tolist()]
    pictures = torch.cat([rows[0].flip(0), rows[1]]).flatten(0, 1)
    return labelled(pictures, FRAMES, Labels(TITLE, [said[::-1], said], [FORWARD, REVERSE]))


def emoji(rows: int = 2) -> Image.Image:
    """Emoji from prompts, a column each."""
    model, seeds = restore(BOX / "emoji-noto"), list(range(rows * len(PROMPTS)))
    prompts = PROMPTS * rows
    settings = SampleConfig(guidance=2.0, batch_size=len(seeds))
    images = generate(model, settings, seeds, Condition(prompts=prompts))
    return gallery(images, prompts, "Emoji drawn from prompts")


def jets(file: str, count: int) -> tuple[Cloud, Cloud]:
    """Held-out gluon jets, and as many generated ones."""
    path = BOX / "jets-gluon"
    few = load_jets(path, file).test.first(count)
    settings = SampleConfig(solver=Heun("angle"), steps=25, batch_size=500)
    return cloud(few), generate_like(restore(path), settings, few)[0]


@styled()
def mass(real: Cloud, generated: Cloud, size: tuple[float, float]) -> Image.Image:
    """The relative mass of both."""
    figure, axes = sheet(f"{len(real.mask):,} gluon jets: their mass", size=size)
    ax, of = axes[0, 0], quantities(real.mask.shape[1])["mass"]
    width = of.edges[1] - of.edges[0]
    for jets, name, style in (
        (real, "held out", {"color": REAL, "alpha": 0.35, "fill": True}),
        (generated, "generated", {"color": GENERATED}),
    ):
        found = torch.histogram(
            torch.as_tensor(values(jets)["mass"]).float(), torch.as_tensor(of.edges).float()
        ).hist
        ax.stairs(found.numpy() / len(jets.mask) / width, of.edges, label=name, **style)
    say(ax, of.name, "density", xlim=(0, 0.2))
    ax.legend()
    return picture(figure)


def banner(args: argparse.Namespace) -> Image.Image:
    """The strip above, emoji and jets below it."""
    above, left = strip(), emoji()
    whole = Image.new("RGB", (above.width, above.height + GAP + left.height), "white")
    size = (above.width - left.width - GAP) / DPI, left.height / DPI
    right = mass(*jets(args.jets, args.count), size)
    for part, place in (
        (above, (0, 0)),
        (left, (0, above.height + GAP)),
        (right, (whole.width - right.width, above.height + GAP)),
    ):
        whole.paste(part, place)
    return whole.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


# -- clothes ---------------------------------------------------------------------------------------
def real(args: argparse.Namespace) -> Image.Image:
    """Held-out clothes, a column for each class: the first of each."""
    data = FashionMNIST(root=args.fashion).load()
    rows: list[list[int]] = [[] for _ in range(CLASSES)]
    for i in range(1000):
        rows[int(data.test[i]["label"])].append(i)
    chosen = [rows[c][r] for r in range(EACH) for c in range(CLASSES)]
    names = [data.classes[c] for c in range(CLASSES)] * EACH
    return gallery(data.test.__getitems__(chosen)["image"], names, "Real pictures, held out")


@torch.no_grad()
def reconstructions(args: argparse.Namespace) -> Image.Image:
    """Held-out clothes, and what stage 1 of the model in the box makes of them."""
    model, images = (
        restore(BOX / "fashion-latent"),
        FashionMNIST(root=args.fashion).load().shown(10),
    )
    autoencoder: Any = model.space.autoencoder
    mean = autoencoder.encode(as_floats(images)).chunk(2, 1)[0]
    pairs = torch.cat([as_bytes(images), as_bytes(autoencoder.decode(mean))])
    title = "Held-out pictures and what is decoded from their latents, 4 x 8 x 8"
    return labelled(pairs, len(images), Labels(title, rows=("held out", "decoded")))


# -- curves ----------------------------------------------------------------------------------------
def numbers(text: str) -> list[float]:
    """All numbers of a cell, 1,000 as 1000."""
    return [float(n.replace(",", "")) for n in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)]


def table(page: str, first: str) -> list[list[str]]:
    """The cells of the table of a page of docs that has a row which begins so."""
    found = [
        t for t in (ROOT / "docs" / page).read_text().split("\n\n") if f"\n| {first}" in f"\n{t}"
    ]
    return [[c.strip() for c in line.strip("|").split("|")] for line in found[0].splitlines()]


def solvers() -> Image.Image:
    """Of docs/lecture.md."""
    (heads, _, *lines), rows = table("lecture.md", "solver | 9 or 10 evaluations"), []
    for name, *cells in lines:
        for head, cell in zip(heads[1:], cells, strict=True):
            if cell:
                calls = numbers(head)[0 if name == "Heun" else -1]
                figure = {"value": numbers(cell)[0], "floor": FLOOR}
                row = {"solver": name, "evaluations": calls}
                rows.append(row | {"figures": {"fd_fashion_1k": figure}})
    return solver_quality.draw(rows)


def equal_time() -> Image.Image:
    """Of docs/results.md."""
    lines = {line[0]: line[1:] for line in table("results.md", "FD of 1,000 samples after")}
    curve = next(key for key in lines if key.startswith("FD of 1,000"))
    speed = next(key for key in lines if key.startswith("samples/s"))
    common = {"metric": "fd_fashion_1k", "floor": FLOOR, "count": 1}
    sides = {}
    for side, after, rates in zip(("latent", "pixel"), lines[curve], lines[speed], strict=True):
        seconds, steps = numbers(curve)[1:], numbers(speed)[:3]
        per_second, found = numbers(rates)[:3], numbers(rates)[3:]
        sides[side] = {
            "curve": [
                common | {"spent": s, "value": v}
                for s, v in zip(seconds, numbers(after), strict=True)
            ],
            "sampling": [
                common | {"steps": int(n), "seconds": 1 / r, "value": v}
                for n, r, v in zip(steps, per_second, found, strict=True)
            ],
        }
    return latent_vs_pixel.draw(sides)


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made = ("banner", "real", "reconstructions", "curves")
    parser.add_argument("pictures", nargs="+", choices=made)
    parser.add_argument("--fashion", default="data", help="the folder of Fashion-MNIST's files")
    parser.add_argument("--jets", help="the file of the jets (default: where it lay in training)")
    parser.add_argument("--count", type=int, default=2000, help="jets of the banner")
    parser.add_argument("--output", type=Path, default=PICTURES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    draw = {
        "banner": {"banner": lambda: banner(args)},
        "real": {"fashion-real": lambda: real(args)},
        "reconstructions": {"fashion-reconstructions": lambda: reconstructions(args)},
        "curves": {"fashion-solvers": solvers, "latent_vs_pixel": equal_time},
    }
    for name in args.pictures:
        for file, function in draw[name].items():
            function().save(path := args.output / f"{file}.png", optimize=True)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    guard(main)
