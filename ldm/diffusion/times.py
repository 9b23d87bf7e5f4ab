"""Times that training draws: densities on [0, 1], each by its quantile function.

t = quantile(schedule, u) of uniform u, so that stratified u give stratified t. What belongs to the
law alone stays on the host, as numbers: nothing is copied to u's device.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ldm.diffusion.schedules import Schedule


def truncated_normal(u: Tensor, mean: float, std: float, low: float, high: float) -> Tensor:
    """Quantiles of N(mean, std^2) restricted to [low, high]."""
    ends = (torch.tensor(end, dtype=u.dtype) for end in (low, high))
    below, above = (torch.special.ndtr((end - mean) / std) for end in ends)
    normal = torch.special.ndtri(below.item() + u * (above - below).item())
    return (mean + std * normal).clamp(low, high)


@dataclass(frozen=True)
class Uniform:
    """t uniform over the schedule's training times (Ho et al. 2020, algorithm 1)."""

    continuous: ClassVar[bool] = False  # whether only a schedule of continuous time has them

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        """Times of uniform u in [0, 1), of u's shape and dtype."""
        return schedule.times(u)

    def weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        """What multiplies the loss at t: 1, an expectation over the times as drawn."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class _Normal(Uniform):
    """A normal law of some function of t."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"{type(self).__name__} needs std above 0, got {self.std}")


@dataclass(frozen=True)
class LogitNormal(_Normal):
    """logit(t) ~ N(mean, std^2): more of the middle (Esser et al. 2024, eq. 19)."""

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        low, high = torch.tensor([schedule.t_min, 1.0], dtype=torch.float64).logit().tolist()
        return schedule.admit(truncated_normal(u, self.mean, self.std, low, high).sigmoid())


@dataclass(frozen=True)
class LogNormal(_Normal):
    """log(sigma / alpha) ~ N(mean, std^2), kept within the law's range.

    Karras et al. 2022, table 1: P_mean, P_std.
    """

    mean: float = -1.2
    std: float = 1.2

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        low, high = (-schedule.log_snr(schedule.ends())).tolist()
        log_ratio = truncated_normal(u, self.mean, self.std, low, high)
        return schedule.admit(schedule.inverse_log_snr(-log_ratio))


@dataclass(frozen=True)
class Importance(Uniform):
    """t with density proportional to g^2 / sigma^2 = -2 dlam / dt: lam uniform, the same loss.

    The least noisy estimate of a loss with likelihood weight (Song et al. 2021b, section 5): each
    sample is divided by its density, which leaves a constant times the plain loss of eps.
    ValueError for a table of times.
    """

    continuous: ClassVar[bool] = True

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        if not schedule.continuous:
            raise ValueError("importance times need a schedule of continuous time, not a table")
        high, low = schedule.log_snr(schedule.ends()).to(u.dtype)
        return schedule.admit(schedule.inverse_log_snr(high.item() + u * (low - high).item()))

    def weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Density of uniform times over ours: (lam range) / ((t_max - t_min) (-dlam / dt))."""
        t_min, t_max = schedule.ends().tolist()
        high, low = schedule.log_snr(schedule.ends()).tolist()
        (alpha, sigma), (alpha_rate, sigma_rate) = schedule(t), schedule.rates(t)
        slope = alpha * sigma_rate - alpha_rate * sigma  # -dlam / dt = slope / (alpha sigma)
        return (high - low) / (t_max - t_min) * alpha * sigma / slope
