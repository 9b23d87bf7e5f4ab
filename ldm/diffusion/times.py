"""Times: the grids that sampling goes down, and the densities that training draws from.

A density is given by its quantile function, t = quantile(schedule, u) of uniform u, so that stratified u give stratified t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:  # a schedule has a grid
    from ldm.diffusion.schedules import Schedule

Spacing = Literal["auto", "uniform", "log_snr", "karras", "trailing", "leading"]


def ends(schedule: Schedule) -> Tensor:
    """(t_min, t_max) with finite log-SNR, float64: t_max is 1, or 1 - t_min for a law with alpha_1 = 0."""
    one = torch.ones((), dtype=torch.float64)
    t_max = one if schedule(one)[0] > 0 else one - schedule.t_min
    return torch.stack([one * schedule.t_min, t_max])


def grid(schedule: Schedule, steps: int, spacing: Spacing, table: int = 0) -> Tensor:
    """`steps + 1` decreasing times in float64, the last 0; the first 1, but for leading.

    uniform: even in t.
    log_snr: even in lam from t = 1 to t_min, then 0 (Lu et al. 2022, section 3.3).
    karras: even in (sigma / alpha)^(1/7) from t = 1 to t_min, then 0 (Karras et al. 2022, eq. 5).
    trailing: i = round(T k / steps), k = steps ... 0, on a table of T (Lin et al. 2024, table 2).
    leading: i = k floor(T / steps) + 1, k = steps - 1 ... 0, then 0: DDPM's and DDIM's code, whose 0 ... T - 1 is our
    i - 1. It starts below t = 1, where its authors start from unit noise and `solvers.start` from sigma_t's.
    """
    if steps < 1:
        raise ValueError(f"a grid has at least 1 step, got {steps}")
    if spacing in ("trailing", "leading"):
        return _on_table(steps, spacing, table)
    if spacing == "uniform":
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    low, high = schedule.log_snr(ends(schedule)).flip(0)
    if spacing == "log_snr":
        lam = torch.linspace(low.item(), high.item(), steps, dtype=torch.float64)
    else:
        roots = (-high / RHO).exp().item(), (-low / RHO).exp().item()
        lam = -RHO * torch.linspace(roots[1], roots[0], steps, dtype=torch.float64).log()
    # the ends are set, not computed: no rounding, and 1 itself where its log-SNR is infinite
    inner = schedule.inverse_log_snr(lam)[1:]
    return torch.cat(
        [torch.ones(1, dtype=torch.float64), inner, torch.zeros(1, dtype=torch.float64)]
    )


RHO = 7.0


def _on_table(steps: int, spacing: Spacing, table: int) -> Tensor:
    if not table:
        raise ValueError(f"{spacing} spacing is of a table of times: schedule Discrete")
    if spacing == "trailing":
        return torch.linspace(table, 0, steps + 1, dtype=torch.float64).round() / table
    index = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (table // steps) + 1
    return torch.cat([index, index.new_zeros(1)]) / table


def truncated_normal(u: Tensor, mean: float, std: float, low: Tensor, high: Tensor) -> Tensor:
    """Quantiles of N(mean, std^2) restricted to [low, high]."""
    below, above = (torch.special.ndtr((end.to(u) - mean) / std) for end in (low, high))
    normal = torch.special.ndtri(below + u * (above - below))
    return (mean + std * normal).clamp(low.to(u), high.to(u))


@dataclass(frozen=True)
class Uniform:
    """t uniform over the schedule's training times (Algorithm 1)."""

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        return schedule.times(u)

    def weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        """The loss is an expectation over the times as drawn."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class LogitNormal(Uniform):
    """logit(t) ~ N(mean, std^2): more of the middle (Esser et al. 2024, eq. 19)."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _positive(self)

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        low, high = torch.tensor([schedule.t_min, 1.0], dtype=torch.float64).logit()
        return schedule.admit(truncated_normal(u, self.mean, self.std, low, high).sigmoid())


@dataclass(frozen=True)
class LogNormal(Uniform):
    """log(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022, table 1: P_mean, P_std), kept within the law's range."""

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        _positive(self)

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        low, high = -schedule.log_snr(ends(schedule))
        return schedule.admit(
            schedule.inverse_log_snr(-truncated_normal(u, self.mean, self.std, low, high))
        )


@dataclass(frozen=True)
class Importance(Uniform):
    """t with density proportional to g^2 / sigma^2 = -2 dlam / dt, that is lam uniform; the loss stays what it was.

    The least noisy estimate of a loss with likelihood weight (Song et al. 2021b, section 5): each sample is divided by
    its density, which leaves a constant times the plain loss of eps.
    """

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        if getattr(schedule, "steps", 0):
            raise ValueError("importance times need a schedule of continuous time, not a table")
        high, low = schedule.log_snr(ends(schedule)).to(u)
        return schedule.admit(schedule.inverse_log_snr(high + u * (low - high)))

    def weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Density of uniform times over ours: (lam range) / ((t_max - t_min) (-dlam / dt))."""
        (t_min, t_max), (high, low) = (
            ends(schedule).tolist(),
            schedule.log_snr(ends(schedule)).tolist(),
        )
        (alpha, sigma), (alpha_rate, sigma_rate) = schedule(t), schedule.rates(t)
        return (
            (high - low)
            / (t_max - t_min)
            * alpha
            * sigma
            / (alpha * sigma_rate - alpha_rate * sigma)
        )


def _positive(times: LogitNormal | LogNormal) -> None:
    if not times.std > 0:
        raise ValueError(f"{type(times).__name__} needs std above 0, got {times.std}")
