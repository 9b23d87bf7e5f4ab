"""Samples of pictures on the page: live on the way, then the grid and its settings."""

from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm.demo.base import Click, Kind, Session, Shown
from ldm.demo.limits import PICTURES, Limits, prompt_of
from ldm.demo.live import Done
from ldm.diffusion.solvers import Watch
from ldm.pictures.grid import to_picture
from ldm.sampling.conditions import Condition
from ldm.sampling.generate import Job
from ldm.sampling.model import Model
from ldm.sampling.prompts import prompts_from
from ldm.sampling.trajectory import Recorder

STRIP = 2  # samples whose way is drawn at the end
SIDE = 448  # px of a whole grid, about


def grid(images: Tensor) -> Image.Image:
    """About SIDE px of uint8 pictures, whole grids of the same size for the same count."""
    columns = max(1, round(len(images) ** 0.5))
    return to_picture(images, columns, max(images.shape[-1], SIDE // columns))


class PictureSession(Session):
    """A click on a model of pictures."""

    def __init__(self, click: Click):
        model, seeds, settings = click.model, click.asked.seeds, click.settings
        self.prompt = prompt_of(click.limits, click.control)
        labels = click.words.labels(model, len(seeds))
        prompts = prompts_from(model, self.prompt, None, seeds)
        super().__init__(click, Job(model, settings, seeds, Condition(labels, prompts)))
        self.recorder = Recorder(model, settings, seeds, min(STRIP, len(seeds)))

    def work(self, watch: Watch) -> Tensor:
        def both(step: int, x_s: Tensor, x0_hat: Tensor) -> None:
            self.recorder(step, x_s, x0_hat)
            watch(step, x_s, x0_hat)

        return super().work(both)

    def picture(self, x: Tensor) -> Image.Image:
        return grid(self.job.model.space.finish(x, {}))

    def finished(self, done: Done) -> Iterator[Shown]:
        command = self.click.command(prompt=self.prompt)
        made = Shown(grid(done.value), self.status(done), samples=done.value, command=command)
        yield made
        with torch.inference_mode():
            made.more = self.recorder.strip()
        yield made

    def status(self, done: Done) -> str:
        """What was asked for, and how long it took."""
        seeds, text, prompts = self.job.seeds, self.job.model.text, self.job.condition.prompts
        which = f"seeds {seeds[0]} to {seeds[-1]}, row by row"
        which = f"seed {seeds[0]}" if len(seeds) == 1 else which
        status = f"**Done** in {done.seconds:.1f} s: {which}, by {self.job.settings.describe()}"
        if cut := text.cut(self.prompt) if text and self.prompt else "":
            status += f". The prompt is too long for the text encoder; left out: {cut}"
        if prompts is not None and len(set(prompts)) > 1:
            status += ". The checkpoint's own prompts: " + "; ".join(dict.fromkeys(prompts))
        return status


class PictureKind(Kind):
    """The page of a model of pictures."""

    modality = "pictures"
    most, first = PICTURES, 9
    heading = "How they came about"
    legend = (
        "The first two samples over time, three rows each. *First row*: from the finished picture "
        "to noise, as in training. *Second*: the way back, x_t, from noise to the picture. "
        "*Third*: x̂₀, what the model took x_t for at that moment."
    )
    height = 470
    edited = True

    def about(self, model: Model) -> str:
        channels, height, width = model.space.data_shape
        colour = "grey" if channels == 1 else "colour"
        where = "in the pixels themselves"
        if model.space.kind == "latent":
            where = f"in latents of {' x '.join(map(str, model.space.shape))}"
        return f"{colour} pictures of {width} x {height} pixels, {where}"

    def control(self, model: Model, limits: Limits) -> Any:
        import gradio as gr

        return gr.Textbox(
            label="Prompt",
            lines=2,
            placeholder="what to show; empty: some captions of the data",
            max_length=limits.prompt,
            visible=model.text is not None,
        )

    def session(self, click: Click) -> PictureSession:
        return PictureSession(click)
