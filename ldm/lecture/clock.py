"""14. Latents against pixels on a clock: the same network, trained for the same time."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ldm.diffusion.denoiser import Denoiser, Loss
from ldm.diffusion.solvers import Heun, sample, start
from ldm.diffusion.space import Shape
from ldm.lecture.autoencoder import digits as small_digits
from ldm.lecture.autoencoder import trained, untrained, whitened
from ldm.lecture.base import Made
from ldm.lecture.box import wall
from ldm.lecture.data import Lesson, few, learn, randn
from ldm.networks.unet import UNet
from ldm.pictures.space import LatentSpace
from ldm.points.metrics import energy_distance
from ldm.system.batches import as_images
from ldm.system.plots import floor_line, picture, plain_ticks, say, sheet, styled

SIDE, LATENTS, STAGE1 = 32, 12, 400
WAYS = {
    "latents, v": (Loss("v"), 500),
    "pixels, v": (Loss("v"), 200),
    "pixels, x0": (Loss("x0"), 400),
}
POINTS, SAMPLES, SIDES = 4, 290, (16, 32, 64)
CAPTION = (
    "Digits enlarged to 32 x 32 = 1,024 pixels, or 12 latents of a small autoencoder; one network, "
    "a perceptron of width 256. Left: distance of samples to held-out digits over seconds of "
    "training; the latents' clock starts after stage 1. By the loss of v the latents are near real "
    "digits when the pixels are still noise: v and eps ask for all 1,024 numbers of the noise, "
    "which do not pass through 256. Asked for x0 instead, pixels do as well here: the digits are "
    "simple. Right: seconds of a step of one U-Net in pixels and in latents 4 times smaller along "
    "each side: where pictures are large, this is what latents save."
)
BROKEN = (
    "Stage 1 was trained with a KL weight of 300, and has collapsed: latents are N(0, 1) whatever "
    "the picture. The second stage learns that law to perfection, its loss is least, and "
    "every sample is decoded to the same grey mean digit (right). Look at the share of a latent's "
    "variance that the picture explains before the second stage."
)


@dataclass
class Course:
    """Digits as rows of pixels or of whitened latents, and what was measured while it trained."""

    space: LatentSpace | None = None
    before: float = 0.0  # seconds of stage 1
    seconds: list[float] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    made: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def curve(self) -> dict[float, float]:
        """Distance by seconds."""
        return dict(zip(self.seconds, self.distances, strict=True))

    def rows(self, images: Tensor) -> Tensor:
        """x_0 of pictures, (N, D)."""
        if self.space is None:
            return images.flatten(1)
        return self.space.encode(images, lambda s: randn(*s, key="clock").float()).flatten(1)

    def pictures(self, x: Tensor) -> Tensor:
        """The way back, in [-1, 1]."""
        if self.space is None:
            return x.reshape(-1, 1, SIDE, SIDE).clamp(-1, 1)
        return self.space.decode(x.reshape(-1, LATENTS, 1, 1))


def digits() -> tuple[Tensor, Tensor]:
    """Training and held-out digits, enlarged to SIDE x SIDE, in [-1, 1]."""
    images = [as_images({"image": part.images}) for part in small_digits()]
    train, test = (interpolate(x, (SIDE, SIDE), mode="bilinear") for x in images)
    return train, test


@torch.no_grad()
def samples(denoiser: Denoiser, width: int) -> Tensor:
    """x_0 (SAMPLES, width) by 15 steps of Heun."""
    times = denoiser.schedule.grid(15)
    noise = start(denoiser.schedule, times[0], randn(SAMPLES, width, key="clock samples").float())
    return sample(Heun("angle"), denoiser, noise, times, lambda: noise)


def follow(course: Course, data: tuple[Tensor, Tensor], loss: Loss, steps: int) -> None:
    """Train, and measure on the way; the clock stands still while it is measured."""
    x_0, test = course.rows(data[0]), data[1].flatten(1)
    lesson = Lesson(steps=steps, batch=128, lr=2e-3, dim=256, loss=loss)
    every, spent, began = max(1, steps // POINTS), course.before, time.process_time()

    def watch(step: int, denoiser: Denoiser, _: float) -> None:
        nonlocal spent, began
        if (step + 1) % every:
            return
        spent += time.process_time() - began
        course.made = course.pictures(samples(denoiser, x_0.shape[1]))
        course.seconds.append(spent)
        course.distances.append(energy_distance(course.made.flatten(1), test))
        began = time.process_time()

    draw = lambda n, g: x_0[torch.randint(len(x_0), (n,), generator=g)]  # noqa: E731
    learn(lesson, draw, watch)


def step_seconds(shape: Shape) -> float:
    """Of forward and backward of one U-Net on 4 pictures; the second time, when all is set up."""
    net, x = UNet(channels=(16, 32), layers=1).build(shape), torch.randn(4, *shape)
    for _ in range(2):
        began = time.process_time()
        net(x, torch.full((4,), 500.0)).square().mean().backward()
    return time.process_time() - began


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    data, began = digits(), time.process_time()
    stage1 = untrained(SIDE, LATENTS, 300.0 if broken else 0.01)
    space = whitened(trained(stage1, data[0], few(STAGE1, size, 200)), data[0])
    before = time.process_time() - began
    courses = {name: Course(space, before) if "latents" in name else Course() for name in WAYS}
    for name, (loss, steps) in WAYS.items():
        follow(courses[name], data, loss, few(steps, size, 100))
    costs = {
        "pixels": {side: step_seconds((1, side, side)) for side in SIDES},
        "latents": {side: step_seconds((4, side // 4, side // 4)) for side in SIDES},
    }
    floor = energy_distance(data[0][:SAMPLES].flatten(1), data[1].flatten(1))
    assert space.explained is not None
    numbers = {
        "distance by seconds": {k: c.curve for k, c in courses.items()},
        "floor": floor,
        "explained by the picture": space.explained.mean().item(),
        "seconds of a step by side": costs,
    }
    return Made(drawn(courses, costs, floor), BROKEN if broken else CAPTION, numbers)


@styled()
def drawn(
    courses: dict[str, Course], costs: dict[str, dict[int, float]], floor: float
) -> Image.Image:
    """Distances over time, samples, seconds of a step by size."""
    ratios: Any = {"width_ratios": (1.5, 0.6, 0.6, 0.6, 1.1)}
    figure, axes = sheet("Latents against pixels on a clock", 1, 5, (12, 3.8), **ratios)
    left, *walls, right = axes[0]
    for (name, course), ax in zip(courses.items(), walls, strict=True):
        left.plot(course.seconds, course.distances, "o-", label=name)
        wall(ax, course.made[:6], 2, name, SIDE)
    floor_line(left, floor)
    say(left, "seconds of training, stage 1 included", "energy distance to real digits")
    left.set_yscale("log")
    plain_ticks(left.yaxis)
    left.set_ylim(top=30)
    left.legend(fontsize=8, ncols=2, loc="upper right")
    for name, values in costs.items():
        right.plot([*values], [*values.values()], "o-", label=name)
    say(right, "side of a picture (pixels)", "seconds of a step of 4", xscale="log", yscale="log")
    plain_ticks(right.xaxis, right.yaxis)
    right.legend()
    return picture(figure)
