"""6. Algorithm 2 step by step, and its choices of the variance."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.exact import Gaussian, law
from ldm.diffusion.schedules import VP
from ldm.diffusion.solvers import DDPM, Denoise, Solver, sample, start
from ldm.diffusion.solvers.base import Past, Randn, Step
from ldm.lecture.base import Made, across
from ldm.lecture.data import few, plane, randn
from ldm.points.exact import exact_denoiser
from ldm.points.plots import cloud, window
from ldm.system.plots import picture, plain_ticks, say, sheet, styled

STEPS, COUNTS = 100, (5, 10, 20, 50, 100, 200)
ALGORITHM = (
    r"$x_s = \tilde\mu(x_t, \hat x_0) + \tilde\sigma z$:   small $\tilde\sigma$ = the posterior's,"
    r" large $\tilde\sigma$ = the step's own noise"
)
CAPTION = (
    "Above: Algorithm 2 from noise to data in 100 steps (red over the data in grey). Most of the "
    "way nothing is to be seen; the peaks form late. Below: the standard deviation of what it "
    "makes of Gaussian data (exact, no sampling error), relative to the data's own. With the small "
    "variance samples are too narrow; the large one errs less, from 20 steps on to the other side; "
    "by 200 the choice hardly matters."
)
BROKEN = (
    "The noise z is left out: each step takes the mean alone. The points run together (above) and "
    "the standard deviation is 0, however many steps there are (below). The noise "
    "is not decoration: the mean of the step is taken over all that x_s could be."
)


@dataclass(frozen=True)
class Silent(Solver):
    """DDPM without its noise."""

    inner: DDPM

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        return self.inner.step(denoise, x_t, t, s, lambda: 0 * randn(), past)


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    solvers: dict[str, Solver] = {"small": DDPM("small"), "large": DDPM("large")}
    if broken:
        solvers = {name: Silent(DDPM(name)) for name in ("small", "large")}
    gauss = Gaussian(VP(), 0.0, 0.5)
    spread = {
        name: {n: law(solver, gauss, VP().grid(n))[1] ** 0.5 / gauss.std for n in COUNTS}
        for name, solver in solvers.items()
    }
    exact, n = exact_denoiser(plane(), VP()), few(1000, size)
    times, keys = exact.schedule.grid(STEPS), iter(range(1000))
    states = [start(exact.schedule, times[0], randn(n, 2, key="ddpm"))]
    noise = lambda: randn(n, 2, key=f"ddpm {next(keys)}")  # noqa: E731
    sample(solvers["small"], exact, states[0], times, noise, lambda i, x, x0: states.append(x))
    numbers = {"std over the data's": spread}
    return Made(drawn(states, times, spread), BROKEN if broken else CAPTION, numbers)


@styled()
def drawn(states: list[Tensor], times: Tensor, spread: dict[str, dict[int, float]]) -> Image.Image:
    """Six moments of the walk, and the spread by the number of steps."""
    figure, axes = sheet("Algorithm 2, step by step", 2, 6, (13, 6), height_ratios=(1, 1.3))
    data = plane().draw(1500, torch.Generator().manual_seed(0))
    for ax, i in zip(axes[0], (0, 40, 60, 80, 90, 100), strict=True):
        cloud(ax, data, "#9aa0a6", size=2)
        cloud(ax, states[i], "#d1495b", size=4)
        window(ax, [(-3, 3), (-3, 3)], title=f"step {i}, t = {times[i]:.2f}")
    below = across(figure, axes[1])
    for name, values in spread.items():
        below.plot([*values], [*values.values()], "o-", label=f"{name} variance")
    below.axhline(1, color="black", lw=1, ls=":", label="the data")
    say(below, "steps", "std of samples / of data", ALGORITHM, xscale="log")
    plain_ticks(below.xaxis)
    below.legend()
    return picture(figure)
