"""DDPM's table of betas as a schedule."""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ldm.diffusion.schedules.base import Spacing, VariancePreserving


@dataclass(frozen=True)
class Discrete(VariancePreserving):
    """DDPM's table of T betas in continuous time: t = i / T is the lecture's step i.

    alpha_{i/T}^2 = prod_{j <= i} (1 - beta_j), alpha_0 = 1, linear in between (Ho et al. 2020,
    eq. 4). `zero_snr` rescales the table so that alpha_1 = 0 (Lin et al. 2024, algorithm 1);
    predict v or x0 with it.
    """

    default_spacing: ClassVar[Spacing] = "trailing"
    continuous: ClassVar[bool] = False

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
            raise ValueError(
                f"Discrete has alpha_1 = {self.alphas[-1]:.0e} by these betas: "
                "smaller ones, fewer steps, or zero_snr"
            )

    def beta_table(self) -> Tensor:
        """beta_1 ... beta_T, (T,) float64."""
        if self.betas == "cosine":
            u = [(i / self.steps + 0.008) / 1.008 for i in range(self.steps + 1)]
            alpha2 = [math.cos(each * math.pi / 2) ** 2 for each in u]
            betas = [min(1 - s / t, 0.999) for t, s in pairwise(alpha2)]
            return torch.tensor(betas, dtype=torch.float64)
        power = 0.5 if self.betas == "scaled_linear" else 1.0
        ends = self.beta_start**power, self.beta_end**power
        return torch.linspace(*ends, self.steps, dtype=torch.float64) ** (1 / power)

    @cached_property
    def alphas(self) -> Tensor:
        """alpha at t = 0, 1/T, ..., 1: (T + 1,) float64."""
        alpha = (1 - self.beta_table()).cumprod(0).sqrt()
        if self.zero_snr:
            alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        return torch.cat([alpha.new_ones(1), alpha])

    @cached_property
    def tables(self) -> dict[torch.device, Tensor]:
        """`alphas` on each device that has asked: copied once."""
        return {}

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if t.device not in self.tables:
            self.tables[t.device] = self.alphas.to(t.device)
        table = self.tables[t.device]
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
        """The table's first time from t on."""
        return (t * self.steps).ceil().clamp(1, self.steps) / self.steps

    def grid(self, steps: int, spacing: Spacing = "auto") -> Tensor:
        """As every law's. With log_snr and karras the times fall between the table's entries."""
        if steps > self.steps:
            raise ValueError(f"{steps} sampling steps asked of a table of {self.steps}")
        return super().grid(steps, spacing)

    def on_table(self, steps: int, spacing: Spacing) -> Tensor:
        """t = i / T of a table of T: for trailing i = round(T k / steps), k = steps ... 0.

        trailing: Lin et al. 2024, table 2.
        leading: i = k floor(T / steps) + 1, k = steps - 1 ... 0, then 0: DDPM's and DDIM's code,
        whose 0 ... T - 1 is our i - 1. It starts below t = 1, where its authors start from unit
        noise and `solvers.start` from sigma_t's.
        """
        if spacing == "trailing":
            return (
                torch.linspace(self.steps, 0, steps + 1, dtype=torch.float64).round() / self.steps
            )
        stride = self.steps // steps
        index = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * stride + 1
        return torch.cat([index, index.new_zeros(1)]) / self.steps
