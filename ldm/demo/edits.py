"""Tasks on a picture: what a visitor gave, made to fit; the task live; the panel of sample.py --task."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.demo.base import Shown
from ldm.demo.limits import Asked, Limits, class_of, number, whole
from ldm.demo.live import Done, live
from ldm.demo.samples import grid
from ldm.diffusion.solvers import Watch
from ldm.errors import Refusal, one_of
from ldm.pictures.opening import TooLarge, Unreadable, View, fitted
from ldm.sampling.model import Model
from ldm.system.batches import as_bytes
from ldm.tasks import solve
from ldm.tasks.cases import Case, Task, build, image_shape, ready
from ldm.tasks.output import panel
from ldm.tasks.run import result, samples, settings_of

TASKS = ("inpaint", "super-resolve", "denoise", "edit")
CANVAS = 448  # px of the picture that is drawn on, about


def upload(model: Model, limits: Limits, path: str | Path) -> Tensor:
    """A file as uint8 (C, H, W) of the model, read as in training. Its size is known before its pixels are."""
    path, view = Path(path), model.view or View(image_shape(model))
    if (size := path.stat().st_size) > limits.upload:
        raise Refusal(f"upload: {size / 1e6:.1f} MB, at most {limits.upload / 1e6:g} MB are taken")
    try:
        picture, (width, height), _ = view.load(path, limits.pixels)
        times = view.size[0] // width
        small = (
            times > 1 and (width * times, height * times) == view.size
        )  # as it is: it may be asked to be enlarged
        return view.scaled((height, width)).read(path) if small else picture
    except TooLarge as why:
        raise Refusal(f"upload: {why} are not taken; shrink it") from None
    except Unreadable as why:
        raise Refusal(f"upload: the picture cannot be read: {why}") from None


def sized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (C, H, W) scaled to a height and width."""
    if picture.shape[1:] == size:
        return picture
    pixels = picture.permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[..., 0] if len(picture) == 1 else pixels)
    scaled = np.array(fitted(image, size[::-1], "crop"))
    return torch.from_numpy(scaled).reshape(*size, len(picture)).permute(2, 0, 1)


def enlarged(picture: Tensor) -> Image.Image:
    """uint8 (C, H, W), each pixel a square, on a canvas of about CANVAS px."""
    factor = max(1, CANVAS // max(picture.shape[1:]))
    pixels = picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return Image.fromarray(pixels.permute(1, 2, 0).expand(-1, -1, 3).numpy())


def drawn(layers: Sequence[np.ndarray], size: tuple[int, int]) -> Tensor:
    """Layers (h, w, 4) of strokes -> known, (1, H, W) of 0 and 1: a pixel is to be made if half of it is drawn over."""
    alpha = [
        Image.fromarray(np.asarray(layer)[..., 3]).resize(size[::-1], Image.Resampling.BOX)
        for layer in layers
    ]
    hole = np.max([np.zeros(size), *(np.asarray(one) / 255 for one in alpha)], axis=0) >= 0.5
    if hole.all() or not hole.any():
        what = (
            "nothing is left: leave some of the picture"
            if hole.any()
            else "nothing is drawn: draw over what is to be made"
        )
        raise Refusal(f"mask: {what}")
    return torch.from_numpy(~hole).float()[None]


def asked_of(
    model: Model, picture: Tensor, name: str, method: str | None, options: dict[str, Any]
) -> Task:
    """The task, with its options on the page checked; a picture of the model's full size is shrunk to super-resolve it."""
    if name not in TASKS:
        raise Refusal(one_of("task", str(name), TASKS))
    whole_size = tuple(picture.shape) == image_shape(model)
    mine: dict[str, Any] = {}
    if name == "super-resolve":
        mine = {
            "factor": whole("factor", options["factor"], 2, max(image_shape(model))),
            "degrade": whole_size,
        }
    if name == "denoise":
        std = number("noise", options["noise"], 0, 10)
        mine = {"noise_std": std or None, "degrade": options["add"] is True}
        if mine["degrade"] and not std:
            raise Refusal("noise: say how much is to be added")
    if name == "edit":
        mine = {"strength": number("strength", options["strength"], 0, 1)}
    return build(model, name, method or None, **mine)


def case_of(
    model: Model, task: Task, picture: Tensor, layers: Sequence[np.ndarray], seed: int
) -> Case:
    """The picture as the task's input, of the size that it needs."""
    _, height, width = image_shape(model)
    factor = task.factor if task.name == "super-resolve" and not task.degrade else 1
    case = Case("picture", sized(picture, (height // factor, width // factor)).float() / 127.5 - 1)
    if task.name == "inpaint":
        case.known = drawn(layers, (height, width))
    return ready(model, task, case, seed, "the picture")


def change(
    model: Model,
    limits: Limits,
    picture: Tensor | None,
    layers: Sequence[np.ndarray],
    task: str,
    method: str | None,
    label: str | None,
    options: dict[str, Any],
    *numbers: Any,
) -> Iterator[Shown]:
    """`options`: factor, noise, add, strength; `numbers`: solver, steps, guidance, seed, count. Refusal if it cannot be."""
    if picture is None:
        raise Refusal("picture: none yet; take a sample or upload one")
    asked = Asked.of(limits, *numbers)
    chosen = asked_of(model, picture, task, method, options)
    settings, kind = settings_of(model, chosen, asked.overrides), class_of(model, label)
    case = case_of(model, chosen, picture, layers, asked.seed)

    def work(watch: Watch) -> Tensor:
        return samples(chosen, model, settings, [case], asked.seeds, kind, watch=watch)

    def draw(step: int, x_s: Tensor, x0_hat: Tensor) -> Shown:
        images = as_bytes(model.space.decode(x0_hat.detach())).cpu()
        return Shown(
            grid(images), f"{task} by {chosen.method}: step **{step + 1}** of {settings.steps}"
        )

    for item in live(work, draw, limits.seconds):
        if not isinstance(item, Done):
            yield item
            continue
        made = result(chosen, model, settings, case, item.value[0], asked.seeds, kind)
        status = f"**Done** in {item.seconds:.1f} s: {task} by {chosen.method}, {settings.describe()}{noise_of(case, chosen)}"
        status += scaled_to(picture, case)
        yield Shown(panel([made], side=140), status, samples=as_bytes(made.samples))


def scaled_to(picture: Tensor, case: Case) -> str:
    """That a picture of another size was made to fit."""
    whole, (width, height) = case.given if case.truth is None else case.truth, picture.shape[:0:-1]
    return (
        ""
        if whole.shape == picture.shape
        else f", scaled from {width} x {height} to {whole.shape[2]} x {whole.shape[1]}"
    )


def noise_of(case: Case, task: Task) -> str:
    """How much noise was taken to be in the picture."""
    return f", noise {case.noise_std:.3g} of the range -1 ... 1" if task.name == "denoise" else ""


def parts(model: Model) -> tuple[dict[str, tuple[str, ...]], list[int]]:
    """The methods of each task, its default first, and the factors that fit the model's pictures."""
    _, height, width = image_shape(model)
    fits = [f for f in range(2, min(height, width) // 2 + 1) if height % f == width % f == 0]
    return {task: solve.METHODS[task][solve.kind(model)] for task in TASKS}, fits or [2]
