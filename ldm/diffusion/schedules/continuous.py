"""The laws of continuous time: VP, SubVP, Cosine, VE, Linear."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ldm.diffusion.schedules.base import Schedule, VariancePreserving


@dataclass(frozen=True)
class LinearBeta(Schedule):
    """What VP and SubVP share: beta(t) = beta_min + t (beta_max - beta_min), drift f = -beta / 2.

    alpha_t = exp(-1/2 int_0^t beta) = exp(-t^2 (beta_max - beta_min) / 4 - t beta_min / 2)
    (Song et al. 2021, eq. 33).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        low, high, name = self.beta_min, self.beta_max, type(self).__name__
        if not 0 < low <= high:
            raise ValueError(f"{name} needs 0 < beta_min <= beta_max, got {low} and {high}")
        if low + high > 100:
            # alpha_1 = 1e-11; much beyond it is 0 in float32, and eps a division by 0
            raise ValueError(f"{name} needs beta_min + beta_max of at most 100, got {low + high}")

    def beta(self, t: Tensor) -> Tensor:
        """beta(t), per unit of t."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Tensor) -> Tensor:
        """-1/2 int_0^t beta."""
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def inverse_log_alpha(self, log_alpha: Tensor) -> Tensor:
        """The root t >= 0 of slope t^2 + 2 beta_min t = y, y = -4 log(alpha)."""
        y = -4 * log_alpha
        # the quadratic formula multiplied out, so that nothing cancels
        return y / (self.beta_min + (self.beta_min**2 + (self.beta_max - self.beta_min) * y).sqrt())


@dataclass(frozen=True)
class VP(LinearBeta, VariancePreserving):
    """The lecture's variance-preserving SDE: sigma_t^2 = 1 - alpha_t^2.

    dx = -beta/2 x dt + sqrt(beta) dw (Song et al. 2021, eq. 11).
    """

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
    """The sub-VP SDE: VP's drift, sigma_t = 1 - alpha_t^2 (Song et al. 2021, eq. 29)."""

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
    """alpha_t = cos(pi/2 (t + s) / (1 + s)) / cos(pi/2 s / (1 + s)).

    Nichol & Dhariwal 2021, eq. 17. The paper clips beta at 0.999; in continuous time the same end
    is to stop at t_end < 1, so that alpha_1 > 0.
    """

    s: float = 0.008
    t_end: float = 0.999

    def __post_init__(self) -> None:
        # nearer to t_end = 1, alpha_1 is rounding in float32
        if not (self.s > 0 and 0 < self.t_end <= 0.99999):
            got = f"{self.s} and {self.t_end}"
            raise ValueError(f"Cosine needs s > 0 and 0 < t_end <= 0.99999, got {got}")

    @property
    def start(self) -> float:
        """The angle at t = 0."""
        return 0.5 * math.pi * self.s / (1 + self.s)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        start = self.start
        angle = start + t * self.t_end * (0.5 * math.pi - start)
        # cos^2(start) - cos^2(angle) = sin(angle - start) sin(angle + start): nothing cancels at t
        # = 0
        sigma2 = ((angle - start).sin() * (angle + start).sin()).clamp(min=0)
        return angle.cos() / math.cos(start), sigma2.sqrt() / math.cos(start)

    def inverse_log_snr(self, lam: Tensor) -> Tensor:
        """From alpha_t^2 = sigmoid(2 lam), by the angle's sine and cosine: exact at both ends."""
        start = self.start
        alpha2, sigma2 = torch.sigmoid(2 * lam), torch.sigmoid(-2 * lam)
        sine = (math.sin(start) ** 2 + sigma2 * math.cos(start) ** 2).sqrt()
        angle = torch.atan2(sine, alpha2.sqrt() * math.cos(start))
        return (angle - start) / (self.t_end * (0.5 * math.pi - start))


@dataclass(frozen=True)
class VE(Schedule):
    """The variance-exploding SDE: alpha_t = 1, sigma_t^2 = sigma_geo(t)^2 - sigma_min^2.

    dx = g dw, g^2 = d sigma_geo^2 / dt, sigma_geo = sigma_min (sigma_max / sigma_min)^t
    (Song et al. 2021, eqs. 29-31). Their kernel keeps the sigma_min^2, so that its noise jumps at
    t = 0; taken off, t = 0 is the data itself, as for every other law here, with the same SDE.
    Beyond sigma of a few sigma_min the two are the same.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        low, high = self.sigma_min, self.sigma_max
        if not 0 < low < high:
            raise ValueError(f"VE needs 0 < sigma_min < sigma_max, got {low} and {high}")
        if high / low > 1e9 or high > 1e9:  # their squares end at 3e38 in float32
            raise ValueError(
                "VE needs sigma_max and sigma_max / sigma_min of at most 1e9, "
                f"got {high:g} over {low:g}"
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
    """The straight line of flow matching: alpha_t = 1 - t, sigma_t = t.

    Lipman et al. 2023, eq. 20, time reversed. alpha_1 = 0: eps and score do not determine x_0
    there; the SDE's f and g are infinite at t = 1.
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
