"""What a schedule is, and what follows from its two functions alpha_t and sigma_t.

Time t is in [0, 1], 0 = data and 1 = noise. The log-SNR is lam(t) = log(alpha_t / sigma_t); the
forward SDE is dx = f(t) x dt + g(t) dw with f = d log(alpha_t) / dt and
g^2 = d sigma_t^2 / dt - 2 f sigma_t^2 (Kingma et al. 2021, eq. 2; Song et al. 2021, eq. 5).
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

Spacing = Literal["auto", "uniform", "angle", "log_snr", "karras", "trailing", "leading"]

RHO = 7.0  # of spacing "karras"


def expand(a: Tensor, x: Tensor) -> Tensor:
    """`a` of shape () or (B,) with axes of 1 appended, to broadcast against x of shape (B, ...)."""
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim)) if a.ndim else a


def derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """df/dt, elementwise, by automatic differentiation."""
    # sampling runs in inference mode, which enable_grad leaves on
    with torch.inference_mode(False), torch.enable_grad():
        t = t.detach().clone().requires_grad_()
        return torch.autograd.grad((f(t) + 0 * t).sum(), t)[0]  # 0 t: for a constant f


class Schedule:
    """A law: `schedule(t) -> (alpha_t, sigma_t)`, tensors of t's shape and dtype.

    The laws are frozen dataclasses; a new one needs no more than `__call__`.
    """

    default_spacing: ClassVar[Spacing] = "uniform"  # the spacing that "auto" stands for
    continuous: ClassVar[bool] = True  # whether training may draw any t, not only a table's
    variance_preserving: ClassVar[bool] = False  # whether alpha_t^2 + sigma_t^2 = 1

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    @property
    def t_min(self) -> float:
        """Training times stop here: below it targets are all noise (eps) or all rounding (x0)."""
        return 1e-3

    def ends(self) -> Tensor:
        """(t_min, t_max) of finite log-SNR, float64: t_max is 1, or 1 - t_min if alpha_1 = 0."""
        one = torch.ones((), dtype=torch.float64)
        t_max = one if self(one)[0] > 0 else one - self.t_min
        return torch.stack([one * self.t_min, t_max])

    def log_snr(self, t: Tensor) -> Tensor:
        """lam(t) = log(alpha_t / sigma_t), strictly decreasing in t."""
        alpha, sigma = self(t)
        return alpha.log() - sigma.log()

    def inverse_log_snr(self, lam: Tensor) -> Tensor:
        """The t with log_snr(t) = lam, by bisection of [0, 1] (60 halvings: exact in float64)."""
        low, high = torch.zeros_like(lam), torch.ones_like(lam)
        for _ in range(60):
            middle = (low + high) / 2
            too_clean = self.log_snr(middle) > lam
            low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
        return (low + high) / 2

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d alpha_t / dt and d sigma_t / dt, infinite at t = 0 where sigma_t grows as sqrt(t)."""
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
        """Sampling times: (steps + 1,) float64, from 1 (but for leading) down to 0.

        uniform: even in t.
        angle: even in arctan(sigma / alpha), the cosine schedule's time (Nichol & Dhariwal 2021).
        log_snr: even in lam from t = 1 to t_min, then 0 (Lu et al. 2022, section 3.3).
        karras: even in (sigma / alpha)^(1/7) from t = 1 to t_min, then 0 (Karras et al. 2022, eq.
        5).
        trailing, leading: of a table of times, see `Discrete.on_table`.
        ValueError for fewer than one step, and for a spacing that this law does not have.
        """
        if steps < 1:
            raise ValueError(f"a grid has at least 1 step, got {steps}")
        spacing = self.default_spacing if spacing == "auto" else spacing
        if spacing == "uniform":
            return torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        if spacing in ("trailing", "leading"):
            return self.on_table(steps, spacing)
        if spacing == "angle":
            return self.even_angles(steps)
        high, low = self.log_snr(self.ends())
        if spacing == "log_snr":
            lam = torch.linspace(low.item(), high.item(), steps, dtype=torch.float64)
        else:
            first, last = (-low / RHO).exp().item(), (-high / RHO).exp().item()
            lam = -RHO * torch.linspace(first, last, steps, dtype=torch.float64).log()
        # the ends are set, not computed: no rounding, and 1 itself where its log-SNR is infinite
        return torch.cat([lam.new_ones(1), self.inverse_log_snr(lam)[1:], lam.new_zeros(1)])

    def even_angles(self, steps: int) -> Tensor:
        """Times whose arctan(sigma / alpha) falls evenly to 0: half of them has less noise than
        data on any law that ends in noise.
        """
        alpha, sigma = self(torch.ones((), dtype=torch.float64))
        shares = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        inner = self.inverse_log_snr(-(torch.atan2(sigma, alpha) * shares[1:-1]).tan().log())
        return torch.cat([shares[:1], inner, shares[-1:]])

    def on_table(self, steps: int, spacing: Spacing) -> Tensor:
        """A grid of a table's own times."""
        raise ValueError(f"{spacing} spacing is of a table of times: schedule Discrete")


class VariancePreserving(Schedule):
    """alpha_t^2 + sigma_t^2 = 1, thus g^2 = -2 f: finite at t = 0, where sigma's rate is not."""

    variance_preserving: ClassVar[bool] = True

    def drift(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f = d log(alpha_t) / dt, g^2 = -2 f."""
        f = derivative(lambda t: self(t)[0].log(), t)
        return f, -2 * f
