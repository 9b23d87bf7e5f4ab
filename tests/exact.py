"""Exact answers that solvers are held against: denoisers in closed form, orders of convergence,
laws without Monte Carlo (`ldm.diffusion.exact`, `ldm.points.exact`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.diffusion.exact import (
    Gaussian,
    Grid,
    even_log_snr,
    flow,
    flow_errors,
    law,
    no_noise,
    slopes,
)
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers import Solver
from ldm.points import exact, metrics

__all__ = ["Gaussian", "even_log_snr", "flow_errors", "law", "no_noise", "slopes"]


@dataclass(frozen=True)
class Exploding(Schedule):
    """A VE law from sigma 0.01 to 20."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), 0.01 * 2000**t

    def inverse_log_snr(self, lam: Tensor) -> Tensor:
        return -(lam + math.log(0.01)) / math.log(2000)


@dataclass(frozen=True)
class Straight(Schedule):
    """Flow matching: alpha = 1 - t, sigma = t; alpha_1 = 0 and sigma_0 = 0 exactly."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def inverse_log_snr(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(-lam)


class Mixture:
    """The exact denoiser of a mixture of three equal Gaussians (`ldm.points.exact`)."""

    def __init__(self, schedule: Schedule, std: float = 0.25):
        self.schedule, self.std = schedule, std
        self.law = exact.Mixture.round([[-1.0, 0.3], [0.8, 0.8], [0.5, -0.9]], [std] * 3)
        self.means = self.law.means

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.law.denoised(x_t, *self.schedule(t))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Samples of the data."""
        return self.law.draw(count, generator)

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The probability flow from t to s, within 1e-12."""
        return flow(self, x, t, s)


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Without bias: 0 in the mean if the laws are equal."""
    return metrics.energy_distance(x, y, unbiased=True)


def even_time(schedule: Schedule, steps: int) -> Tensor:
    """Times even in t between two off the ends: steps of changing size in log-SNR."""
    return torch.linspace(0.95, 0.05, steps + 1, dtype=torch.float64)


def even_ratio(schedule: Schedule, steps: int, first: float = 0.2) -> Tensor:
    """Times even in u = sigma / alpha down to u = 0."""
    u = torch.exp(-schedule.log_snr(torch.tensor(first, dtype=torch.float64)))
    inner = schedule.inverse_log_snr(
        -torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1].mul(u).log()
    )
    return torch.cat([inner, inner.new_zeros(1)])


def law_errors(
    solver: Solver, denoise: Gaussian, counts: Sequence[int], grid: Grid = even_log_snr
) -> list[tuple[float, float]]:
    """Errors of the mean and of the variance for each number of steps."""
    errors = []
    for count in counts:
        times = grid(denoise.schedule, count)
        (mean, variance), (wanted, std) = law(solver, denoise, times), denoise.marginal(times[-1])
        errors.append((abs(mean - wanted.item()), abs(variance - std.item() ** 2)))
    return errors
