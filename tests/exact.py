"""Exact answers that solvers are held against: denoisers in closed form, orders of convergence,
laws without Monte Carlo (`ldm.diffusion.exact`)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ldm.diffusion.exact import Gaussian, law
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers import AdaptiveODE, Solver, sample


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
    """The exact denoiser of a mixture of equal Gaussians around `means` (K, 2)."""

    def __init__(self, schedule: Schedule, std: float = 0.25):
        self.schedule, self.std = schedule, std
        self.means = torch.tensor([[-1.0, 0.3], [0.8, 0.8], [0.5, -0.9]], dtype=torch.float64)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule(t)
        means, variance = self.means.to(x_t), alpha**2 * self.std**2 + sigma**2
        apart = x_t[:, None] - alpha * means  # (B, K, 2)
        share = (-apart.square().sum(-1) / (2 * variance)).softmax(1)[..., None]
        return (share * (means + (alpha * self.std**2 / variance) * apart)).sum(1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Samples of the data."""
        pick = torch.randint(len(self.means), (count,), generator=generator)
        return self.means[pick] + self.std * torch.randn(
            count, 2, generator=generator, dtype=torch.float64
        )

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The probability flow from t to s, within 1e-12."""
        return sample(AdaptiveODE(1e-12, 1e-12, "dopri8"), self, x, torch.stack([t, s]), no_noise)


def no_noise() -> Tensor:
    raise AssertionError("a deterministic solver asked for noise")


def even_log_snr(schedule: Schedule, steps: int, first: float = 0.95, last: float = 0.05) -> Tensor:
    """Times even in log-SNR between two times off the ends: an order is a statement about equal
    steps of a smooth law.
    """
    ends = schedule.log_snr(torch.tensor([first, last], dtype=torch.float64)).tolist()
    return schedule.inverse_log_snr(torch.linspace(*ends, steps + 1, dtype=torch.float64))


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


def slopes(errors: Sequence[float]) -> list[float]:
    """Orders of convergence from errors at doubled numbers of steps."""
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


Grid = Callable[[Schedule, int], Tensor]


def flow_errors(
    solver: Solver,
    denoise: Gaussian | Mixture,
    counts: Sequence[int],
    grid: Grid = even_log_snr,
    end: bool = False,
) -> list[float]:
    """Largest error over a few points of the flow for each number of steps."""
    generator, errors = torch.Generator().manual_seed(0), []
    noise = torch.randn(16, 2, generator=generator, dtype=torch.float64)
    for count in counts:
        times = grid(denoise.schedule, count)
        alpha, sigma = denoise.schedule(times[0])
        x = alpha * 0.3 + sigma * noise
        errors.append(
            (sample(solver, denoise, x, times, no_noise) - denoise.flow(x, times[0], times[-1]))
            .abs()
            .max()
            .item()
        )
    return errors


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


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| without bias: 0 in the mean if the laws are equal (Szekely
    & Rizzo 2013).
    """
    within = lambda a: torch.cdist(a, a).sum() / (len(a) * (len(a) - 1))
    return (2 * torch.cdist(x, y).mean() - within(x) - within(y)).item()
