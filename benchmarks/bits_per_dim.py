"""Bits a dimension of held-out pictures under a model of ours, by the probability-flow ODE, at
several tolerances.

python benchmarks/bits_per_dim.py checkpoints/fashion-pixel-cpu [--count 32] [--tolerance 1e-3 1e-4 1e-5] [--output FILE]

A pixel model has a likelihood. A latent model has an upper bound of it alone, with the
autoencoder's own terms: at one z of the encoder's posterior, log p(x|z) + log p(z) - log q(z|x),
p(x|z) a Gaussian about the decoded picture whose width is the root mean square of the error on
training pictures.

The model is conditional: the figure is that of p(picture | label), with the true label. All
tolerances see the same pictures, dequantisation and probes, so that their differences are the
integration's alone; the standard error is over pictures (with probe and dequantisation noise
inside). The data are those of the checkpoint's config.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from ldm.checkpoints import checkpoint
from ldm.checkpoints.finding import find_checkpoint
from ldm.config import from_dict
from ldm.diffusion.flow import Ode
from ldm.diffusion.likelihood import (
    Encoded,
    Likelihood,
    bits_per_dim,
    dequantise,
    latent_bound,
    log_likelihood,
)
from ldm.diffusion.tasks import cfg
from ldm.errors import guard
from ldm.pictures.images import ImageTensor
from ldm.pictures.space import LatentSpace, PixelSpace
from ldm.sampling.model import Model, restore
from ldm.scripts.flags import Parser
from ldm.system.batches import as_images
from ldm.system.randomness import generator, permutation


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--root", help="where the data are (default: the checkpoint's data.root)")
    parser.add_argument(
        "--count", type=int, default=32, help="held-out pictures, drawn by the seed"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tolerance",
        type=float,
        nargs="+",
        default=[1e-3, 1e-4, 1e-5],
        help="rtol = atol of dopri5",
    )
    parser.add_argument("--t-min", type=float, default=1e-5, help="where the path starts")
    parser.add_argument("--probes", type=int, default=1, help="of Hutchinson's estimate")
    parser.add_argument(
        "--levels", type=int, default=256, help="grey levels of the data: 17 for digits"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")
    return parser.parse_args()


def held_out(data: ImageTensor, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = data.__getitems__(permutation(len(data), seed, "bits per dim")[:count].tolist())
    return rows["image"], rows["label"]


def bounded(
    space: PixelSpace | LatentSpace,
    x: torch.Tensor,
    log_p: Callable[[torch.Tensor], Likelihood],
    decoder_std: float,
    random: torch.Generator,
) -> tuple[Likelihood, torch.Tensor]:
    """The diffusion model's likelihood of x, or of its latents; and log p(x) or the bound of it,
    nats.
    """
    if isinstance(space, PixelSpace):
        found = log_p(x)
        return found, found.nats
    mean, std = posterior(space, x)
    found = []
    nats = latent_bound(
        x,
        Encoded(mean, std),
        lambda z: found.append(log_p(z)) or found[0].nats,
        space.decode,
        decoder_std,
        torch.randn(mean.shape, generator=random),
    )
    return found[0], nats


@torch.no_grad()
def posterior(space: LatentSpace, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of q(z|x), whitened as the diffusion model sees z."""
    mean, logvar = space.autoencoder.encode(x).chunk(2, 1)
    scale = space.std[:, None, None]
    return (mean - space.mean[:, None, None]) / scale, (0.5 * logvar).exp() / scale


def reconstruction_error(space: LatentSpace, data: ImageTensor, count: int, seed: int) -> float:
    """Root mean square of x - decode(z), z of the posterior, over training pictures: the best width
    of p(x|z).
    """
    x = as_images({"image": held_out(data, count, seed)[0]})
    mean, std = posterior(space, x)
    z = mean + std * torch.randn(mean.shape, generator=generator(seed, "width"))
    return (x - space.decode(z)).square().mean().sqrt().item()


