"""7. The reverse SDE and the probability flow from the same noise: equal densities, other paths."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.schedules import Cosine
from ldm.diffusion.solvers import Denoise, EulerMaruyama, Heun, Solver, sample
from ldm.diffusion.solvers.base import Past, Randn, Step
from ldm.lecture.base import Made
from ldm.lecture.data import few, line, randn
from ldm.lecture.forward import distance
from ldm.points.exact import ExactDenoiser, exact_denoiser
from ldm.system.plots import picture, say, sheet, styled

STEPS, SHOWN = 200, (0.75, 0.5, 0.25, 0.0)
CAPTION = (
    "Time runs from noise (left) to data (right); colours are the exact density p_t. The same 12 "
    "starts, once by the reverse SDE, once by the probability-flow ODE. The SDE's paths tremble "
    "and cross; the ODE's are smooth and never cross. At every time the histograms of 10,000 of "
    "either agree with p_t: one law, two ways."
)
BROKEN = (
    "The SDE is run with the drift of the ODE, f x - g^2/2 score, and keeps its noise. Half of the "
    "pull to the data is missing, the noise stays: its paths spread over the gap between the two "
    "peaks, and its density is no longer p_t. Noise must be paid for by twice the score."
)


class Mistaken(Solver):
    """The drift of the flow with the noise of the SDE."""

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        x_s, x0_hat = Heun("angle").step(denoise, x_t, t, s, randn, past)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
        lost = (sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2).clamp(min=0)
        return x_s + (lost.sqrt() * randn() if s > 0 else 0), x0_hat


def walked(exact: ExactDenoiser, solver: Solver, count: int) -> Tensor:
    """Paths (STEPS + 1, count) from the same noise."""
    times, keys = exact.schedule.grid(STEPS), iter(range(1000))
    states = [randn(count, 1, key="start of both")]
    noise = lambda: randn(count, 1, key=f"sde {next(keys)}")  # noqa: E731
    sample(solver, exact, states[0], times, noise, lambda step, x_s, x0_hat: states.append(x_s))
    return torch.stack(states)[..., 0]


def crossings(paths: Tensor) -> int:
    """How often two of the first twelve paths change their order."""
    few_paths = paths[:, :12]
    order = (few_paths[:, :, None] > few_paths[:, None]).long()
    return int(order.diff(dim=0).abs().sum() // 2)


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    law, n = line(), few(10_000, size, 1000)
    exact = exact_denoiser(law, Cosine())
    sde = Mistaken() if broken else EulerMaruyama()
    solvers: dict[str, Solver] = {"reverse SDE": sde, "flow (ODE)": Heun("angle")}
    found = {name: walked(exact, solver, n) for name, solver in solvers.items()}
    numbers = {}
    for name, paths in found.items():
        apart = {}
        for t in SHOWN:
            at = exact.schedule(torch.tensor(t, dtype=torch.float64))
            apart[f"t={t}"] = distance(paths[round((1 - t) * STEPS)], law, *at)
        numbers[name] = {"distance to p_t": apart, "crossings of 12 paths": crossings(paths)}
    return Made(drawn(exact, found), BROKEN if broken else CAPTION, numbers)


@styled()
def drawn(exact: ExactDenoiser, found: dict[str, Tensor]) -> Image.Image:
    """Paths over the density, and the histogram at the end."""
    size: Any = {"size": (10, 6.4), "width_ratios": (4, 1), "sharey": True}
    figure, axes = sheet("Two ways from noise to data", 2, 2, **size)
    x, times = torch.linspace(-2.7, 2.7, 200).double(), exact.schedule.grid(STEPS)
    now = times[:, None].expand(-1, 200).flatten()
    p = exact.law.log_density(x.repeat(STEPS + 1)[:, None], *exact.schedule(now)).exp()
    p = p.reshape(STEPS + 1, 200)
    for (ax, end), (name, paths) in zip(axes, found.items(), strict=True):
        ax.imshow(p.T.sqrt(), origin="lower", extent=(1, 0, -2.7, 2.7), aspect="auto", cmap="Blues")
        for i in range(12):
            ax.plot(times, paths[:, i], color="#d1495b", lw=0.9)
        say(ax, "time t: from noise to data", "$x_t$", name, xlim=(1, 0), ylim=(-2.7, 2.7))
        ax.grid(visible=False)
        edges = torch.linspace(-2.7, 2.7, 60).numpy()
        end.hist(paths[-1].numpy(), edges, density=True, orientation="horizontal", color="#d1495b")
        end.plot(p[-1], x, "k", lw=1.2)
        say(end, "density at t = 0", "")
    return picture(figure)
