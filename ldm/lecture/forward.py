"""1. Many small steps of noise, and one jump: the same law at every time."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.schedules import VP, Schedule
from ldm.diffusion.simulate import noising
from ldm.lecture.base import Made
from ldm.lecture.data import few, line, randn
from ldm.points.exact import Mixture
from ldm.system.plots import picture, say, sheet, styled

SHOWN = (0.03, 0.15, 0.4, 1.0)
TITLE = "A hundred small steps of noise, and one jump"
CAPTION = (
    "Grey: 20,000 points noised in 100 small steps of the chain q(x_s | x_t). Blue: as many that "
    "jumped to t in one line, x_t = alpha_t x_0 + sigma_t eps. Black: the exact density. The three "
    "lie on top of each other at every t, which is why training never runs the chain."
)
BROKEN = (
    "The chain adds its noise and forgets to shrink x_t by alpha_s / alpha_t. It grows wider than "
    "the jump with every step, and at t = 1 it is no N(0, 1): the sampler would start elsewhere "
    "than the chain ended."
)


def forgetful(law: Schedule, x_0: Tensor, times: Tensor, draw: Callable[[], Tensor]) -> Tensor:
    """The chain without the factor alpha_s / alpha_t."""
    path = [x_0]
    for t, s in pairwise(times):
        a = law(s)[0] / law(t)[0]
        b2 = law(s)[1] ** 2 - (a * law(t)[1]) ** 2
        path.append(path[-1] + b2.sqrt() * draw())
    return torch.stack(path)


def distance(x: Tensor, law: Mixture, alpha: Tensor, sigma: Tensor) -> float:
    """Kolmogorov's: the largest difference of the two distribution functions on a line."""
    ordered = x.flatten().sort().values
    std = (alpha**2 * law.covariances[:, 0, 0] + sigma**2).sqrt()
    normal = torch.distributions.Normal(alpha * law.means[:, 0], std)
    exact = (law.weights * normal.cdf(ordered[:, None])).sum(1)
    return (exact - torch.linspace(0, 1, len(ordered)).double()).abs().max().item()


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    law, schedule, n = line(), VP(), few(20_000, size, 2000)
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    x_0, keys = law.draw(n, torch.Generator().manual_seed(0)), iter(range(1000))
    noise = lambda: randn(n, 1, key=f"forward {next(keys)}")  # noqa: E731
    chain = (forgetful if broken else noising)(schedule, x_0, times, noise)
    found = {}
    for t in SHOWN:
        alpha, sigma = schedule(torch.tensor(t, dtype=torch.float64))
        parts = chain[round(100 * t)], alpha * x_0 + sigma * noise()
        found[t] = {"parts": parts, "at": (alpha, sigma)}
    numbers = {
        f"t={t}": {
            "chain": distance(own["parts"][0], law, *own["at"]),
            "jump": distance(own["parts"][1], law, *own["at"]),
            "chain_std": own["parts"][0].std().item(),
        }
        for t, own in found.items()
    }
    return Made(drawn(law, found), BROKEN if broken else CAPTION, {"distance to the law": numbers})


@styled()
def drawn(law: Mixture, found: dict[float, Any]) -> Image.Image:
    """Histograms of chain and jump under the density, a panel for each time."""
    figure, axes = sheet(TITLE, 1, 4, (11, 3.6), sharey=True)
    x = torch.linspace(-3.5, 3.5, 400).double()[:, None]
    for ax, (t, own) in zip(axes[0], found.items(), strict=True):
        edges = torch.linspace(-3.5, 3.5, 71).numpy()
        chain, jump = (part.flatten().numpy() for part in own["parts"])
        ax.hist(chain, edges, density=True, color="#bbbbbb", label="chain, step by step")
        ax.hist(jump, edges, density=True, histtype="step", lw=1.3, label="jump to t")
        ax.plot(x[:, 0], law.log_density(x, *own["at"]).exp(), "k", lw=1, label="exact density")
        say(ax, "$x_t$", "density" if t == SHOWN[0] else "", f"t = {t:g}")
    axes[0, 0].legend(loc="upper left", fontsize=8)
    axes[0, 0].set_ylim(0, 1.9)
    return picture(figure)
