"""Pictures of nothing but seeds: live on the way, then the samples and how they came about."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm.config import SampleConfig
from ldm.demo.limits import Asked, Limits, class_of, prompt_of
from ldm.demo.live import Done, live
from ldm.diffusion.solvers import Watch
from ldm.pictures.grid import to_picture
from ldm.sampling.conditions import Condition
from ldm.sampling.generate import generate
from ldm.sampling.model import Model
from ldm.sampling.prompts import prompts_from
from ldm.sampling.trajectory import Recorder, in_view

GUESS, STATE = "x̂₀, the model's guess", "x_t, what is still noisy"
STRIP = 2  # samples whose way is drawn at the end
SIDE = 448  # px of a whole grid, about


@dataclass
class Shown:
    """What the page shows at a moment; None leaves what is there."""

    picture: Image.Image
    status: str
    more: Image.Image | None = None  # how it came about, or histograms
    samples: Tensor | None = None  # uint8, when they are finished
    command: str | None = None


def grid(images: Tensor) -> Image.Image:
    """About SIDE px of uint8 pictures, whole grids of the same size for the same count."""
    columns = max(1, round(len(images) ** 0.5))
    return to_picture(images, columns, max(images.shape[-1], SIDE // columns))


def step_of(settings: SampleConfig, times: Tensor, step: int) -> str:
    return f"step **{step + 1}** of {len(times) - 1}, t = {times[step + 1]:.2f}, by {settings.describe()}"


def command(name: str, asked: Asked, **given: Any) -> str:
    """The same by sample.py."""
    words = [
        "python",
        "sample.py",
        "--checkpoint",
        name,
        "--solver",
        asked.solver,
        "--steps",
        asked.steps,
    ]
    words += ["--guidance", f"{asked.guidance:g}", "--seed", asked.seed, "--count", asked.count]
    words += [
        word for key, value in given.items() if value is not None for word in (f"--{key}", value)
    ]
    return shlex.join(map(str, words))


def pictures(
    model: Model,
    limits: Limits,
    name: str,
    label: str | None,
    prompt: str | None,
    shown: str,
    *numbers: Any,
) -> Iterator[Shown]:
    """`numbers`: solver, steps, guidance, seed, count. Refusal, one line, if anything of it cannot be."""
    asked = Asked.of(limits, *numbers)
    schedule, text = model.denoiser.schedule, prompt_of(limits, prompt)
    settings = asked.overrides.over(model.settings, schedule)
    labels = None if class_of(model, label) is None else [model.label(str(label))] * asked.count
    prompts = prompts_from(model, text, None, asked.seeds)
    recorder = Recorder(model, settings, asked.seeds, min(STRIP, asked.count))
    times = recorder.times

    def work(watch: Watch) -> Tensor:
        def both(step: int, x_s: Tensor, x0_hat: Tensor) -> None:
            recorder(step, x_s, x0_hat)
            watch(step, x_s, x0_hat)

        return generate(model, settings, asked.seeds, Condition(labels, prompts), watch=both)

    def draw(step: int, x_s: Tensor, x0_hat: Tensor) -> Shown:
        x = x0_hat if shown != STATE else in_view(schedule, x_s, times[step + 1])
        return Shown(grid(model.space.finish(x, {})), step_of(settings, times, step))

    for item in live(work, draw, limits.seconds):
        if not isinstance(item, Done):
            yield item
            continue
        made = finished(
            asked,
            settings,
            item,
            prompts,
            "" if text is None or model.text is None else model.text.cut(text),
        )
        made.command = command(name, asked, label=label, prompt=text)
        yield made
        with torch.inference_mode():
            made.more = recorder.strip()
        yield made


def finished(
    asked: Asked, settings: SampleConfig, done: Done, prompts: list[str] | None, cut: str
) -> Shown:
    """The samples, and what was asked for."""
    seeds = (
        f"seed {asked.seed}"
        if asked.count == 1
        else f"seeds {asked.seed} to {asked.seed + asked.count - 1}, row by row"
    )
    status = f"**Done** in {done.seconds:.1f} s: {seeds}, by {settings.describe()}"
    if cut:
        status += f". The prompt is too long for the text encoder; not heard: {cut}"
    if prompts is not None and len(set(prompts)) > 1:
        status += ". The checkpoint's own prompts: " + "; ".join(dict.fromkeys(prompts))
    return Shown(grid(done.value), status, samples=done.value)
