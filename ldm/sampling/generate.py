"""From a model and settings to samples: the one path that sample.py, evaluation and the callbacks take.

Sample i is a function of its seed alone: its noise comes from a generator of its own, and batches are filled up to one
size, because a convolution may round differently for another batch shape.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ldm.config import SampleConfig
from ldm.diffusion import solvers
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.space import Told
from ldm.diffusion.tasks import cfg
from ldm.errors import Refusal
from ldm.pictures.trained import expect_plain
from ldm.sampling.model import KEPT, Model, without
from ldm.sampling.prompts import prompts_of
from ldm.system.randomness import SampleNoise

Watch = Callable[[int, Tensor, Tensor], None]  # of every step: its index, x_s and x0_hat


@torch.inference_mode()
def generate(
    model: Model,
    settings: SampleConfig,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
    told: Told | None = None,
    watch: Watch | None = None,
    prompts: Sequence[str] | None = None,
) -> Tensor:
    """Samples on the CPU, one for each seed: uint8 (N, C, H, W), or features (N, P, 3) of clouds.

    Labels default to seed modulo classes, `told` (rows: the mask of a cloud) to what the space draws for each seed,
    prompts to the model's own in turn.
    `progress(n)` is told of every finished batch, `watch` of every step of the first.
    Refusal if a sample is not finite, or the model is trained for a task, which needs pictures.
    """
    expect_plain(model.task, "sampling")
    if labels is None and model.classes:
        labels = [seed % len(model.classes) for seed in seeds]
    told = model.space.draw(seeds, labels) if told is None else told
    if model.text is not None and prompts is None:
        prompts = prompts_of(model, seeds)
    size, done = settings.batch_size, []
    for i in range(0, len(seeds), size):
        part = list(range(i, min(i + size, len(seeds))))
        rows = (part * size)[:size]  # filled up by repeats, dropped again below
        these = {key: value[rows] for key, value in told.items()}
        if model.text is not None:
            these |= model.text.condition([prompts[r] for r in rows], next(model.denoiser.parameters()).device)
        x = _batch(model, settings, [seeds[r] for r in rows], [labels[r] for r in rows] if model.classes else None, these, watch)
        watch = None
        if not torch.isfinite(x[: len(part)]).all():
            raise Refusal(f"sampling gave numbers that are not finite at seed {seeds[i]}; try more steps or another solver")
        done.append(model.space.finish(x, these)[: len(part)])
        if progress is not None:
            progress(len(part))
    return torch.cat(done)


def _batch(
    model: Model, settings: SampleConfig, seeds: Sequence[int], labels: Sequence[int] | None, told: Told, watch: Watch | None
) -> Tensor:
    device = next(model.denoiser.parameters()).device
    randn = SampleNoise(seeds, model.space.shape, device, told.get("mask"))
    schedule = model.denoiser.schedule
    cond = {key: value.to(device) for key, value in told.items()}
    if labels is not None:
        cond["label"] = torch.tensor(labels, device=device)
    null = without(cond, torch.ones(len(seeds), dtype=torch.bool, device=device), len(model.classes))
    how = settings.guidance, tuple(settings.interval), settings.rescale
    denoise = cfg(model.denoiser, cond, null if cond.keys() - KEPT else None, *how)
    times, _ = _times(model, settings)
    try:
        return solvers.sample(settings.solver, denoise, solvers.start(schedule, times[0], randn()), times, randn, watch)
    except solvers.Unreached as error:
        raise Refusal(f"sample: {error}") from None


def _times(model: Model, settings: SampleConfig) -> tuple[Tensor, Schedule]:
    """The grid to go down, and the law; Refusal where the solver or the law has no such grid."""
    schedule = model.denoiser.schedule
    try:
        times = schedule.grid(settings.steps, settings.grid)
        settings.solver.bind(schedule, times)
    except ValueError as error:
        raise Refusal(f"sample: {error}") from None
    return times, schedule


def reverse(
    model: Model,
    settings: SampleConfig,
    seeds: Sequence[int],
    told: Told | None = None,
    frames: int = 7,
    labels: Sequence[int] | None = None,
) -> tuple[list[Tensor], Tensor, list[float]]:
    """Clouds during the reverse process, in one batch: decoded features (B, P, 3) of each frame, masks, and the times."""
    told = model.space.draw(seeds, labels) if told is None else told
    times = model.denoiser.schedule.grid(settings.steps, settings.grid)[1:].tolist()
    shown = sorted({round(i * (len(times) - 1) / (frames - 1)) for i in range(frames)})
    steps: list[Tensor] = []

    def watch(step: int, x_s: Tensor, x0_hat: Tensor) -> None:
        if step in shown:
            steps.append(model.space.finish(x_s, told))

    generate(model, replace(settings, batch_size=len(seeds)), seeds, labels, told=told, watch=watch)
    return steps, told["mask"], [times[i] for i in shown]
