"""Noise schedules: the laws alpha_t, sigma_t of the forward process x_t = alpha_t x_0 + sigma_t eps.

Time t is in [0, 1], 0 = data and 1 = noise. Everything else the lecture derives from the two functions:
log-SNR lam(t) = log(alpha_t / sigma_t), and the forward SDE dx = f(t) x dt + g(t) dw with
f = d log(alpha_t) / dt and g^2 = d sigma_t^2 / dt - 2 f sigma_t^2 (Kingma et al. 2021, eq. 2; Song et al. 2021, eq. 5).

| law | alpha_t | sigma_t | paper |
|---|---|---|---|
| `VP` | exp(-1/2 int beta) | sqrt(1 - alpha^2) | the lecture's; Song et al. 2021, eq. 33 |
| `SubVP` | the same | 1 - alpha^2 | Song et al. 2021, eq. 29 |
| `Cosine` | cos | sin | Nichol & Dhariwal 2021 |
| `VE` | 1 | geometric | Song et al. 2021, eq. 31 |
| `Linear` | 1 - t | t | flow matching, Lipman et al. 2023 |
| `Discrete` | a table of T | sqrt(1 - alpha^2) | Ho et al. 2020 |
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ldm.diffusion.times import Spacing, grid


def expand(a: Tensor, x: Tensor) -> Tensor:
    """Append singleton axes to `a` of shape () or (B,) until it broadcasts against x of shape (B, ...)."""
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim)) if a.ndim else a


def derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """df/dt, elementwise, by automatic differentiation."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
    ):  # sampling runs in inference mode, which enable_grad leaves on
        t = t.detach().clone().requires_grad_()
        return torch.autograd.grad((f(t) + 0 * t).sum(), t)[0]  # 0 t: for a constant f


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

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d alpha_t / dt and d sigma_t / dt. Where sigma_t grows as sqrt(t), the second is infinite at t = 0."""
        return derivative(lambda t: self(t)[0], t), derivative(lambda t: self(t)[1], t)

    def drift(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f(t) and g^2(t) of the forward SDE dx = f x dt + g dw (Song et al. 2021, eq. 5)."""
        (alpha, sigma), (alpha_rate, sigma_rate) = self(t), self.rates(t)
        f = alpha_rate / alpha
        return f, 2 * sigma * (sigma_rate - f * sigma)

    def times(self, u: Tensor) -> Tensor:
        """Training times for uniform numbers u in [0, 1)."""
        return self.t_min + (1 - self.t_min) * u

    def admit(self, t: Tensor) -> Tensor:
        """The training time nearest to t in [0, 1] that this law has."""
        return t.clamp(self.t_min, 1)

    def grid(self, steps: int, spacing: Spacing = "auto") -> Tensor:
        """Sampling times: `steps + 1` of them, float64, down to 0; see `ldm.diffusion.times.grid`."""
        return grid(self, steps, "uniform" if spacing == "auto" else spacing)


class VariancePreserving(Schedule):
    """alpha_t^2 + sigma_t^2 = 1, and with it g^2 = -2 f: finite at t = 0 too, where sigma's rate is not."""

    def drift(self, t: Tensor) -> tuple[Tensor, Tensor]:
        f = derivative(lambda t: self(t)[0].log(), t)
        return f, -2 * f


