"""Solvers: from noise to data along decreasing times, one `step(denoise, x_t, t, s, randn, past)` each, s < t.

A step returns x_s and the x0_hat it used. `past` holds the (t, x0_hat) of the steps before; it belongs to the one loop
`sample`, so a solver has no state. t and s are 0-dim float64: coefficients are exact, x keeps its own dtype.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor

from ldm.diffusion.denoiser import eps_hat
from ldm.diffusion.schedules import Schedule

Past = list[tuple[Tensor, Tensor]]
Step = tuple[Tensor, Tensor]


class Denoise(Protocol):
    """What a solver sees of a model: x_t, t -> x0_hat, and the schedule it was trained on."""

    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor: ...


class Solver(Protocol):
    """A sampling method, without state."""

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Callable[[], Tensor], past: Past) -> Step: ...


def sample(
    solver: Solver,
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    randn: Callable[[], Tensor],
    watch: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Carry x from times[0] to times[-1]. `watch(step, x_s, x0_hat)` is called after every step."""
    past: Past = []
    for i, (t, s) in enumerate(pairwise(times)):
        x, x0_hat = solver.step(denoise, x, t, s, randn, past)
        past = [*past[-3:], (t, x0_hat)]
        if watch is not None:
            watch(i, x, x0_hat)
    return x


def start(schedule: Schedule, t: Tensor, noise: Tensor) -> Tensor:
    """The prior at t = 1: x_1 = sigma_1 eps (alpha_1 x_0 is what the law forgets)."""
    return schedule(t)[1] * noise


@dataclass(frozen=True)
class DDIM:
    """x_s = alpha_s x0_hat + sqrt(sigma_s^2 - std^2) eps_hat + std z (Song et al. 2021 "DDIM", eq. 12).

    std = eta (sigma_s / sigma_t) sqrt(1 - (alpha_t / alpha_s)^2) for VP (eq. 16): eta = 0 is the probability-flow ODE
    in its exponential form, eta = 1 is DDPM with the smaller variance.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"DDIM needs eta in [0, 1], got {self.eta}")

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Callable[[], Tensor], past: Past) -> Step:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
        x0_hat = denoise(x_t, t)
        std = self.eta * posterior_std(alpha_t, sigma_t, alpha_s, sigma_s)
        x_s = alpha_s * x0_hat + (sigma_s**2 - std**2).clamp(min=0).sqrt() * eps_hat(x_t, x0_hat, alpha_t, sigma_t)
        return (x_s + std * randn() if self.eta else x_s), x0_hat


@dataclass(frozen=True)
class DDPM:
    """Algorithm 2 of Ho et al. 2020: the Gaussian posterior q(x_s | x_t, x0_hat), for any s < t (eqs. 6-7).

    `variance` is the lecture's choice: "small" is the posterior's own beta-tilde, "large" is beta = 1 - (alpha_t/alpha_s)^2.
    """

    variance: Literal["small", "large"] = "small"

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Callable[[], Tensor], past: Past) -> Step:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
        x0_hat = denoise(x_t, t)
        a = alpha_t / alpha_s  # of the transition x_t = a x_s + b z
        b2 = sigma_t**2 - a**2 * sigma_s**2
        mean = (a * sigma_s**2 / sigma_t**2) * x_t + (alpha_s * b2 / sigma_t**2) * x0_hat
        if s == 0:  # the last line of Algorithm 2: z = 0 if t = 1
            return mean, x0_hat
        std = b2.sqrt() if self.variance == "large" else posterior_std(alpha_t, sigma_t, alpha_s, sigma_s)
        return mean + std * randn(), x0_hat


def posterior_std(alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor) -> Tensor:
    """Standard deviation of q(x_s | x_t, x_0): (sigma_s / sigma_t) sqrt(sigma_t^2 - (alpha_t sigma_s / alpha_s)^2)."""
    transition = (sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2).clamp(min=0)
    return sigma_s / sigma_t * transition.sqrt()


@dataclass(frozen=True)
class DPMpp2M:
    """DPM-Solver++(2M): second-order multistep in lam = log(alpha / sigma) (Lu et al. 2022b, algorithm 2).

    x_s = (sigma_s / sigma_t) x_t - alpha_s (e^{-h} - 1) D, D = x0_hat + (x0_hat - x0_before) h / (2 h_before).
    """

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Callable[[], Tensor], past: Past) -> Step:
        x0_hat = denoise(x_t, t)
        sigma_t, (alpha_s, sigma_s) = denoise.schedule(t)[1], denoise.schedule(s)
        if sigma_s == 0:  # h is infinite: the exact limit of the first-order step, as in the authors' code
            return alpha_s * x0_hat, x0_hat
        lam = denoise.schedule.log_snr
        h = lam(s) - lam(t)
        estimate = x0_hat
        if past and torch.isfinite(lam(past[-1][0])) and torch.isfinite(h):
            t_before, x0_before = past[-1]
            estimate = x0_hat + (x0_hat - x0_before) * (h / (2 * (lam(t) - lam(t_before))))
        return sigma_s / sigma_t * x_t - alpha_s * torch.expm1(-h) * estimate, x0_hat
