"""How near points are to their data: energy distance, errors of denoisers, likelihood."""

import torch
from torch import Tensor

from ldm.diffusion.schedules import expand
from ldm.diffusion.solvers import Denoise

ROWS = 1024  # of a table of distances at once


def mean_distance(x: Tensor, y: Tensor) -> Tensor:
    """E|x - y| over all pairs of rows of x (N, D) and y (M, D), float64."""
    return torch.cat(
        [torch.cdist(part.double(), y.double()).mean(1) for part in x.split(ROWS)]
    ).mean()


def energy_distance(x: Tensor, y: Tensor, *, unbiased: bool = False) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'|; 0 where and only where the laws are equal.

    Szekely & Rizzo 2013, eq. 6.1: at least 0, and for two draws of one law of the order of
    E|x - x'| (1/N + 1/M), the floor. unbiased: without the pairs of a point with itself; 0 in the
    mean for equal laws, and then below 0 as often as above.
    """
    n, m = (len(part) / (len(part) - 1) if unbiased else 1.0 for part in (x, y))
    within = n * mean_distance(x, x) + m * mean_distance(y, y)
    return float(2 * mean_distance(x, y) - within)


@torch.no_grad()
def denoiser_errors(
    denoise: Denoise, exact: Denoise, x_0: Tensor, times: Tensor, generator: torch.Generator
) -> Tensor:
    """RMS of x0_hat - E[x_0 | x_t] at each of times (T,), over x_t = alpha x_0 + sigma eps.

    In units of x_0, whose standard deviation is 1 in the space of points: 0.05 is 5 %.
    """
    found = []
    for t in times:
        alpha, sigma = (expand(part, x_0).to(x_0) for part in denoise.schedule(t))
        x_t = alpha * x_0 + sigma * torch.randn(x_0.shape, generator=generator).to(x_0)
        error = denoise(x_t, t) - exact(x_t, t)
        found.append(error.double().square().mean().sqrt())
    return torch.stack(found)


def error_times(count: int = 50, least: float = 1e-3) -> Tensor:
    """Middles of `count` equal pieces of [least, 1]: their mean is the average over t."""
    edges = torch.linspace(least, 1, count + 1, dtype=torch.float64)
    return (edges[1:] + edges[:-1]) / 2
