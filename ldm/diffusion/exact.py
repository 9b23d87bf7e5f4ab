"""What solvers make of data whose denoiser is known: laws without Monte Carlo, and orders."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers import AdaptiveODE, Denoise, Solver, sample

Grid = Callable[[Schedule, int], Tensor]


class Gaussian:
    """The exact denoiser of x_0 ~ N(mean, std^2), each number for itself: E[x_0 | x_t]."""

    def __init__(self, schedule: Schedule, mean: float = 0.7, std: float = 0.6):
        self.schedule, self.mean, self.std = schedule, mean, std

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule(t)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_t."""
        alpha, sigma = self.schedule(t)
        return alpha * self.mean, (alpha**2 * self.std**2 + sigma**2).sqrt()

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The probability flow from t to s, exactly: it keeps (x - mean_t) / std_t."""
        (mean_t, std_t), (mean_s, std_s) = self.marginal(t), self.marginal(s)
        return mean_s + (x - mean_t) * std_s / std_t


def law(solver: Solver, denoise: Gaussian, times: Tensor) -> tuple[float, float]:
    """Mean and variance of what a solver makes of Gaussian data: exact if its steps are affine.

    Then the result is c + sum_k b_k z_k over all noises of the loop, the start's too: one loop over
    a batch in which row 0 has no noise and row k has z_k = 1 alone reads every coefficient. The
    start is p_t of times[0] itself.
    """
    mean, std = denoise.marginal(times[0])
    drawn: list[Tensor] = []

    def count() -> Tensor:
        drawn.append(torch.zeros(1, 1, dtype=torch.float64))
        return drawn[-1]

    sample(solver, denoise, mean.expand(1, 1), times, count)
    unit = iter(torch.eye(2 + len(drawn), dtype=torch.float64)[1:, :, None])
    c = sample(solver, denoise, mean + std * next(unit), times, lambda: next(unit)).flatten()
    return c[0].item(), (c[1:] - c[0]).square().sum().item()


def flow(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The probability flow from t to s, within 1e-12."""
    return sample(AdaptiveODE(1e-12, 1e-12, "dopri8"), denoise, x, torch.stack([t, s]), no_noise)


def no_noise() -> Tensor:
    """The noise of a solver that asks for none."""
    raise AssertionError("a deterministic solver asked for noise")


def even_log_snr(schedule: Schedule, steps: int, first: float = 0.95, last: float = 0.05) -> Tensor:
    """Times even in log-SNR between two off the ends: orders are of equal steps, smooth laws."""
    high, low = schedule.log_snr(torch.tensor([first, last], dtype=torch.float64)).tolist()
    return schedule.inverse_log_snr(torch.linspace(high, low, steps + 1, dtype=torch.float64))


def slopes(errors: Sequence[float]) -> list[float]:
    """Orders of convergence from errors at doubled numbers of steps."""
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


def flow_errors(
    solver: Solver, denoise: Denoise, counts: Sequence[int], grid: Grid = even_log_snr
) -> list[float]:
    """Largest error over a few points (16, 2) of the flow for each number of steps, float64."""
    noise = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exactly = getattr(denoise, "flow", lambda *where: flow(denoise, *where))
    errors = []
    for count in counts:
        times = grid(denoise.schedule, count)
        alpha, sigma = denoise.schedule(times[0])
        x = alpha * 0.3 + sigma * noise
        made = sample(solver, denoise, x, times, no_noise)
        errors.append((made - exactly(x, times[0], times[-1])).abs().max().item())
    return errors
