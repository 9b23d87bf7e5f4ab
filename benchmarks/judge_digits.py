"""Judge samples of a digits checkpoint: are they their label, as varied as real digits, and no
copies?

python benchmarks/judge_digits.py checkpoints/digits-latent [--guidance 2] [--count 200]

The judge is an SVC (RBF, gamma 0.001, scikit-learn's own example) trained on the 1,500 training
digits.
"""

import argparse
import json

import torch
from sklearn.svm import SVC

from ldm.pictures.images import Digits
from ldm.sampling.generate import generate
from ldm.sampling.model import restore
from ldm.sampling.settings import Overrides
from ldm.scripts.flags import Parser


def flat(images: torch.Tensor) -> torch.Tensor:
    return images.float().flatten(1) / 255 * 16


def nearest(a: torch.Tensor, b: torch.Tensor, skip_self: bool = False) -> float:
    """Median distance from the rows of a to their nearest row of b."""
    return torch.cdist(a, b).topk(2, largest=False).values[:, int(skip_self)].median().item()


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    data = Digits().load()
    x, y = flat(data.train.images), data.train.labels
    judge = SVC(gamma=0.001, C=10).fit(x, y)
    model = restore(args.checkpoint)
    settings = Overrides(guidance=args.guidance, steps=args.steps).over(model.settings)
    seeds = range(args.seed, args.seed + args.count)
    samples = flat(generate(model, settings, list(seeds)))
    labels = torch.tensor([s % 10 for s in seeds])
    record = {
        "checkpoint": args.checkpoint,
        "step": model.step,
        "guidance": settings.guidance,
        "steps": settings.steps,
        "judge_accuracy_held_out": judge.score(flat(data.test.images), data.test.labels),
        "samples_are_their_label": judge.score(samples, labels),
        "spread_ratio": (samples.std(0).mean() / x.std(0).mean()).item(),
        "nearest_training_digit": nearest(samples, x),
        "nearest_between_real": nearest(x, x, skip_self=True),
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