def measure(
    model: Model,
    images: torch.Tensor,
    labels: torch.Tensor,
    ode: Ode,
    decoder_std: float,
    args: argparse.Namespace,
) -> dict:
    """Bits a dimension of every picture at one tolerance, summed up."""
    began, bits, probe_error, calls = time.perf_counter(), [], [], 0
    for i in range(0, len(images), args.batch_size):
        # k / 255 of the file is level k (levels - 1) / 255: digits keep 17 of them
        levels = (images[i : i + args.batch_size].double() * (args.levels - 1) / 255).round()
        x = dequantise(levels, args.levels, generator(args.seed, "dequantise", i)).float()
        denoise = cfg(
            model.denoiser,
            {"label": torch.as_tensor(labels[i : i + args.batch_size])} if model.classes else {},
        )
        with tqdm(
            total=100, desc=f"tolerance {ode.rtol:g}", unit="%", leave=False, mininterval=5
        ) as bar:
            chosen = dataclasses.replace(
                ode, progress=lambda t, bar=bar: bar.update(max(0, int(100 * t) - bar.n))
            )
            log_p = lambda x_0, i=i, denoise=denoise, ode=chosen: log_likelihood(
                denoise, x_0, generator(args.seed, "probes", i), args.probes, ode
            )
            found, nats = bounded(
                model.space, x, log_p, decoder_std, generator(args.seed, "posterior", i)
            )
        bits.append(bits_per_dim(nats, x[0].numel(), args.levels))
        probe_error.append(bits_per_dim(-found.error, x[0].numel(), 3))  # levels = 3: no offset
        calls += found.calls
    bits = torch.cat(bits)
    figure = {
        "tolerance": ode.rtol,
        "bits_per_dim": bits.mean().item(),
        "error": (bits.std() / len(bits) ** 0.5).item(),
    }
    if args.probes > 1:
        figure["probe_error"] = (torch.cat(probe_error).square().sum().sqrt() / len(bits)).item()
    batches = -(-len(images) // args.batch_size)
    return figure | {
        "calls": calls / batches,
        "seconds": round(time.perf_counter() - began, 1),
        "each": bits.tolist(),
    }


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    model = restore(args.checkpoint)
    state = checkpoint.read_checkpoint(find_checkpoint(args.checkpoint))
    data = from_dict(state["ldm"]["config"], args.checkpoint).data
    if args.root:
        data.root = args.root
    loaded = data.load()
    images, labels = held_out(loaded.test, args.count, args.seed)
    latent = isinstance(model.space, LatentSpace)
    decoder_std = reconstruction_error(model.space, loaded.train, 512, args.seed) if latent else 0.0
    record = {
        "checkpoint": args.checkpoint,
        "step": model.step,
        "count": len(images),
        "seed": args.seed,
        "t_min": args.t_min,
    }
    record |= {
        "probes": args.probes,
        "levels": args.levels,
        "given": "label" if model.classes else "nothing",
        "figures": [],
    }
    record |= (
        {"what": "upper bound", "decoder_std": decoder_std} if latent else {"what": "likelihood"}
    )
    for tolerance in args.tolerance:
        figure = measure(
            model, images, labels, Ode(tolerance, tolerance, args.t_min), decoder_std, args
        )
        record["figures"].append(figure)
        print(json.dumps({k: v for k, v in figure.items() if k != "each"}), flush=True)
    each = torch.tensor([figure["each"] for figure in record["figures"]])
    record["largest_change_of_a_picture"] = (each[1:] - each[:-1]).abs().amax(1).tolist()
    print(f"{record['what']}; p(x|z) of width {decoder_std:.4f}" if latent else record["what"])
    print(
        f"largest change of a picture from one tolerance to the next: {record['largest_change_of_a_picture']}"
    )
    if args.output:
        Path(args.output).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    guard(main)
