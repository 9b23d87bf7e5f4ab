"""Samples of pictures on the page: live on the way, then each with its caption."""

from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm.demo.base import Click, Kind, Session, Shown, Site
from ldm.demo.limits import PICTURES, Limits, prompt_of
from ldm.demo.live import Done
from ldm.diffusion.solvers import Watch
from ldm.errors import Refusal
from ldm.pictures.grid import to_picture
from ldm.sampling.conditions import Condition, completed
from ldm.sampling.generate import Job
from ldm.sampling.model import Model
from ldm.sampling.prompts import prompts_from
from ldm.sampling.trajectory import Recorder

STRIP = 2  # samples whose way is drawn at the end
SIDE = 448  # px of a whole grid, about
EXAMPLES = 6  # prompts to click on


def grid(images: Tensor) -> Image.Image:
    """About SIDE px of uint8 pictures, whole grids of the same size for the same count."""
    columns = max(1, round(len(images) ** 0.5))
    return to_picture(images, columns, max(images.shape[-1], SIDE // columns))


def alone(image: Tensor) -> Image.Image:
    """One uint8 picture (C, H, W) at its own size: the browser enlarges it pixel by pixel."""
    if len(image) not in (1, 3):
        return to_picture(image[None], 1, 1)
    return Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())


class PictureSession(Session):
    """A click on a model of pictures."""

    def __init__(self, click: Click):
        model, seeds, settings = click.model, click.asked.seeds, click.settings
        self.prompt = prompt_of(click.site.limits, click.control)
        labels = click.words.labels(model, len(seeds))
        prompts = prompts_from(model, self.prompt, None, seeds)
        condition = completed(model, seeds, Condition(labels, prompts))
        super().__init__(click, Job(model, settings, seeds, condition))
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
        each = list(zip(map(alone, done.value), self.captions(), strict=True))
        made = Shown(grid(done.value), self.status(done), gallery=each, samples=done.value)
        made.command = command
        yield made
        with torch.inference_mode():
            made.more = self.recorder.strip()
        yield made

    def status(self, done: Done) -> str:
        """What was asked for, and how long it took."""
        seeds, text = self.job.seeds, self.job.model.text
        which = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
        status = f"**Done** in {done.seconds:.1f} s: {which}, by {self.job.settings.describe()}"
        if cut := text.cut(self.prompt) if text and self.prompt else "":
            status += f". The prompt is too long for the text encoder; left out: {cut}"
        if text is not None and self.prompt is None:
            status += ". Without a prompt each picture gets a caption of the data"
        return status


class PictureKind(Kind):
    """The page of a model of pictures."""

    modality = "pictures"
    most, first = PICTURES, 9
    key = "prompt"
    heading = "How they came about"
    edited = True

    def about(self, model: Model) -> str:
        channels, height, width = model.space.data_shape
        colour = "grey" if channels == 1 else "colour"
        where = "in the pixels themselves"
        if model.space.kind == "latent":
            where = f"in latents of {' x '.join(map(str, model.space.shape))}"
        return f"{colour} pictures of {width} x {height} pixels, {where}"

    def legend(self, site: Site) -> str:
        return (
            "The first two samples over time, three rows each. *First row*: noise is added to the "
            "finished picture, as in training. *Second*: the reverse process x_t, from noise to "
            "the picture. *Third*: x̂₀, the model's estimate of the picture at that moment."
        )

    def details(self) -> Any:
        import gradio as gr

        buttons: Any = ["download", "fullscreen"]
        return gr.Image(
            show_label=False, elem_id="more", format="png", interactive=False, buttons=buttons
        )

    def control(self, model: Model, limits: Limits) -> Any:
        return prompt_box(model, limits, "what to show; empty: captions of the data")

    def checked(self, site: Site, text: str) -> str:
        if site.model.text is None:
            raise Refusal("prompt: this model takes no prompt")
        return prompt_of(site.limits, text) or ""

    def examples(self, model: Model) -> list[str]:
        own = [one for one in dict.fromkeys(model.prompts) if 0 < len(one) <= 40]
        return own[:EXAMPLES] if model.text is not None else []

    def session(self, click: Click) -> PictureSession:
        return PictureSession(click)


def prompt_box(model: Model, limits: Limits, hint: str, name: str = "prompt") -> Any:
    """A line for a prompt, seen where the model takes one. Enter submits it."""
    import gradio as gr

    return gr.Textbox(
        label="Prompt",
        lines=1,
        max_lines=3,  # with one line to begin with Enter submits; of two it would begin another
        placeholder=hint,
        max_length=limits.prompt,
        visible=model.text is not None,
        elem_id=name,
    )
