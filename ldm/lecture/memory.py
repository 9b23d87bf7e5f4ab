"""16. From memory to generalisation: 20, 200, 2,000 and 20,000 training points."""

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.schedules import Cosine
from ldm.diffusion.solvers import Denoise, Heun, sample, start
from ldm.lecture.base import Made, across
from ldm.lecture.data import Lesson, few, learnt, randn
from ldm.lecture.likelihood import moon_points
from ldm.points.exact import Finite, exact_denoiser
from ldm.points.plots import cloud, window
from ldm.system.plots import picture, plain_ticks, say, sheet, styled

COUNTS = (20, 200, 2_000, 20_000)
CAPTION = (
    "Above: samples (red) of a network trained on so many points (black). Of 20 it knows hardly "
    "more than the points, of 20,000 the moons. Below: the median distance from a sample to the "
    "nearest training point, over that of a new draw of the data. Near 0 is memory, 1 is as far as "
    "new data. The exact optimum of the loss (grey) is memory (of 20,000 the last step is no finer "
    "than the points are dense): that networks generalise is what they fail to learn."
)
BROKEN = (
    "No network: the loss' exact optimum, which knows every training point. The loss is the least "
    "there can be, and every sample is a training point, of 20 as of 2,000. A lower training "
    "loss is not a better model; watch held-out loss and the nearest training picture."
)


def samples(denoise: Denoise, count: int) -> Tensor:
    """By Heun, 60 steps, the last ones small: what is finest comes last."""
    times = denoise.schedule.grid(60, "karras")
    noise = start(denoise.schedule, times[0], randn(count, 2, key="memory").float())
    with torch.no_grad():
        return sample(Heun("angle"), denoise, noise, times, lambda: noise)


def nearest(points: Tensor, training: Tensor) -> float:
    """Median distance to the nearest training point."""
    return torch.cdist(points.double(), training.double()).amin(1).median().item()


class Subset:
    """Draws from the first `count` moons."""

    def __init__(self, count: int):
        self.points = moon_points(count, torch.Generator().manual_seed(0)).float()

    def __call__(self, count: int, random: torch.Generator) -> Tensor:
        return self.points[torch.randint(len(self.points), (count,), generator=random)]


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    counts = COUNTS[: few(len(COUNTS), size, 2)]
    n, lesson = few(500, size, 200), Lesson(steps=few(700, size, 150), batch=512)
    fresh = moon_points(n, torch.Generator().manual_seed(1))
    made, ratios = {}, {}
    for count in counts:
        known = Subset(count)
        optimum = samples(exact_denoiser(Finite(known.points), Cosine()), few(200, size))
        network = optimum if broken else samples(learnt(f"moons {count}", lesson, known), n)
        made[count] = known.points, network
        new = nearest(fresh, known.points)
        ratios[count] = {
            "network": nearest(network, known.points) / new,
            "optimum": nearest(optimum, known.points) / new,
        }
    numbers = {"distance to the nearest training point, over a new draw's": ratios}
    return Made(drawn(made, ratios), BROKEN if broken else CAPTION, numbers)


@styled()
def drawn(
    made: dict[int, tuple[Tensor, Tensor]], ratios: dict[int, dict[str, float]]
) -> Image.Image:
    """Samples over training points, and distances by size."""
    figure, axes = sheet("From memory to generalisation", 2, len(made), (12, 6.4))
    for ax, (count, (known, points)) in zip(axes[0], made.items(), strict=True):
        cloud(ax, points, "#d1495b", size=5)
        cloud(ax, known, "black", most=400, size=9 if count < 1000 else 2)
        window(ax, [(-2.2, 2.2), (-2.6, 2.6)], title=f"{count:,} training points")
    below = across(figure, axes[1])
    for name, colour in (("network", "#d1495b"), ("optimum", "#9aa0a6")):
        values = [part[name] for part in ratios.values()]
        below.plot([*ratios], values, "o-", color=colour, label=name + "'s samples")
    below.axhline(1, color="black", ls=":", label="new data")
    say(below, "training points", "distance to the nearest one,\nover new data's", xscale="log")
    below.set_ylim(bottom=0)
    plain_ticks(below.xaxis)
    below.legend()
    return picture(figure)
