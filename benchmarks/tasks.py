"""Tasks on held-out pictures, against what one would otherwise do, by PSNR, SSIM and feature
distance.

python -m benchmarks.tasks --checkpoint checkpoints/fashion-pixel-cpu --data-root DIR [--count 200] [--panels docs/pictures]

In-painting of a hole of 16 x 16 in the middle against biharmonic in-painting, 4x super-resolution
(from means of 4 x 4 pixels) against bicubic, de-noising of Gaussian noise, not clipped, against
non-local means given the noise's size (its strength h, 0.6 of it, had the best feature distance of
seven on 64 pictures): scikit-image's, needs pip install 'ldm[bench]'. The model is not
given the class. feature: mean squared distance between features of a picture and its truth, by the
classifier in the repo; fd: Frechet distance between the two sets, biased upwards for so few. A
checkpoint that is trained for a task does that one alone, on the same pictures. In latents the
known pixels are pasted back.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from skimage.restoration import denoise_nl_means, inpaint_biharmonic
from torch import Tensor

from ldm.checkpoints import checkpoint
from ldm.checkpoints.finding import find_checkpoint
from ldm.config import from_dict
from ldm.diffusion import tasks
from ldm.diffusion.solvers import DPMpp2MSDE
from ldm.errors import Refusal, guard
from ldm.metrics.distances import Moments, frechet_distance
from ldm.metrics.features import choose
from ldm.metrics.images import psnr, ssim
from ldm.pictures.trained import SuperResolve
from ldm.sampling.model import Model, restore
from ldm.scripts.flags import Parser
from ldm.system.batches import as_bytes, as_images
from ldm.system.randomness import generator, permutation
from ldm.tasks import Denoising, InPainting, SuperResolution
from ldm.tasks.cases import Case
from ldm.tasks.denoising import mean_picture
from ldm.tasks.inpainting import paste
from ldm.tasks.output import TRUTH, Result, panel
from ldm.tasks.prior import Prior

HOLE, FACTOR, NOISES, SHOWN = 16, 4, (0.25, 0.5), 5
TITLES = {
    "inpaint": f"In-painting of {HOLE} x {HOLE} pixels",
    "super-resolve": f"Super-resolution, {FACTOR} x",
    **{f"denoise-{std:g}": f"De-noising of Gaussian noise, std {std:g}" for std in NOISES},
}


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument(
        "--data-root", help="where the data are (default: the checkpoint's data.root)"
    )
    parser.add_argument(
        "--count", type=int, default=200, help="held-out pictures, drawn by the seed"
    )
    parser.add_argument(
        "--samples", type=int, default=2, help="for de-noising in latents: the mean of so many"
    )
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument(
        "--denoise-steps", type=int, default=6, help="they start lower down than t = 1"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--features", default="auto")
    parser.add_argument("--panels", metavar="DIR", help="write a panel for each task")
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")
    return parser.parse_args()


def each(function: Callable, pictures: Tensor) -> Tensor:
    """A function of one grey or colour picture (H, W[, C]), as scikit-image has them, for a batch."""
    made = [
        torch.as_tensor(function(picture.permute(1, 2, 0).numpy())).reshape(*picture.shape[1:], -1)
        for picture in pictures
    ]
    return torch.stack(made).permute(0, 3, 1, 2).float().clamp(-1, 1)


class Bench:
    """The pictures, the model, and the table as it grows."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.model = args, restore(args.checkpoint)
        state = checkpoint.read_checkpoint(find_checkpoint(args.checkpoint))
        data = from_dict(state["ldm"]["config"], args.checkpoint).data
        data.root = args.data_root or data.root
        held = data.load().test
        rows = permutation(len(held), args.seed, "tasks")[: args.count].tolist()
        self.truth = as_images(held.__getitems__(rows))
        self.features = choose(args.features, type(data).__name__)
        self.real = self.features(as_bytes(self.truth))
        self.rows: list[dict] = []

    def measure(self, task: str, how: str, made: Tensor, began: float) -> None:
        seen = self.features(as_bytes(made))
        row = {
            "task": task,
            "how": how,
            "psnr": psnr(self.truth, made).mean().item(),
            "ssim": ssim(self.truth, made).item(),
            "feature": (seen - self.real).square().mean().item(),
            "fd": frechet_distance(Moments.of(seen), Moments.of(self.real)),
            "seconds": round(time.perf_counter() - began, 1),
        }
        self.rows.append(row)
        figures = "{psnr:.2f} dB | {ssim:.3f} | {feature:.4f} | {fd:.2f} | {seconds}".format(**row)
        print(f"| {task} | {how} | {figures} |", flush=True)

    def batches(
        self, function: Callable[[Prior, slice], Tensor], sample: int = 0, steps: int = 0
    ) -> Tensor:
        """`function(prior, rows)` over all pictures; a picture's seed is its row and the number of
        its sample.
        """
        settings = dataclasses.replace(
            self.model.settings, solver=DPMpp2MSDE(), steps=steps or self.args.steps
        )
        done, n = [], len(self.truth)
        for start in range(0, n, self.args.batch_size):
            rows = slice(start, min(start + self.args.batch_size, n))
            seeds = range(sample * n + rows.start, sample * n + rows.stop)
            done.append(function(Prior(self.model, settings, seeds), rows))
        return torch.cat(done)

    def show(
        self, name: str, given: Tensor, plain: tuple[str, Tensor], made: dict[str, Tensor]
    ) -> None:
        if self.args.panels:
            columns = {"given": given, plain[0]: plain[1]} | made | {TRUTH: self.truth}
            results = [
                Result("", {k: v[i] for k, v in columns.items()}, self.truth[:0], [])
                for i in range(SHOWN)
            ]
            how = "trained" if self.model.purpose.use else self.model.space.kind
            file = Path(self.args.panels, f"task-{name}-{how}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            title = f"{TITLES[name]}: held-out pictures, model {self.args.checkpoint}"
            panel(results, title).save(file, optimize=True)


def inpainting(bench: Bench, model: Model) -> None:
    truth, began = bench.truth, time.perf_counter()
    known = torch.ones_like(truth[:1, :1])
    top, left = ((side - HOLE) // 2 for side in truth.shape[2:])
    known[..., top : top + HOLE, left : left + HOLE] = 0
    hole, axis = (known[0, 0] == 0).numpy(), -1
    plain = each(
        lambda picture: inpaint_biharmonic(picture, hole, channel_axis=axis), truth * known
    )
    bench.measure("in-painting", "biharmonic", plain, began)
    made, holes = {}, known.expand(len(truth), -1, -1, -1)
    for method in InPainting.offered(model)[:2]:
        began, task = time.perf_counter(), InPainting(method).of(model)
        drawn = bench.batches(
            lambda prior, rows, task=task: task.batch(prior, Case("", truth[rows], holes[rows]))
        )
        made[method] = paste(drawn, truth, known)
        bench.measure("in-painting", method, made[method], began)
    bench.show("inpaint", torch.where(known > 0, truth, 1), ("biharmonic", plain), made)


def super_resolution(bench: Bench, model: Model) -> None:
    if isinstance(model.purpose, SuperResolve) and model.purpose != SuperResolve(FACTOR):
        raise Refusal(
            f"{bench.args.checkpoint} is trained for {model.purpose}, here it is {SuperResolve(FACTOR)}"
        )
    small, began = tasks.AveragePool(FACTOR)(bench.truth), time.perf_counter()
    plain = torch.nn.functional.interpolate(small, scale_factor=FACTOR, mode="bicubic").clamp(-1, 1)
    bench.measure("super-resolution", "bicubic", plain, began)
    made = {}
    for method in SuperResolution.offered(model):
        began, task = time.perf_counter(), SuperResolution(method, factor=FACTOR).of(model)
        made[method] = bench.batches(
            lambda prior, rows, task=task: task.batch(prior, Case("", small[rows]))
        )
        bench.measure("super-resolution", method, made[method], began)
    bench.show("super-resolve", tasks.AveragePool(FACTOR).pinv(small), ("bicubic", plain), made)


def denoising(bench: Bench, model: Model, std: float) -> None:
    name, latent = f"de-noising, {std:g}", model.space.kind == "latent"
    noisy = bench.truth + std * torch.randn(
        bench.truth.shape, generator=generator(bench.args.seed, "noise", str(std))
    )
    bench.measure(name, "nothing", noisy.clamp(-1, 1), time.perf_counter())
    settings, began = (
        dict(patch_size=3, patch_distance=9, h=0.6 * std, sigma=std, channel_axis=-1),
        time.perf_counter(),
    )
    plain = each(lambda picture: denoise_nl_means(picture, **settings), noisy)
    bench.measure(name, "non-local means", plain, began)
    began = time.perf_counter()
    task = Denoising().of(model)
    case = lambda rows: Case("", noisy[rows], noise_std=std)
    draw = lambda i: bench.batches(
        lambda prior, rows: task.batch(prior, case(rows)),
        i,
        bench.args.denoise_steps,
    )
    samples = [draw(i) for i in range(bench.args.samples if latent else 1)]
    bench.measure(
        name,
        f"{task.method}, mean of {len(samples)}" if latent else f"{task.method}, a sample",
        sum(samples) / len(samples),
        began,
    )
    made = {"a sample": samples[0]}
    if latent:
        made[f"mean of {len(samples)} samples"] = sum(samples) / len(samples)
        bench.measure(name, f"{task.method}, a sample", samples[0], began)
    else:
        began = time.perf_counter()
        made["posterior mean"] = bench.batches(lambda prior, rows: mean_picture(prior, case(rows)))
        bench.measure(name, "posterior mean, one call", made["posterior mean"], began)
    bench.show(f"denoise-{std:g}", noisy, ("non-local means", plain), made)


@torch.no_grad()
def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    bench = Bench(args)
    print(
        f"{args.checkpoint}, step {bench.model.step}: {args.count} pictures, {args.steps} steps, {args.denoise_steps} to de-noise"
    )
    print("| task | how | PSNR | SSIM | feature | fd | seconds |\n|---|---|---|---|---|---|---|")
    if Denoising.offered(bench.model):
        for std in NOISES:
            denoising(bench, bench.model, std)
    if SuperResolution.offered(bench.model):
        super_resolution(bench, bench.model)
    if InPainting.offered(bench.model):
        inpainting(bench, bench.model)
    if args.output:
        record = {
            "checkpoint": args.checkpoint,
            "step": bench.model.step,
            "features": bench.features.hash,
        }
        Path(args.output).write_text(
            json.dumps(record | vars(args) | {"figures": bench.rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    guard(main)
