"""Noise schedules: the laws alpha_t, sigma_t of the forward process x_t = alpha_t x_0 + sigma_t eps.

Time t is in [0, 1], 0 = data and 1 = noise. Everything else the lecture derives from the two functions:
log-SNR lam(t) = log(alpha_t / sigma_t), and the forward SDE dx = f(t) x dt + g(t) dw with
f = d log(alpha_t) / dt and g^2 = d sigma_t^2 / dt - 2 f sigma_t^2 (Kingma et al. 2021, eq. 2; Song et al. 2021, eq. 5).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor


def expand(a: Tensor, x: Tensor) -> Tensor:
    """Append singleton axes to `a` of shape () or (B,) until it broadcasts against x of shape (B, ...)."""
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim)) if a.ndim else a


def derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """df/dt, elementwise, by automatic differentiation."""
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        return torch.autograd.grad(f(t).sum(), t)[0]


class Schedule:
    """The interface: `schedule(t) -> (alpha_t, sigma_t)`, tensors of t's shape and dtype. Members are frozen dataclasses."""

    t_min = 1e-3  # training times stop here: below it the targets are all noise (eps) or all rounding (x0)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def log_snr(self, t: Tensor) -> Tensor:
        """lam(t) = log(alpha_t / sigma_t), strictly decreasing in t."""
        alpha, sigma = self(t)
        return alpha.log() - sigma.log()

    def inverse_log_snr(self, lam: Tensor) -> Tensor:
        """The t with log_snr(t) = lam, by bisection on [0, 1] (60 halvings: exact to double precision)."""
        low, high = torch.zeros_like(lam), torch.ones_like(lam)
        for _ in range(60):
            middle = (low + high) / 2
            too_clean = self.log_snr(middle) > lam
            low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
        return (low + high) / 2

    def drift(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f(t) and g^2(t) of the forward SDE dx = f x dt + g dw (Song et al. 2021, eq. 5)."""
        f = derivative(lambda t: self(t)[0].log(), t)
        sigma = self(t)[1]
        return f, derivative(lambda t: self(t)[1].square(), t) - 2 * f * sigma.square()

    def times(self, u: Tensor) -> Tensor:
        """Training times for uniform numbers u in [0, 1)."""
        return self.t_min + (1 - self.t_min) * u

    def grid(self, steps: int) -> Tensor:
        """Sampling times: `steps + 1` of them, float64, evenly spaced from 1 down to 0."""
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


@dataclass(frozen=True)
class VP(Schedule):
    """The lecture's variance-preserving SDE with beta(t) = beta_min + t (beta_max - beta_min).

    alpha_t = exp(-t^2 (beta_max - beta_min) / 4 - t beta_min / 2), sigma_t^2 = 1 - alpha_t^2 (Song et al. 2021, eq. 33).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(f"VP needs 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}")

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min
        # expm1: near t = 0 the plain 1 - alpha^2 loses every digit in float32
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()

    def inverse_log_snr(self, lam: Tensor) -> Tensor:
        """Solve the quadratic 2 log(alpha_t) = -softplus(-2 lam) (Lu et al. 2022, appendix D.4)."""
        slope = self.beta_max - self.beta_min
        y = 2 * torch.nn.functional.softplus(-2 * lam)  # = slope t^2 + 2 beta_min t
        return y / (self.beta_min + (self.beta_min**2 + slope * y).sqrt())


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha_t = cos(pi/2 (t + s) / (1 + s)) / cos(pi/2 s / (1 + s)) (Nichol & Dhariwal 2021, eq. 17).

    The paper clips beta at 0.999; in continuous time the same end is to stop at t_end < 1, so that alpha_1 > 0.
    """

    s: float = 0.008
    t_end: float = 0.999

    def __post_init__(self) -> None:
        if not (self.s > 0 and 0 < self.t_end < 1):
            raise ValueError(f"Cosine needs s > 0 and 0 < t_end < 1, got {self.s} and {self.t_end}")

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        start = 0.5 * math.pi * self.s / (1 + self.s)
        angle = start + t * self.t_end * (0.5 * math.pi - start)
        alpha = angle.cos() / math.cos(start)
        # cos^2(start) - cos^2(angle) = sin(angle - start) sin(angle + start): no cancellation near t = 0
        return alpha, ((angle - start).sin() * (angle + start).sin()).clamp(min=0).sqrt() / math.cos(start)


@dataclass(frozen=True)
class Discrete(Schedule):
    """DDPM's table of T betas as a special case of continuous time: t = i / T is the lecture's step i.

    alpha_{i/T}^2 = prod_{j <= i} (1 - beta_j), alpha_0 = 1, linear in between (Ho et al. 2020, eq. 4).
    `zero_snr` rescales the table so that alpha_1 = 0 (Lin et al. 2024, algorithm 1); predict v or x0 with it.
    """

    betas: Literal["linear", "scaled_linear", "cosine"] = "linear"
    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    zero_snr: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError("Discrete needs steps >= 1 and 0 < beta_start <= beta_end < 1")

    def beta_table(self) -> Tensor:
        """beta_1 ... beta_T, float64."""
        if self.betas == "cosine":
            alpha = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
            ratios = [alpha((i + 1) / self.steps) / alpha(i / self.steps) for i in range(self.steps)]
            return torch.tensor([min(1 - r, 0.999) for r in ratios], dtype=torch.float64)
        power = 0.5 if self.betas == "scaled_linear" else 1.0
        ends = self.beta_start**power, self.beta_end**power
        return torch.linspace(*ends, self.steps, dtype=torch.float64) ** (1 / power)

    @cached_property
    def alphas(self) -> Tensor:
        """alpha at t = 0, 1/T, ..., 1: (T + 1,) in float64."""
        alpha = (1 - self.beta_table()).cumprod(0).sqrt()
        if self.zero_snr:
            alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        return torch.cat([alpha.new_ones(1), alpha])

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table = self.alphas.to(t.device)
        position = t.double() * self.steps
        index = position.detach().floor().clamp(0, self.steps - 1).long()
        alpha = table[index] + (position - index) * (table[index + 1] - table[index])
        return alpha.to(t.dtype), (1 - alpha.square()).sqrt().to(t.dtype)

    def times(self, u: Tensor) -> Tensor:
        """Training times on the lecture's own grid: t = i / T, i = 1 ... T."""
        return ((u * self.steps).floor() + 1) / self.steps

    def grid(self, steps: int) -> Tensor:
        """Trailing spacing on the table's grid: i = round(T k / steps), k = steps ... 0 (Lin et al. 2024, table 2)."""
        if steps > self.steps:
            raise ValueError(f"{steps} sampling steps asked of a table of {self.steps}")
        return torch.linspace(self.steps, 0, steps + 1, dtype=torch.float64).round() / self.steps
