"""What is asked of a task, and its inputs: everything that can be wrong is found here, before any work."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ldm.diffusion import tasks
from ldm.errors import Refusal, one_of
from ldm.pictures.opening import View
from ldm.pictures.trained import SuperResolve
from ldm.sampling.model import Model
from ldm.system.names import file_names
from ldm.system.randomness import generator
from ldm.tasks import solve
from ldm.tasks.inputs import files, masks_for, read_mask, read_pictures


@dataclass(frozen=True)
class Task:
    """What is asked for; `noise_std` None: to be estimated."""

    name: str
    method: str
    factor: int = 4
    noise_std: float | None = None
    strength: float = 0.6
    resamples: int = 4
    degrade: bool = False


@dataclass
class Case:
    """One input: what is measured, and what the panel shows of it."""

    name: str
    given: Tensor
    known: Tensor | None = None
    truth: Tensor | None = None
    noise_std: float = 0.0


def build(model: Model, task: str, method: str | None, **options: Any) -> Task:
    """The task with its defaults, checked against the model."""
    if model.space.modality == "jets":
        raise Refusal(f"--task {task} is of pictures; this checkpoint makes jets")
    offered = solve.methods(model, task)
    if not offered:
        raise Refusal(
            f"--task {task}: this checkpoint is trained for {model.purpose.use} alone and needs {model.purpose.needs}"
        )
    if method == "trained" and method not in offered:
        raise Refusal(
            f"--method trained: this checkpoint is not trained for {task}; it does it by {', '.join(offered)}"
        )
    if method is not None and method not in offered:
        where = (
            f"in {solve.kind(model)} space"
            if model.purpose.use is None
            else "by a checkpoint that is trained for it"
        )
        raise Refusal(one_of(f"--method of {task} {where}", method, offered))
    given = {key: value for key, value in options.items() if value is not None}
    if isinstance(model.purpose, SuperResolve):
        given = {"factor": model.purpose.factor} | given
        if given["factor"] != model.purpose.factor:
            raise Refusal(
                f"--factor: this checkpoint is trained for {model.purpose.factor} times, not {given['factor']}"
            )
    chosen = Task(task, method or offered[0], **given)
    if not 0 < chosen.strength <= 1:
        raise Refusal(
            f"--strength: {chosen.strength:g} is not above 0 and at most 1; 1 keeps least of the picture"
        )
    _, height, width = image_shape(model)
    if task == "super-resolve" and (
        chosen.factor < 2 or height % chosen.factor or width % chosen.factor
    ):
        fits = [f for f in range(2, min(height, width) + 1) if height % f == width % f == 0]
        raise Refusal(
            f"--factor: {chosen.factor} does not divide the model's {width} x {height} pixels; these do: {fits}"
        )
    if not 1 <= chosen.resamples <= 1000:
        raise Refusal(f"--resamples must be in 1 ... 1000, got {chosen.resamples:.4g}")
    if chosen.noise_std is not None:
        check_noise(model, chosen.noise_std, "--noise-std")
    return chosen


def image_shape(model: Model) -> tuple[int, int, int]:
    """(C, H, W) of the model's pictures."""
    return model.space.autoencoder.shape if solve.kind(model) == "latent" else model.space.shape


def check_noise(model: Model, std: float, what: str) -> None:
    try:
        tasks.noise_time(model.denoiser.schedule, std)
    except ValueError as error:
        raise Refusal(
            f"{what}: {error}; it is in units of the range -1 ... 1 (25 grey levels of 255 are 0.2)"
        ) from None


def read(model: Model, task: Task, image: list[str], mask: str | None, seed: int) -> list[Case]:
    """Every input with what belongs to it."""
    if task.name == "inpaint" and mask is None:
        raise Refusal(
            "--task inpaint needs --mask FILE: a picture white where to paint, black elsewhere"
        )
    if task.name != "inpaint" and mask is not None:
        raise Refusal(f"--mask belongs to --task inpaint, not to {task.name}")
    paths = [path for one in image for path in files(one, "--image")]
    if task.name == "interpolate" and len(paths) != 2:
        raise Refusal(
            f"--task interpolate needs two pictures: --image I --image J; got {len(paths)}"
        )
    view = view_of(model, task)
    small = view.shape != image_shape(model)
    pictures = read_pictures(
        paths, view, "; --degrade takes a whole picture, and shrinks it itself" if small else ""
    )
    if task.name == "interpolate" and len(pictures) != 2:
        raise Refusal("--task interpolate needs two pictures; one of them cannot be read")
    names = file_names(one.path.stem for one in pictures)
    cases = [
        ready(model, task, Case(name, one.pixels), seed, str(one.path))
        for name, one in zip(names, pictures, strict=True)
    ]
    if mask is not None:
        masks = masks_for([one.path for one in pictures], mask)
        for case, path, one in zip(cases, masks, pictures, strict=True):
            case.known = read_mask(path, view, one.size)
    return cases


def view_of(model: Model, task: Task) -> View:
    """How the task's pictures are read: as in training, and small ones to be enlarged so many times smaller."""
    _, height, width = shape = image_shape(model)
    factor = task.factor if task.name == "super-resolve" and not task.degrade else 1
    return (model.view or View(shape)).scaled((height // factor, width // factor))


def ready(model: Model, task: Task, case: Case, seed: int, where: str) -> Case:
    """A picture as the task wants it: with --degrade spoilt first, to de-noise with its noise known."""
    case = degraded(model, task, case, seed)
    if task.name == "denoise":
        case.noise_std = task.noise_std or tasks.noise_level(case.given[None])
        if case.noise_std < 1 / 255:
            raise Refusal(
                f"--image: no noise was found in {where}; say how much there is by --noise-std"
            )
        check_noise(model, case.noise_std, f"--image: in {where}, estimated")
    return case


def degraded(model: Model, task: Task, case: Case, seed: int) -> Case:
    """With --degrade the picture is the truth, and what is given is made from it."""
    if not task.degrade:
        return case
    if task.name == "super-resolve":
        trained = task.method == "trained"
        small = (
            model.purpose.degrade(case.given[None], [])[0]
            if trained
            else tasks.AveragePool(task.factor)(case.given[None])
        )
        return dataclasses.replace(case, given=small[0], truth=case.given)
    if task.name == "denoise" and task.noise_std is not None:
        noise = torch.randn(case.given.shape, generator=generator(seed, "degrade", case.name))
        return dataclasses.replace(
            case, given=case.given + task.noise_std * noise, truth=case.given
        )
    raise Refusal("--degrade belongs to --task super-resolve, and to denoise with --noise-std")
