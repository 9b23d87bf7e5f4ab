"""Weights of the times in the loss.

`weigh` is in the network's output space, where 1 is L_simple for eps. All but `One` are weights w
of the error of x_0, hence times c_out^2: what the network predicts then does not matter.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ldm.diffusion.schedules import Schedule


class OfX0(ABC):
    """A weight w(t) of the squared error of x_0."""

    @abstractmethod
    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        """w(t), of t's shape."""

    def weigh(self, schedule: Schedule, t: Tensor, drawn: Tensor, c_out: Tensor) -> Tensor:
        """Weight of the network's squared error; `drawn`: that of how t was drawn."""
        return drawn * self(schedule, t) * c_out.square()


@dataclass(frozen=True)
class One:
    """1, whatever is predicted: L_simple (Ho et al. 2020) for eps, the v-loss for v."""

    def weigh(self, schedule: Schedule, t: Tensor, drawn: Tensor, c_out: Tensor) -> Tensor:
        return drawn


@dataclass(frozen=True)
class MinSNR(OfX0):
    """w = min(SNR, gamma) (Hang et al. 2023, eq. 8)."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma must be above 0, got {self.gamma}")

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        alpha, sigma = schedule(t)
        return (alpha / sigma).square().clamp(max=self.gamma)


@dataclass(frozen=True)
class EDM(OfX0):
    """w = (sigma^2 + std^2) / (sigma std)^2 of sigma / alpha (Karras et al. 2022, table 1).

    It is 1 in the output space of predict = edm. std: of the data; 1 for whitened latents.
    """

    std: float = 0.5

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be above 0, got {self.std}")

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        alpha, sigma = schedule(t)
        return (sigma.square() + (self.std * alpha).square()) / (sigma * self.std).square()


@dataclass(frozen=True)
class MaximumLikelihood(OfX0):
    """w = (g alpha / sigma^2)^2, that is g^2 on the score (Song et al. 2021b, theorem 1).

    = 2 alpha (alpha sigma' - alpha' sigma) / sigma^3. Half its integral over t bounds the negative
    log-likelihood in nats, up to a constant.
    """

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        (alpha, sigma), (alpha_rate, sigma_rate) = schedule(t), schedule.rates(t)
        return 2 * alpha * (alpha * sigma_rate - alpha_rate * sigma) / sigma**3
