"""Tasks on a picture: what a visitor gave, made to fit; the task live; sample.py's panel of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.demo.base import Shown
from ldm.demo.limits import Asked, Limits, class_of, number, prompt_of, whole_number
from ldm.demo.live import Done, live
from ldm.demo.samples import grid
from ldm.diffusion.solvers import Watch
from ldm.errors import Refusal, one_of
from ldm.pictures.opening import TooLarge, Unreadable
from ldm.pictures.transforms import fitted
from ldm.sampling.conditions import Condition
from ldm.sampling.model import Model
from ldm.system.batches import as_bytes, as_floats
from ldm.tasks import TASKS
from ldm.tasks.base import Task
from ldm.tasks.cases import Case
from ldm.tasks.inputs import view_of
from ldm.tasks.options import Control
from ldm.tasks.output import panel
from ldm.tasks.prior import Prior

CANVAS = 448  # px of the picture that is drawn on, about


def on_page() -> dict[str, type[Task]]:
    """The tasks that the page has, by name."""
    return {task.name: task for task in TASKS if task.page}


def upload(model: Model, limits: Limits, path: str | Path) -> Tensor:
    """A file as uint8 (C, H, W) of the model, read as in training.

    Its size is known before its pixels are.
    """
    path, view = Path(path), view_of(model)
    if (size := path.stat().st_size) > limits.upload:
        raise Refusal(f"upload: {size / 1e6:.1f} MB, at most {limits.upload / 1e6:g} MB are taken")
    try:
        picture, (width, height), _ = view.load(path, limits.pixels)
        times = view.size[0] // width
        # as it is: it may be asked to be enlarged
        small = times > 1 and (width * times, height * times) == view.size
        return view.scaled((height, width)).read(path) if small else picture
    except TooLarge as why:
        raise Refusal(f"upload: {why} are not taken; shrink it") from None
    except Unreadable as why:
        raise Refusal(f"upload: the picture cannot be read: {why}") from None


def resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (C, H, W) scaled to a width and height."""
    if picture.shape[:0:-1] == size:
        return picture
    pixels = picture.permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[..., 0] if len(picture) == 1 else pixels)
    scaled = torch.from_numpy(np.array(fitted(image, size, "crop")))
    return scaled.reshape(size[1], size[0], len(picture)).permute(2, 0, 1)


def enlarged(picture: Tensor) -> Image.Image:
    """uint8 (C, H, W), each pixel a square, on a canvas of about CANVAS px."""
    factor = max(1, CANVAS // max(picture.shape[1:]))
    pixels = picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return Image.fromarray(pixels.permute(1, 2, 0).expand(-1, -1, 3).numpy())


def drawn(layers: Sequence[np.ndarray], size: tuple[int, int]) -> Tensor:
    """Layers (h, w, 4) of strokes -> known, (1, H, W) of 0 and 1, for a width and height.

    A pixel is to be made if half of it is drawn over.
    """
    alpha = [
        Image.fromarray(np.asarray(layer)[..., 3]).resize(size, Image.Resampling.BOX)
        for layer in layers
    ]
    none = np.zeros(size[::-1])
    hole = np.max([none, *(np.asarray(one) / 255 for one in alpha)], axis=0) >= 0.5
    if not hole.any():
        raise Refusal("mask: nothing is drawn: draw over what is to be made")
    if hole.all():
        raise Refusal("mask: nothing is left: leave some of the picture")
    return torch.from_numpy(~hole).float()[None]


def option_value(control: Control, value: Any, side: int) -> Any:
    """A control's value, held to what it may be; `side`: of the model's pictures."""
    name = control.label.lower()
    if control.kind == "tick":
        return value is True
    if control.kind == "choice":
        return whole_number(name, value, 2, side)
    return number(name, value, 0, control.most)


@dataclass(frozen=True)
class Wanted:
    """What a visitor wants of a picture, uint8 (C, H, W), with strokes on it."""

    picture: Tensor | None
    layers: Sequence[np.ndarray]
    task: str
    method: str | None = None
    label: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # by the names of the task's options
    prompt: Any = None

    def chosen(self, model: Model) -> tuple[Task, Tensor]:
        """The task, checked against the model, and the picture. Refusal if they cannot be."""
        if self.picture is None:
            raise Refusal("picture: none yet; take a sample or upload one")
        if (kind := on_page().get(self.task)) is None:
            raise Refusal(one_of("task", str(self.task), on_page()))
        side = max(model.space.data_shape)
        values = {
            key: option_value(of, self.options[key], side) for key, of in kind.controls.items()
        }
        full = tuple(self.picture.shape) == model.space.data_shape
        return kind.on_page(values, full, self.method or None).of(model), self.picture

    def case(self, model: Model, task: Task, picture: Tensor, seed: int) -> Case:
        """The picture as the task's input, of the size that it needs."""
        case = Case("picture", as_floats(resized(picture, task.view(model).size)))
        if task.mask:
            case = replace(case, known=drawn(self.layers, task.view(model).size))
        return task.ready(model, case, seed, "the picture")

    def condition(self, model: Model, limits: Limits, count: int) -> Condition:
        """The class and the prompt, the same for every sample. Refusal of a prompt too long."""
        kind, prompt = class_of(model, self.label), prompt_of(limits, self.prompt)
        return Condition(
            None if kind is None else [kind] * count,
            None if prompt is None or model.text is None else [prompt] * count,
        )


def change(model: Model, limits: Limits, wanted: Wanted, asked: Asked) -> Iterator[Shown]:
    """The task live, then its panel. Refusal, one line, if it cannot be."""
    task, picture = wanted.chosen(model)
    settings = task.settings(model, asked.overrides)
    case = wanted.case(model, task, picture, asked.seed)
    prior = Prior(model, settings, asked.seeds, wanted.condition(model, limits, asked.count))
    how = f"{task.name} by {task.method}"

    def work(watch: Watch) -> Tensor:
        return task.samples(replace(prior, watch=watch), [case])

    def draw(step: int, x_s: Tensor, x0_hat: Tensor) -> Shown:
        images = as_bytes(prior.space.decode(x0_hat.detach())).cpu()
        status = f"{how}: step **{step + 1}** of {settings.steps}"
        return Shown(grid(images), status, (step + 1, settings.steps))

    for item in live(work, draw, limits.seconds):
        if not isinstance(item, Done):
            yield item
            continue
        made = task.result(prior, case, item.value[0])
        status = f"**Done** in {item.seconds:.1f} s: {how}, {settings.describe()}"
        status += task.said(case) + scaled_to(picture, case)
        yield Shown(panel([made]), status, samples=as_bytes(made.samples))


def scaled_to(picture: Tensor, case: Case) -> str:
    """That a picture of another size was made to fit."""
    fit = case.given if case.truth is None else case.truth
    if fit.shape == picture.shape:
        return ""
    (height, width), (to_height, to_width) = picture.shape[1:], fit.shape[1:]
    return f", scaled from {width} x {height} to {to_width} x {to_height}"
