"""Stage 2 with cached latents against encoding on the fly: training images/s of the real runs.

python -m benchmarks.latent_cache --autoencoder checkpoints/fashion-autoencoder-cpu --data-root DIR --output runs/cache.json

Two runs of `ldm.training.run.train_run`, alike but for `space.cache`, are advanced in turn, `--steps`
steps a round, by resuming; sampling and validation are off. Clocked is what lies between the end of
a segment's fourth step and of its last. The first segment of the cached run also writes the cache:
pictures encoded a second, and bytes a picture, are of that.

What can be gained is what the encoder costs beside the rest: `1 + encoding / step` of the shipped
configs' networks (one forward pass of the encoder, forward and backward of the denoiser, on
`--bound` random pictures) bounds the ratio from above.

Then the network of `--large` encodes random pictures of `--size` px on this device, for what 1.28
million of them need.
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from benchmarks.clock import Work, arguments, clock, in_turn, line, now, ratio, start, write
from ldm import config
from ldm.config import DiffusionConfig
from ldm.errors import guard
from ldm.pictures.images import Digits, FashionMNIST
from ldm.pictures.latents import LatentCache
from ldm.sampling.model import build_denoiser
from ldm.training import latents, run

IMAGENET = 1_281_167
SHIPPED = [
    f"configs/{name}.yaml"
    for name in ("digits/latent", "fashion/latent-cpu", "fashion/latent", "folder/latent")
]
WARM = 4  # steps of a segment that are not timed
# nothing but training steps; a sample of one step at a segment's ends is outside the clock
PLAIN = ["logger.mode=disabled", "trainer.options.limit_val_batches=0"]
PLAIN += [
    "sample.every=0",
    "sample.count=1",
    "sample.steps=1",
    "sample.trajectory=0",
    "trainer.devices=1",
]


class Segment(pl.Callback):
    """The time from the end of a segment's warm steps to its end, and how many pictures that were."""

    def __init__(self, device: str):
        self.device, self.steps, self.marks = device, 0, []

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self.steps += 1
        if self.steps == WARM or trainer.global_step == module.config.trainer.max_steps:
            self.marks.append((now(self.device), module.images_seen))

    @property
    def seconds_an_image(self) -> float:
        (began, seen), (ended, images) = self.marks
        return (ended - began) / (images - seen)


class Clocked:
    """train.py's run under a clock: its Trainer gets one callback more, and writing the cache is
    timed.
    """

    def __init__(self, args: argparse.Namespace, output: str):
        self.args, self.output, self.steps, self.filling = args, output, {True: 0, False: 0}, 0.0
        self.build, self.segment = run.build_trainer, Segment(args.device)
        run.build_trainer, latents.fill = self.with_clock, self.timed(latents.fill)

    def with_clock(self, *parts: Any) -> pl.Trainer:
        trainer = self.build(*parts)
        trainer.callbacks.append(self.segment)
        return trainer

    def timed(self, fill: Callable[..., None]) -> Callable[..., None]:
        def work(*parts: Any) -> None:
            self.filling = clock(lambda: fill(*parts), self.args.device)

        return work

    def advance(self, cache: bool) -> float:
        """One segment more of the run with or without the cache; seconds an image."""
        self.segment, resume = Segment(self.args.device), self.steps[cache] > 0
        self.steps[cache] += self.args.steps + WARM
        with redirect_stdout(io.StringIO()):
            run.train_run(config.load(self.args.config, self.settings(cache)), resume)
        return self.segment.seconds_an_image

    def settings(self, cache: bool) -> list[str]:
        accelerator = "cpu" if self.args.device == "cpu" else "gpu"
        own = [
            f"name={'cached' if cache else 'encoding'}",
            f"space.cache={str(cache).lower()}",
            f"output={self.output}",
        ]
        own += [f"trainer.max_steps={self.steps[cache]}", f"trainer.accelerator={accelerator}"]
        own += [f"data.root={self.args.data_root}"] if self.args.data_root else []
        return [*own, f"space.autoencoder={self.args.autoencoder}", *PLAIN]


