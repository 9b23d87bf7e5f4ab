"""The DPM-Solver++ family: exact in the linear part, x0_hat extrapolated from the steps before.

With lam = log(alpha / sigma) and h = lam_s - lam_t (Lu et al. 2022b, eq. 9)

    x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^h e^{-(h - r)} x0_hat(lam_t + r) dr.

Where h is infinite (sigma_s = 0 or alpha_t = 0) only the first-order step has a limit, and it is
taken.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers.base import Denoise, Past, Randn, Solver, Step


def exponential(schedule: Schedule, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^{-h}) x0, DDIM's: exact for a constant x0."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    return (sigma_s / sigma_t) * x_t + (alpha_s - alpha_t * sigma_s / sigma_t) * x0


def spans(schedule: Schedule, t: Tensor, s: Tensor, past: Past, most: int) -> list[Tensor]:
    """h and the spans in lam of up to `most` steps before, newest first, up to an infinite one."""
    times = [s, t, *(before for before, _ in reversed(past[-most:]))]
    lam = [schedule.log_snr(u) for u in times]
    found: list[Tensor] = []
    for after, before in pairwise(lam):
        if not torch.isfinite(after - before):
            break
        found.append(after - before)
    return found


@dataclass(frozen=True)
class DPMpp2M(Solver):
    """DPM-Solver++(2M), second order (Lu et al. 2022b, algorithm 2), one evaluation a step.

    x_s = (sigma_s / sigma_t) x_t - alpha_s (e^{-h} - 1) D, D = x0_hat + (x0_hat - x0_before) h / (2
    h_before).
    """

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        x0_hat = denoise(x_t, t)
        estimate = midpoint(denoise.schedule, x0_hat, t, s, past)
        return exponential(denoise.schedule, x_t, estimate, t, s), x0_hat


def midpoint(schedule: Schedule, x0_hat: Tensor, t: Tensor, s: Tensor, past: Past) -> Tensor:
    """D of 2M: x0_hat extrapolated to the middle of the step; x0_hat itself without a past."""
    h = spans(schedule, t, s, past, 1)
    return x0_hat if len(h) < 2 else x0_hat + (x0_hat - past[-1][1]) * (h[0] / (2 * h[1]))


@dataclass(frozen=True)
class DPMpp2MSDE(Solver):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b, eq. 19): noise eta, 1 the reverse SDE's, 0 DPMpp2M.

    x_s = (sigma_s / sigma_t) e^{-eta h} x_t + alpha_s (1 - e^{-(1 + eta) h}) D
          + sigma_s sqrt(1 - e^{-2 eta h}) z.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        # beyond 2 ten steps miss the data's spread by more than a fifth
        if not 0 <= self.eta <= 2:
            raise ValueError(f"DPMpp2MSDE needs eta of at least 0 and at most 2, got {self.eta}")

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
        x0_hat = denoise(x_t, t)
        estimate = midpoint(denoise.schedule, x0_hat, t, s, past)
        if not self.eta:
            return exponential(denoise.schedule, x_t, estimate, t, s), x0_hat
        ratio = (alpha_t * sigma_s) / (alpha_s * sigma_t)  # e^{-h}; 0 at the ends
        shrink = ratio**self.eta
        mean = (sigma_s / sigma_t * shrink) * x_t + (alpha_s * (1 - ratio * shrink)) * estimate
        if sigma_s == 0:
            return mean, x0_hat
        return mean + sigma_s * (1 - shrink**2).sqrt() * randn(), x0_hat


@dataclass(frozen=True)
class DPMpp3M(Solver):
    """DPM-Solver++ multistep of third order: x0_hat as a parabola in lam through three evaluations.

    x_s = (sigma_s / sigma_t) x_t + alpha_s [E x0_hat + (h - E) D' + (h^2 / 2 - h + E) D''],
    E = 1 - e^{-h}: the integral of Lu et al. 2022b, eq. 9, for x0_hat + r D' + r^2/2 D''. D'' is
    twice the second divided difference; diffusers' multistep code leaves the 2 out and so has order
    2 (benchmarks/solver_orders.py). The first step has no past, and of first order would spoil the
    third: it takes one more evaluation, at s, and is of second (n steps: n + 1 evaluations).
    """

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        x0_hat, schedule = denoise(x_t, t), denoise.schedule
        x_s = exponential(schedule, x_t, x0_hat, t, s)
        h = spans(schedule, t, s, past, 2)
        if not h:
            return x_s, x0_hat
        alpha_s, exact = schedule(s)[0], -torch.expm1(-h[0])
        slope = (denoise(x_s, s) - x0_hat) / h[0] if len(h) == 1 else (x0_hat - past[-1][1]) / h[1]
        if len(h) == 3:
            before = (past[-1][1] - past[-2][1]) / h[2]
            second = (slope - before) / (h[1] + h[2])  # divided difference, D'' / 2
            slope = slope + h[1] * second
            x_s = x_s + (2 * alpha_s * (h[0] ** 2 / 2 - h[0] + exact)) * second
        return x_s + (alpha_s * (h[0] - exact)) * slope, x0_hat
