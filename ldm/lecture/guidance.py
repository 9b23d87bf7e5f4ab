"""12. Guidance: the density of a class sharpened, and diversity lost."""

from typing import Any

import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from ldm.diffusion.schedules import Cosine
from ldm.diffusion.solvers import Heun, sample, start
from ldm.diffusion.tasks import cfg
from ldm.lecture.base import Made, across
from ldm.lecture.box import wall
from ldm.lecture.clothes import coats
from ldm.lecture.data import few, randn
from ldm.points.exact import Mixture, exact_denoiser
from ldm.points.plots import cloud, window
from ldm.system.plots import picture, say, sheet, styled

SCALES, COATS = (0.0, 1.0, 2.0, 4.0), 8
WORN = ((1.0, 0.0), (3.0, 0.0), (8.0, 0.0), (8.0, 0.7))  # guidance and rescale of clothes
CAPTION = (
    "Above: one class of three that overlap (its exact law in grey), by classifier-free guidance "
    "of the exact denoiser. At scale 0 the class is ignored, at 1 the samples are the class, above "
    "1 they leave where classes overlap and run together: surer, and less varied. Middle: share of "
    "samples that are surely of the class, and their spread over the class' own. Guidance between "
    "t = 0.5 and 1 alone keeps more of the spread (crosses). Below: coats by the model in the box "
    "do the same, and grow hard and bright; rescale gives them back their contrast."
)
BROKEN = (
    "A scale of 12. The samples are beyond the class: they lie where no data are, with almost no "
    "spread left, on a line away from the other classes. The coats are black and white and all "
    "alike: this is what over-saturated pictures are. Rescale mends the contrast, not the variety."
)


def laws() -> tuple[Mixture, list[Mixture]]:
    """Three classes at the corners of a triangle, and all of them."""
    means = [[0.0, 1.0], [-0.9, -0.5], [0.9, -0.5]]
    whole = Mixture.round(means, [0.6, 0.6, 0.6])
    return whole, [whole.only(k) for k in range(3)]


def guided(scale: float, count: int, interval: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Samples of class 0."""
    whole, classes = laws()
    exact, label = exact_denoiser(whole, Cosine(), classes), torch.zeros(count, dtype=torch.long)
    denoise = cfg(exact, {"label": label}, {"label": label + 3}, scale, interval)  # type: ignore[arg-type]
    times = exact.schedule.grid(40)
    noise = randn(count, 2, key="guidance")
    return sample(
        Heun("angle"), denoise, start(exact.schedule, times[0], noise), times, lambda: noise
    )


def measured(points: Tensor) -> dict[str, float]:
    """Share that is surely of the class (above 95 %), and the spread over the class' own."""
    whole, classes = laws()
    sure = (classes[0].log_density(points) - whole.log_density(points)).exp() / 3 > 0.95
    return {"sure": sure.double().mean().item(), "spread": points.std(0).mean().item() / 0.6}


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    n = few(1500, size, 300)
    scales = (1.0, 4.0, 12.0) if broken else SCALES
    made = {scale: guided(scale, n) for scale in scales}
    inside = {scale: guided(scale, n, (0.5, 1.0)) for scale in scales if scale > 1}
    asked = coats(COATS)
    worn = ((1.0, 0.0), (12.0, 0.0), (12.0, 0.7)) if broken else WORN
    x_0 = {f"{w:g}" + f", rescale {r:g}" * (r > 0): asked.guided(w, 15, rescale=r) for w, r in worn}
    numbers = {
        "guided": {scale: measured(points) for scale, points in made.items()},
        "guided above t = 0.5": {s: measured(points) for s, points in inside.items()},
        "clothes": {name: asked.measured(one) for name, one in x_0.items()},
    }
    shown = {f"coats, guidance {name}": asked.pictures(one) for name, one in x_0.items()}
    return Made(drawn(made, shown, numbers), BROKEN if broken else CAPTION, numbers)


@styled()
def drawn(
    made: dict[float, Tensor], worn: dict[str, Tensor], numbers: dict[str, Any]
) -> Image.Image:
    """Samples by guidance scale, with the spread and the share of the class; clothes."""
    title, ratios = "Guidance: sharper, and less varied", {"height_ratios": (1.2, 0.8, 0.7)}
    figure, axes = sheet(title, 3, len(made), (12, 9), **ratios)
    whole, classes = laws()
    rest, own = (law.draw(1500, torch.Generator().manual_seed(0)) for law in (whole, classes[0]))
    for ax, (scale, points) in zip(axes[0], made.items(), strict=True):
        cloud(ax, rest, "#dddddd", size=2)
        cloud(ax, own, "#9aa0a6", size=2)
        cloud(ax, points, "#d1495b", size=3)
        window(ax, [(-3, 3), (-2.5, 5)], title=f"guidance {scale:g}")
    curves(across(figure, axes[1]), numbers)
    for ax, (name, pictures) in zip(axes[2], worn.items(), strict=True):
        wall(ax, pictures, 4, name)
    return picture(figure)


def curves(ax: Axes, numbers: dict[str, dict[float, dict[str, float]]]) -> None:
    """Share and spread by the scale."""
    for key, name in (("sure", "surely of the class"), ("spread", "spread over the class' own")):
        for part, mark in (("guided", "o-"), ("guided above t = 0.5", "x--")):
            found = numbers[part]
            label = name + (", above t = 0.5" if mark == "x--" else "")
            colour = "#0072b2" if key == "sure" else "#d55e00"
            values = [each[key] for each in found.values()]
            ax.plot([*found], values, mark, color=colour, label=label)
    say(ax, "scale of guidance", "share; ratio", ylim=(0, None))
    ax.legend(fontsize=8, ncols=2)
