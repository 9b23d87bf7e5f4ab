"""8. DDIM: from the ODE (eta = 0) to Algorithm 2 (eta = 1), and how few steps do."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.denoiser import eps_hat
from ldm.diffusion.schedules import Cosine
from ldm.diffusion.solvers import DDIM, Denoise, Solver, sample, start
from ldm.diffusion.solvers.base import Past, Randn, Step
from ldm.lecture.base import Made, across
from ldm.lecture.data import few, plane, randn
from ldm.points.exact import exact_denoiser
from ldm.points.metrics import energy_distance
from ldm.points.plots import cloud, window
from ldm.system.plots import picture, plain_ticks, say, sheet, styled

ETAS, COUNTS, FEW = (0.0, 0.5, 1.0), (3, 5, 10, 20, 50, 100), 5
CAPTION = (
    "Above: samples (red) over data (grey) after 5 steps, by eta: eta = 0 is the ODE, 1 is "
    "Algorithm 2. Below: the energy distance to the data over the number of steps, with what real "
    "data have against real data (dotted). With few steps points lie between the peaks, with eta = "
    "1 most; by 100 steps all are about as good as data."
)
BROKEN = (
    "Noise of size std is added, and sqrt(sigma_s^2 - std^2) in front of eps-hat is left at "
    "sigma_s: none is taken out for it. For eta above 0 every step is then too noisy, and the "
    "distance does not fall with more steps: it stays far above the floor."
)


@dataclass(frozen=True)
class Louder(Solver):
    """DDIM that adds its noise without taking any out."""

    eta: float

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
        x0_hat = denoise(x_t, t)
        kept = 1 - (alpha_t / alpha_s) ** 2 * (sigma_s / sigma_t) ** 2
        std = self.eta * sigma_s * kept.clamp(min=0).sqrt()
        x_s = alpha_s * x0_hat + sigma_s * eps_hat(x_t, x0_hat, alpha_t, sigma_t)
        return x_s + std * randn(), x0_hat


def made_by(solver: Solver, steps: int, count: int) -> Tensor:
    """Samples of the exact denoiser."""
    exact, keys = exact_denoiser(plane(), Cosine()), iter(range(1000))
    times = exact.schedule.grid(steps)
    noise = lambda: randn(count, 2, key=f"ddim {next(keys)}")  # noqa: E731
    return sample(solver, exact, start(exact.schedule, times[0], noise()), times, noise)


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    n, random = few(2000, size, 300), torch.Generator().manual_seed(0)
    data, other = plane().draw(n, random), plane().draw(n, random)
    found, shown = {}, {}
    for eta in ETAS:
        solver: Solver = Louder(eta) if broken else DDIM(eta)
        made = {steps: made_by(solver, steps, n) for steps in COUNTS}
        found[eta] = {steps: energy_distance(part, data) for steps, part in made.items()}
        shown[eta] = made[FEW]
    floor = energy_distance(other, data)
    numbers = {"energy distance by eta and steps": found, "floor": floor}
    return Made(drawn(data, shown, found, floor), BROKEN if broken else CAPTION, numbers)


@styled()
def drawn(
    data: Tensor, shown: dict[float, Tensor], found: dict[float, dict[int, float]], floor: float
) -> Image.Image:
    """Samples of few steps by eta, and distances over steps."""
    figure, axes = sheet("DDIM: eta and few steps", 2, 3, (11, 7.4), height_ratios=(1, 1))
    for ax, (eta, made) in zip(axes[0], shown.items(), strict=True):
        cloud(ax, data, "#9aa0a6", size=2)
        cloud(ax, made, "#d1495b", size=3)
        window(ax, [(-2.6, 2.6), (-2.6, 2.6)], title=f"$\\eta$ = {eta:g}, {FEW} steps")
    below = across(figure, axes[1])
    for eta, values in found.items():
        below.plot([*values], [*values.values()], "o-", label=f"$\\eta$ = {eta:g}")
    below.axhline(floor, color="#4d4d4d", ls=":", label="real against real")
    say(below, "steps", "energy distance to the data", xscale="log", yscale="log")
    plain_ticks(below.xaxis)
    below.legend()
    return picture(figure)
