"""Classifier-free guidance: both sides in one batch against two calls of the network.

python -m benchmarks.guidance_batch --checkpoint checkpoints/fashion-latent

One thread on a CPU, rounds in turn, the median of the ratios: above 1, one batch is faster.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from ldm.errors import guard
from ldm.sampling.model import Model, restore
from ldm.scripts.flags import Parser


def seconds(work: Callable[[], object], cuda: bool) -> float:
    began = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


@torch.inference_mode()
def ratio(model: Model, size: int, rounds: int) -> float:
    """Time of two calls of `size` samples over that of one call of twice as many."""
    x = torch.randn(size, *model.space.shape, device=model.device)
    label = torch.arange(size, device=model.device) % len(model.classes)
    null, t = torch.full_like(label, len(model.classes)), torch.tensor(0.5, dtype=torch.float64)
    both = torch.cat([x, x]), torch.cat([label, null])

    def one() -> None:
        model.denoiser(both[0], t, label=both[1])

    def two() -> None:
        model.denoiser(x, t, label=label)
        model.denoiser(x, t, label=null)

    cuda = model.device.type == "cuda"
    one(), two()
    return statistics.median(seconds(two, cuda) / seconds(one, cuda) for _ in range(rounds))


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = restore(args.checkpoint, device=args.device)
    print("| samples | two calls over one batch |\n|---|---|")
    for size in args.sizes:
        print(f"| {size} | {ratio(model, size, args.rounds):.2f} |", flush=True)


if __name__ == "__main__":
    guard(main)
