"""Bits a dimension of held-out pictures under a pixel model of ours, by the probability-flow ODE, at several tolerances.

python benchmarks/bits_per_dim.py checkpoints/fashion-pixel-cpu [--count 32] [--tolerance 1e-3 1e-4 1e-5] [--output FILE]

The model is conditional: the figure is that of p(picture | label), with the true label. All tolerances see the same
pictures, dequantisation and probes, so that their differences are the integration's alone; the standard error is over
pictures (with probe and dequantisation noise inside). The data are those of the checkpoint's config.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch
from tqdm import tqdm

from ldm import checkpoint
from ldm.config import from_dict
from ldm.data.images import ImageTensor
from ldm.diffusion.likelihood import Ode, bits_per_dim, dequantise, log_likelihood
from ldm.diffusion.tasks import cfg
from ldm.errors import Refusal, guard
from ldm.model import Model, restore
from ldm.randomness import generator, permutation
from ldm.spaces import PixelSpace


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--root", help="where the data are (default: the checkpoint's data.root)")
    parser.add_argument("--count", type=int, default=32, help="held-out pictures, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tolerance", type=float, nargs="+", default=[1e-3, 1e-4, 1e-5], help="rtol = atol of dopri5")
    parser.add_argument("--t-min", type=float, default=1e-5, help="where the path starts")
    parser.add_argument("--probes", type=int, default=1, help="of Hutchinson's estimate")
    parser.add_argument("--levels", type=int, default=256, help="grey levels of the data: 17 for digits")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")
    return parser.parse_args()


def held_out(data: ImageTensor, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = data.__getitems__(permutation(len(data), seed, "bits per dim")[:count].tolist())
    return rows["image"], rows["label"]


def measure(model: Model, images: torch.Tensor, labels: torch.Tensor, ode: Ode, args: argparse.Namespace) -> dict:
    """Bits a dimension of every picture at one tolerance, summed up."""
    began, bits, probe_error, calls = time.perf_counter(), [], [], 0
    for i in range(0, len(images), args.batch_size):
        # k / 255 of the file is level k (levels - 1) / 255: digits keep 17 of them
        levels = (images[i : i + args.batch_size].double() * (args.levels - 1) / 255).round()
        x_0 = dequantise(levels, args.levels, generator(args.seed, "dequantise", i)).float()
        denoise = cfg(model.denoiser, {"label": torch.as_tensor(labels[i : i + args.batch_size])} if model.classes else {})
        with tqdm(total=100, desc=f"tolerance {ode.rtol:g}", unit="%", leave=False, mininterval=5) as bar:
            told = dataclasses.replace(ode, progress=lambda t, bar=bar: bar.update(max(0, int(100 * t) - bar.n)))
            found = log_likelihood(denoise, x_0, generator(args.seed, "probes", i), args.probes, told)
        bits.append(bits_per_dim(found.nats, x_0[0].numel(), args.levels))
        probe_error.append(bits_per_dim(-found.error, x_0[0].numel(), 3))  # levels = 3: no offset
        calls += found.calls
    bits = torch.cat(bits)
    figure = {"tolerance": ode.rtol, "bits_per_dim": bits.mean().item(), "error": (bits.std() / len(bits) ** 0.5).item()}
    if args.probes > 1:
        figure["probe_error"] = (torch.cat(probe_error).square().sum().sqrt() / len(bits)).item()
    batches = -(-len(images) // args.batch_size)
    return figure | {"calls": calls / batches, "seconds": round(time.perf_counter() - began, 1), "each": bits.tolist()}


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    model = restore(args.checkpoint)
    if not isinstance(model.space, PixelSpace):
        raise Refusal(f"{args.checkpoint}: a latent model has a bound, not a likelihood (ldm.diffusion.likelihood.latent_bound)")
    state = checkpoint.read(checkpoint.find(args.checkpoint))
    data = from_dict(state["ldm"]["config"], args.checkpoint).data
    if args.root:
        data.root = args.root
    images, labels = held_out(data.load().test, args.count, args.seed)
    record = {"checkpoint": args.checkpoint, "step": model.step, "count": len(images), "seed": args.seed, "t_min": args.t_min}
    record |= {"probes": args.probes, "levels": args.levels, "given": "label" if model.classes else "nothing", "figures": []}
    for tolerance in args.tolerance:
        figure = measure(model, images, labels, Ode(tolerance, tolerance, args.t_min), args)
        record["figures"].append(figure)
        print(json.dumps({k: v for k, v in figure.items() if k != "each"}), flush=True)
    each = torch.tensor([figure["each"] for figure in record["figures"]])
    record["largest_change_of_a_picture"] = (each[1:] - each[:-1]).abs().amax(1).tolist()
    print(f"largest change of a picture from one tolerance to the next: {record['largest_change_of_a_picture']}")
    if args.output:
        Path(args.output).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    guard(main)
