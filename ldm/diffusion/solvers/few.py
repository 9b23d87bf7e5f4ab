"""Sampling of consistency models: a few jumps to the data, with new noise between them."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ldm.diffusion.denoiser import eps_hat
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers.base import Denoise, Past, Randn, Solver, Step


@dataclass(frozen=True)
class Consistency(Solver):
    """x_s = alpha_s f(x_t, t) + sigma_s z; the last noise is left out, since sigma_0 = 0.

    Song et al. 2023, algorithm 1. With `segments` as of the loss, z is the noise that f implies:
    DDIM's step from one segment's end to the next (Heek et al. 2024, algorithm 2). f is a denoiser
    trained by the loss Consistency. That of another model is a mean over the data, and this would
    make blurred averages of it.
    """

    few: ClassVar[bool] = True
    segments: int = 1

    def __post_init__(self) -> None:
        if self.segments < 1:
            raise ValueError(f"segments must be at least 1, got {self.segments}")

    @property
    def pieces(self) -> int:
        return self.segments

    def bind(self, schedule: Schedule, times: Tensor) -> Solver:
        """ValueError for another number of steps than segments, where there are several."""
        if self.segments not in (1, len(times) - 1):
            raise ValueError(
                f"a student of {self.segments} segments is sampled in {self.segments} steps, "
                f"not in {len(times) - 1}"
            )
        return self

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        x0_hat = denoise(x_t, t)
        if s == 0:
            return x0_hat, x0_hat
        alpha_s, sigma_s = denoise.schedule(s)
        noise = randn() if self.segments == 1 else eps_hat(x_t, x0_hat, *denoise.schedule(t))
        return alpha_s * x0_hat + sigma_s * noise, x0_hat
