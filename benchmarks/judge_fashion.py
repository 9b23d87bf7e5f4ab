"""Judge samples of a Fashion-MNIST checkpoint: the share that is its label, by a classifier whose
accuracy stands beside it.

python benchmarks/judge_fashion.py checkpoints/fashion-latent-cpu --root ../shared/data/fashion-mnist [--count 1000]

The judge is a small convolutional network, trained here on the 60,000 labelled pictures (about two
minutes on one core) and kept in checkpoints/fashion-judge.pt.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from ldm.pictures.images import FashionMNIST, ImageTensor
from ldm.sampling.generate import generate
from ldm.sampling.model import restore
from ldm.sampling.settings import Overrides
from ldm.scripts.flags import Parser
from ldm.system.batches import as_images
from ldm.system.randomness import permutation


def network() -> nn.Sequential:
    block = lambda i, o: [
        nn.Conv2d(i, o, 3, padding=1),
        nn.BatchNorm2d(o),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    return nn.Sequential(
        *block(1, 32),
        *block(32, 64),
        *block(64, 64),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(576, 10),
    )


def train(data: ImageTensor, epochs: int = 6, batch: int = 128) -> nn.Sequential:
    torch.manual_seed(0)
    net, steps = network(), epochs * len(data) // batch
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, steps)
    order = torch.cat([permutation(len(data), "judge", e) for e in range(epochs)])
    for i in tqdm(range(steps), desc="training the judge", mininterval=10):
        rows = data.__getitems__(order[i * batch : (i + 1) * batch].tolist())
        x = as_images(rows)
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
        optimiser.zero_grad()
        F.cross_entropy(net(x), rows["label"], label_smoothing=0.05).backward()
        optimiser.step()
        schedule.step()
    return net.eval()


@torch.inference_mode()
def verdict(net: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([net(as_images({"image": part})).argmax(1) for part in images.split(500)])


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--root", default="data")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data, kept = FashionMNIST(root=args.root).load(), Path("checkpoints/fashion-judge.pt")
    if kept.exists():
        judge = network()
        judge.load_state_dict(torch.load(kept, weights_only=True))
        judge.eval()
    else:
        judge = train(data.train)
        torch.save(judge.state_dict(), kept)
    model = restore(args.checkpoint)
    settings = Overrides(guidance=args.guidance, steps=args.steps).over(model.settings)
    seeds = list(range(args.seed, args.seed + args.count))
    with tqdm(total=args.count, desc="sampling", mininterval=10) as bar:
        images = generate(model, settings, seeds, progress=bar.update)
    labels = torch.tensor([s % 10 for s in seeds])
    right = verdict(judge, images) == labels
    real = data.train.images[:10_000].float()
    record = {
        "checkpoint": args.checkpoint,
        "step": model.step,
        "solver": type(settings.solver).__name__,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "count": args.count,
        "judge_accuracy_test_set": (verdict(judge, data.test.images) == data.test.labels)
        .float()
        .mean()
        .item(),
        "samples_are_their_label": right.float().mean().item(),
        "by_class": {
            name: round(right[labels == i].float().mean().item(), 3)
            for i, name in enumerate(data.classes)
        },
        "spread_ratio": (images.float().std(0).mean() / real.std(0).mean()).item(),
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
