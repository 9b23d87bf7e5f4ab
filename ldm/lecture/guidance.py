"""12. Guidance: the density of a class sharpened, and diversity lost."""

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.schedules import Cosine
from ldm.diffusion.solvers import Heun, sample, start
from ldm.diffusion.tasks import cfg
from ldm.lecture.base import Made
from ldm.lecture.data import few, randn
from ldm.points.exact import Mixture, exact_denoiser
from ldm.points.plots import cloud, window
from ldm.system.plots import picture, say, sheet, styled

SCALES = (0.0, 1.0, 2.0, 4.0)
CAPTION = (
    "One class of three that overlap (its exact law in grey), by classifier-free guidance of the "
    "exact denoiser. At scale 0 the class is ignored, at 1 the samples are the class, above 1 they "
    "leave where classes overlap and run together: surer, and less varied. Bottom: share of "
    "samples that are surely of the class, and their spread over the class' own. Guidance between "
    "t = 0.5 and 1 alone keeps more of the spread (crosses)."
)
BROKEN = (
    "A scale of 12. The samples are beyond the class: they lie where no data are, with almost no "
    "spread left, on a line away from the other classes. This is what over-saturated pictures are."
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


def told(points: Tensor) -> dict[str, float]:
    """Share that is surely of the class (above 95 %), and the spread over the class' own."""
    whole, classes = laws()
    sure = (classes[0].log_density(points) - whole.log_density(points)).exp() / 3 > 0.95
    return {"sure": sure.double().mean().item(), "spread": points.std(0).mean().item() / 0.6}


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    n = few(1500, size, 300)
    scales = (1.0, 4.0, 12.0) if broken else SCALES
    made = {scale: guided(scale, n) for scale in scales}
    inside = {scale: guided(scale, n, (0.5, 1.0)) for scale in scales if scale > 1}
    numbers = {
        "guided": {scale: told(points) for scale, points in made.items()},
        "guided above t = 0.5": {s: told(points) for s, points in inside.items()},
    }
    return Made(drawn(made, numbers), BROKEN if broken else CAPTION, numbers)


@styled()
def drawn(
    made: dict[float, Tensor], numbers: dict[str, dict[float, dict[str, float]]]
) -> Image.Image:
    """Samples by guidance scale, with the spread and the share of the class."""
    size = 2 * len(made)
    figure, axes = sheet("Guidance: sharper, and less varied", 2, len(made), (1.6 * size, 6.4))
    whole, classes = laws()
    rest = whole.draw(1500, torch.Generator().manual_seed(0))
    own = classes[0].draw(1500, torch.Generator().manual_seed(0))
    for ax, (scale, points) in zip(axes[0], made.items(), strict=True):
        cloud(ax, rest, "#dddddd", size=2)
        cloud(ax, own, "#9aa0a6", size=2)
        cloud(ax, points, "#d1495b", size=3)
        window(ax, [(-3, 3), (-2.5, 5)], title=f"guidance {scale:g}")
    grid = axes[1, 0].get_gridspec()
    for ax in axes[1]:
        ax.remove()
    below = figure.add_subplot(grid[1, :])
    for key, name in (("sure", "surely of the class"), ("spread", "spread over the class' own")):
        for part, mark in (("guided", "o-"), ("guided above t = 0.5", "x--")):
            found = numbers[part]
            label = name + (", above t = 0.5" if mark == "x--" else "")
            colour = "#0072b2" if key == "sure" else "#d55e00"
            values = [each[key] for each in found.values()]
            below.plot([*found], values, mark, color=colour, label=label)
    say(below, "scale of guidance", "share; ratio", ylim=(0, None))
    below.legend(fontsize=8)
    return picture(figure)
