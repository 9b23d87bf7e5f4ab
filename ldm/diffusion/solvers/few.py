"""Sampling of consistency models: a few jumps to the data, with new noise between them."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ldm.diffusion.solvers.base import Denoise, Past, Randn, Solver, Step


@dataclass(frozen=True)
class Consistency(Solver):
    """x_s = alpha_s f(x_t, t) + sigma_s z; the last noise is left out, since sigma_0 = 0.

    Song et al. 2023, algorithm 1. f is a denoiser trained by the loss Consistency. That of another
    model is a mean over the data, and this would make blurred averages of it.
    """

    few: ClassVar[bool] = True

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        x0_hat = denoise(x_t, t)
        if s == 0:
            return x0_hat, x0_hat
        alpha_s, sigma_s = denoise.schedule(s)
        return alpha_s * x0_hat + sigma_s * randn(), x0_hat
