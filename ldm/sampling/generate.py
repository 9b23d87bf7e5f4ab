"""From a model and settings to samples: the one path of sample.py, evaluation and the callbacks.

Sample i is a function of its seed alone: its noise comes from a generator of its own, and every
batch of a job is filled up to one size, since a convolution rounds differently for another shape.
A small job takes a small size (`sized`): between two sizes a sample's last bit may differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldm.config import SampleConfig
from ldm.diffusion import solvers
from ldm.diffusion.solvers import Watch
from ldm.errors import Refusal
from ldm.pictures.trained import expect_plain
from ldm.sampling.conditions import Condition, bind, completed
from ldm.sampling.model import Model
from ldm.system.randomness import SampleNoise

SIZES = (1, 4, 16, 64)  # of batches, below settings.batch_size


def job_settings(settings: SampleConfig, count: int) -> SampleConfig:
    """The settings for `count` samples over all processes: batches of the next of SIZES.

    At most settings.batch_size. Few sizes mean that few shapes are met.
    """
    size = next((size for size in SIZES if size >= count), settings.batch_size)
    return replace(settings, batch_size=min(size, settings.batch_size))


@torch.inference_mode()
def generate(
    model: Model,
    settings: SampleConfig,
    seeds: Sequence[int],
    condition: Condition = Condition(),
    progress: Callable[[float], object] | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Samples on the CPU, one for each seed: uint8 (N, C, H, W), or features (N, P, 3) of clouds.

    What the condition leaves open is filled in by seed (`completed`). `progress(n)` is called after
    every step, with its share of the samples, `watch` after every step of the first batch. Every
    batch is filled up to settings.batch_size. Refusal if a sample is not finite, or the model is
    trained for a task, which needs pictures.
    """
    expect_plain(model.purpose, "sampling")
    whole = completed(model, seeds, condition)
    size, done = settings.batch_size, []
    steps = len(times_of(model, settings)) - 1
    for i in range(0, len(seeds), size):
        part = list(range(i, min(i + size, len(seeds))))
        rows = (part * size)[:size]  # filled up by repeats, dropped again below
        these = whole.rows(rows)
        seen = _seen(progress, len(part) / steps, watch)
        with model.cast():
            x = _batch(model, settings, [seeds[r] for r in rows], these, seen)
        watch = None
        if not torch.isfinite(x[: len(part)]).all():
            raise Refusal(
                f"sampling gave numbers that are not finite at seed {seeds[i]}; try more steps or "
                "another solver"
            )
        with model.cast():
            done.append(model.space.finish(x, these.extras)[: len(part)])
    return torch.cat(done)


def _seen(
    progress: Callable[[float], object] | None, share: float, watch: Watch | None
) -> Watch | None:
    """What sees every step of a batch."""
    if progress is None:
        return watch

    def see(step: int, x_s: Tensor, x0_hat: Tensor) -> None:
        progress(share)
        if watch is not None:
            watch(step, x_s, x0_hat)

    return see


@dataclass(frozen=True)
class Job:
    """Samples to be made: by which model and settings, each with a seed and a condition."""

    model: Model
    settings: SampleConfig
    seeds: Sequence[int]
    condition: Condition

    @property
    def names(self) -> list[str] | None:
        """The class of each by name; None of a model without classes."""
        labels, classes = self.condition.labels, self.model.classes
        return [classes[label] for label in labels] if classes and labels is not None else None

    def rows(self, rows: Sequence[int]) -> "Job":
        """Some of them."""
        seeds = [self.seeds[i] for i in rows]
        return replace(self, seeds=seeds, condition=self.condition.rows(rows))

    def run(
        self, progress: Callable[[float], object] | None = None, watch: Watch | None = None
    ) -> Tensor:
        """The samples, as `generate` has them."""
        return generate(self.model, self.settings, self.seeds, self.condition, progress, watch)


def _batch(
    model: Model,
    settings: SampleConfig,
    seeds: Sequence[int],
    condition: Condition,
    watch: Watch | None,
) -> Tensor:
    randn = SampleNoise(seeds, model.space.shape, model.device, condition.extras.get("mask"))
    denoise = bind(model, settings, condition, len(seeds))
    times = times_of(model, settings)
    x_1 = solvers.start(model.schedule, times[0], randn())
    try:
        return solvers.sample(settings.solver, denoise, x_1, times, randn, watch)
    except solvers.Unreached as error:
        raise Refusal(f"sample: {error}") from None


def times_of(model: Model, settings: SampleConfig) -> Tensor:
    """The grid to go down; Refusal where the solver or the law has no such grid."""
    try:
        times = model.schedule.grid(settings.steps, settings.grid)
        settings.solver.bind(model.schedule, times)
    except ValueError as error:
        raise Refusal(f"sample: {error}") from None
    return times


def reverse(
    model: Model,
    settings: SampleConfig,
    seeds: Sequence[int],
    condition: Condition = Condition(),
    frames: int = 7,
) -> tuple[list[Tensor], Tensor, list[float]]:
    """Clouds on their way, in one batch: features (B, P, 3) of each frame, masks, times."""
    whole = completed(model, seeds, condition)
    times = model.schedule.grid(settings.steps, settings.grid)[1:].tolist()
    shown = sorted({round(i * (len(times) - 1) / (frames - 1)) for i in range(frames)})
    steps: list[Tensor] = []

    def watch(step: int, x_s: Tensor, x0_hat: Tensor) -> None:
        if step in shown:
            steps.append(model.space.finish(x_s, whole.extras))

    generate(model, replace(settings, batch_size=len(seeds)), seeds, whole, watch=watch)
    return steps, whole.extras["mask"], [times[i] for i in shown]