def main() -> None:
    parser = arguments(__doc__, rounds=5, steps=20)
    parser.add_argument("--autoencoder", required=True, help="stage 1's run folder or checkpoint")
    parser.add_argument("--data-root", metavar="DIR")
    parser.add_argument("--config", default="configs/fashion/latent-cpu.yaml")
    parser.add_argument("--large", default="configs/folder/autoencoder.yaml")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--bound", type=int, default=16, help="pictures a batch for the bounds")
    args = start(parser)
    times: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as output:
        clocked = Clocked(args, output)
        for i in range(args.rounds):
            for cache in (True, False) if i % 2 else (False, True):
                times[cache].append(clocked.advance(cache))
        written = LatentCache(next(Path(output).glob("latents/*")))
        count, size = len(written), sum(part.nbytes for part in written.parts.values())
    found = {"cached over encoding, images/s": ratio(times[False], times[True])}
    rates = {name: 1 / min(times[key]) for name, key in (("cached", True), ("encoding", False))}
    print(
        "images/s, best round: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
    )
    line("cached over encoding, images/s", found["cached over encoding, images/s"], "1.5")
    cache = {"images": count, "bytes_an_image": size // count, "seconds": clocked.filling}
    cache["images_per_second"] = count / clocked.filling
    print(
        "cache: {images} pictures at {images_per_second:.0f}/s, {bytes_an_image} bytes each".format(
            **cache
        )
    )
    write(
        args,
        ratios=found,
        seconds_an_image=times,
        images_per_second=rates,
        cache=cache,
        bounds=bounds(args),
        large=large(args),
    )


def bounds(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """For every shipped config of stage 2, what its encoder costs beside a training step of its
    denoiser.
    """
    found = {}
    for path in SHIPPED:
        settings = config.load(path)
        stage1, shape = config.load(settings.space.autoencoder), shape_of(settings)
        autoencoder = stage1.network.build(shape).to(args.device).eval()
        denoiser = build_denoiser(settings, autoencoder.latent_shape, 10).to(args.device)
        image, x_0 = (
            torch.randn(args.bound, *s, device=args.device)
            for s in (shape, autoencoder.latent_shape)
        )
        t = torch.rand(args.bound, device=args.device)
        label = torch.zeros(args.bound, dtype=torch.long, device=args.device)
        encode = torch.no_grad()(lambda e=autoencoder, i=image: e.encode(i))
        step = lambda d=denoiser, x=x_0, t=t, y=label: (
            d.loss(x, t, torch.randn_like(x), label=y).mean().backward()
        )
        times = in_turn({"encoding": encode, "step": step}, args.rounds, args.device)
        share = ratio(times["encoding"], times["step"])["median"]
        found[path] = {"bound": 1 + share} | {
            name: min(spans) / args.bound for name, spans in times.items()
        }
        print(
            "{}: at most {bound:.2f} ({encoding:.5f} s an image to encode, {step:.5f} s to train)".format(
                path, **found[path]
            )
        )
    return found


def shape_of(settings: DiffusionConfig) -> tuple[int, int, int]:
    """The pictures' shape by the config alone: a folder of one's own is not at hand here."""
    known = {Digits: (1, 8, 8), FashionMNIST: (1, 28, 28)}
    return known.get(type(settings.data)) or (3, settings.data.size, settings.data.size)


@torch.inference_mode()
def large(args: argparse.Namespace) -> dict[str, float]:
    """What ImageNet at `--size` px needs, encoded by one such device."""
    stage1, shape = config.load(args.large), (3, args.size, args.size)
    autoencoder = stage1.network.build(shape).to(args.device).eval()
    orientations, batch = 1 + stage1.data.flip, 4 if args.device == "cpu" else 64
    image = torch.rand(batch, *shape, device=args.device) * 2 - 1
    work: dict[str, Work] = {
        "encode": lambda: latents.encode_orientations(autoencoder.encode, image, orientations)
    }
    rate = batch / min(in_turn(work, 3, args.device)["encode"])
    size = (
        2
        * orientations
        * 2
        * autoencoder.latent_shape[0]
        * autoencoder.latent_shape[1]
        * autoencoder.latent_shape[2]
    )
    found = {"orientations": orientations, "images_per_second": rate, "bytes_an_image": size}
    found |= {"gigabytes": size * IMAGENET / 1e9, "hours": IMAGENET / rate / 3600}
    print(
        f"{IMAGENET} pictures of {args.size} px, {orientations} orientations: {size} bytes each, {found['gigabytes']:.0f} GB; "
        f"{rate:.2f} pictures/s on this device: {found['hours']:.1f} hours"
    )
    return found


if __name__ == "__main__":
    guard(main)