@dataclass(frozen=True)
class LinearBeta(Schedule):
    """What VP and SubVP share: beta(t) = beta_min + t (beta_max - beta_min), drift f = -beta / 2.

    alpha_t = exp(-1/2 int_0^t beta) = exp(-t^2 (beta_max - beta_min) / 4 - t beta_min / 2) (Song et al. 2021, eq. 33).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            name = type(self).__name__
            raise ValueError(
                f"{name} needs 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}"
            )
        if (
            self.beta_min + self.beta_max > 100
        ):  # alpha_1 = 1e-11; much beyond it is 0 in float32, and eps a division by 0
            raise ValueError(
                f"{type(self).__name__} needs beta_min + beta_max of at most 100, got {self.beta_min + self.beta_max}"
            )

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def inverse_log_alpha(self, log_alpha: Tensor) -> Tensor:
        """The root t >= 0 of slope t^2 + 2 beta_min t = y, y = -4 log(alpha), written so that nothing cancels."""
        y = -4 * log_alpha
        return y / (self.beta_min + (self.beta_min**2 + (self.beta_max - self.beta_min) * y).sqrt())


@dataclass(frozen=True)
class VP(LinearBeta, VariancePreserving):
    """The lecture's variance-preserving SDE dx = -beta/2 x dt + sqrt(beta) dw: sigma_t^2 = 1 - alpha_t^2."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = self.log_alpha(t)
        # expm1: near t = 0 the plain 1 - alpha^2 loses every digit in float32
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()

    def drift(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f = -beta / 2, g^2 = beta."""
        return -self.beta(t) / 2, self.beta(t)

    def inverse_log_snr(self, lam: Tensor) -> Tensor:
        """From 2 log(alpha_t) = -softplus(-2 lam) (Lu et al. 2022, appendix D.4)."""
        return self.inverse_log_alpha(-softplus(-2 * lam) / 2)


@dataclass(frozen=True)
class SubVP(LinearBeta):
    """The sub-VP SDE: VP's drift with less noise, sigma_t = 1 - alpha_t^2 (Song et al. 2021, eq. 29)."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = self.log_alpha(t)
        return log_alpha.exp(), -torch.expm1(2 * log_alpha)

    def drift(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f = -beta / 2, g^2 = beta (1 - exp(-2 int beta)) = beta (1 - alpha^4)."""
        return -self.beta(t) / 2, -self.beta(t) * torch.expm1(4 * self.log_alpha(t))

    def inverse_log_snr(self, lam: Tensor) -> Tensor:
        """e^lam = alpha / (1 - alpha^2) is quadratic in alpha: log(alpha) = -asinh(e^-lam / 2)."""
        return self.inverse_log_alpha(-torch.asinh((-lam).exp() / 2))


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    """alpha_t = cos(pi/2 (t + s) / (1 + s)) / cos(pi/2 s / (1 + s)) (Nichol & Dhariwal 2021, eq. 17).

    The paper clips beta at 0.999; in continuous time the same end is to stop at t_end < 1, so that alpha_1 > 0.
    """

    s: float = 0.008
    t_end: float = 0.999

    def __post_init__(self) -> None:
        if not (
            self.s > 0 and 0 < self.t_end <= 0.99999
        ):  # nearer to 1, alpha_1 is rounding in float32
            raise ValueError(
                f"Cosine needs s > 0 and 0 < t_end <= 0.99999, got {self.s} and {self.t_end}"
            )

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        start = 0.5 * math.pi * self.s / (1 + self.s)
        angle = start + t * self.t_end * (0.5 * math.pi - start)
        alpha = angle.cos() / math.cos(start)
        # cos^2(start) - cos^2(angle) = sin(angle - start) sin(angle + start): no cancellation near t = 0
        return alpha, ((angle - start).sin() * (angle + start).sin()).clamp(
            min=0
        ).sqrt() / math.cos(start)

    def inverse_log_snr(self, lam: Tensor) -> Tensor:
        """From alpha_t^2 = sigmoid(2 lam), by the angle's sine and cosine: exact digits at both ends."""
        start = 0.5 * math.pi * self.s / (1 + self.s)
        alpha2, sigma2 = torch.sigmoid(2 * lam), torch.sigmoid(-2 * lam)
        sine = (math.sin(start) ** 2 + sigma2 * math.cos(start) ** 2).sqrt()
        angle = torch.atan2(sine, alpha2.sqrt() * math.cos(start))
        return (angle - start) / (self.t_end * (0.5 * math.pi - start))


@dataclass(frozen=True)
class VE(Schedule):
    """The variance-exploding SDE dx = g dw, g^2 = d sigma_geo^2 / dt, sigma_geo = sigma_min (sigma_max / sigma_min)^t.

    alpha_t = 1 and sigma_t^2 = sigma_geo(t)^2 - sigma_min^2 (Song et al. 2021, eqs. 29-31). Their kernel keeps the
    sigma_min^2, so that its noise jumps at t = 0; taken off, t = 0 is the data itself, as for every other law here, with
    the same SDE. Beyond sigma of a few sigma_min the two are the same.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"VE needs 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}"
            )
        if (
            self.sigma_max / self.sigma_min > 1e9 or self.sigma_max > 1e9
        ):  # their squares end at 3e38 in float32
            raise ValueError(
                f"VE needs sigma_max and sigma_max / sigma_min of at most 1e9, got {self.sigma_max:g} over {self.sigma_min:g}"
            )

    @property
    def growth(self) -> float:
        """d log(sigma_geo^2) / dt."""
        return 2 * math.log(self.sigma_max / self.sigma_min)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * torch.expm1(self.growth * t).sqrt()

    def drift(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f = 0, g^2 = 2 log(sigma_max / sigma_min) sigma_geo^2."""
        return torch.zeros_like(t), self.growth * self.sigma_min**2 * (self.growth * t).exp()

    def inverse_log_snr(self, lam: Tensor) -> Tensor:
        return torch.log1p((-2 * lam).exp() / self.sigma_min**2) / self.growth


@dataclass(frozen=True)
class Linear(Schedule):
    """The straight line of flow matching: alpha_t = 1 - t, sigma_t = t (Lipman et al. 2023, eq. 20; time reversed).

    alpha_1 = 0: eps and score say nothing of x_0 there; the SDE's f and g are infinite at t = 1.
    """

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t.clone()

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), torch.ones_like(t)

    def drift(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f = -1 / (1 - t), g^2 = 2 t / (1 - t)."""
        return -1 / (1 - t), 2 * t / (1 - t)

    def inverse_log_snr(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(-lam)


@dataclass(frozen=True)
class Discrete(VariancePreserving):
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
        if self.steps > 100_000:
            raise ValueError(f"Discrete has a table of at most 100000 steps, got {self.steps}")
        if not self.zero_snr and self.alphas[-1] < 1e-12:  # 0 in float32, or nearly
            last = f"{self.alphas[-1]:.0e}"
            raise ValueError(
                f"Discrete has alpha_1 = {last} by these betas: smaller ones, fewer steps, or zero_snr"
            )

    def beta_table(self) -> Tensor:
        """beta_1 ... beta_T, float64."""
        if self.betas == "cosine":
            alpha = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
            ratios = [
                alpha((i + 1) / self.steps) / alpha(i / self.steps) for i in range(self.steps)
            ]
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

    @property
    def t_min(self) -> float:
        """The table's first noise."""
        return 1 / self.steps

    def times(self, u: Tensor) -> Tensor:
        """Training times on the lecture's own grid: t = i / T, i = 1 ... T."""
        return ((u * self.steps).floor() + 1) / self.steps

    def admit(self, t: Tensor) -> Tensor:
        return (t * self.steps).ceil().clamp(1, self.steps) / self.steps

    def grid(self, steps: int, spacing: Spacing = "auto") -> Tensor:
        """Sampling times; "auto" is trailing. With log_snr and karras they fall between the table's entries."""
        if steps > self.steps:
            raise ValueError(f"{steps} sampling steps asked of a table of {self.steps}")
        return grid(self, steps, "trailing" if spacing == "auto" else spacing, self.steps)
