"""Train the classifiers whose features and verdicts evaluate.py uses, and write them into
ldm/metrics/weights/.

python benchmarks/train_classifiers.py fashion --root ../shared/data/fashion-mnist
python benchmarks/train_classifiers.py digits
python benchmarks/train_classifiers.py mnist --root DIR

One thread: about four minutes for Fashion-MNIST or MNIST, half a minute for the digits.
"""

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F
from tqdm import tqdm

from ldm.metrics.classifier import Classifier, Facts, accuracy, rounded, save_classifier
from ldm.pictures.images import MNIST, Digits, FashionMNIST, ImageTensor
from ldm.scripts.flags import Parser
from ldm.system.randomness import generator, permutation

DATA = {"fashion": FashionMNIST, "digits": Digits, "mnist": MNIST}
EPOCHS = {"fashion": 8, "digits": 60, "mnist": 5}
FOLDER = Path(__file__).parent.parent / "ldm" / "metrics" / "weights"


def augmented(x: torch.Tensor, mirror: bool, random: torch.Generator) -> torch.Tensor:
    """Half of the clothes mirrored; digits moved by a pixel or none."""
    if mirror:
        return torch.where(torch.rand(len(x), 1, 1, 1, generator=random) < 0.5, x.flip(-1), x)
    return x.roll(tuple(torch.randint(-1, 2, (2,), generator=random).tolist()), (2, 3))


def train(net: Classifier, data: ImageTensor, epochs: int, mirror: bool, batch: int = 128) -> None:
    steps, random = epochs * len(data) // batch, generator("classifier", "augment")
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, steps)
    order = torch.cat([permutation(len(data), "classifier", e) for e in range(epochs)])
    for i in tqdm(range(steps), desc="training", mininterval=10):
        rows = order[i * batch : (i + 1) * batch]
        optimiser.zero_grad()
        logits = net(augmented(data.images[rows], mirror, random))
        F.cross_entropy(logits, data.labels[rows], label_smoothing=0.05).backward()
        optimiser.step()
        schedule.step()


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=DATA)
    parser.add_argument("--root", default="data")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--output", type=Path, default=FOLDER)
    args = parser.parse_args()
    config = Digits() if args.name == "digits" else DATA[args.name](root=args.root)
    images = config.load()
    torch.manual_seed(0)
    net = Classifier(len(images.classes), images.shape[0], images.shape[1])
    train(net, images.train, args.epochs or EPOCHS[args.name], mirror=args.name == "fashion")
    net.eval().load_state_dict(rounded(net), strict=False)  # what is measured is what is kept
    right = accuracy(net, images.test.images, images.test.labels)
    made = f"python benchmarks/train_classifiers.py {args.name}, torch {torch.__version__}"
    facts = Facts(
        type(config).__name__,
        images.classes,
        net.size,
        net.channels,
        round(right, 4),
        len(images.test),
        made,
    )
    path = args.output / f"{args.name}.safetensors"
    save_classifier(net, facts, path)
    print(
        f"{path}: {path.stat().st_size / 1000:.0f} kB, right on {right:.2%} of {len(images.test)} held-out pictures"
    )


if __name__ == "__main__":
    main()
