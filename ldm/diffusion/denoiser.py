"""The denoiser: a network made into an estimate of x_0, and its loss.

x0_hat = c_skip x_t + c_out net(c_in x_t, c_noise) (Karras et al. 2022, eq. 7). What a network "predicts" (eps, x0, v, EDM)
is no more than the four coefficients, so solvers and tasks never ask which it was.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ldm.diffusion.schedules import Schedule, expand

Coefficients = tuple[Tensor, Tensor, Tensor]  # c_skip, c_out, c_in


def _scale(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (alpha.square() + sigma.square()).sqrt()  # std of x_t for data of unit variance; 1 for every VP law


def eps(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """net = eps_hat: x0_hat = (x_t - sigma eps_hat) / alpha (Ho et al. 2020, eq. 15)."""
    return 1 / alpha, -sigma / alpha, 1 / _scale(alpha, sigma)


def x0(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """net = x0_hat."""
    return torch.zeros_like(alpha), torch.ones_like(alpha), 1 / _scale(alpha, sigma)


def v(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """net = v = alpha eps - sigma x_0 for VP: x0_hat = alpha x_t - sigma v (Salimans & Ho 2022, appendix D)."""
    scale = _scale(alpha, sigma)
    return alpha / scale.square(), -sigma / scale, 1 / scale


def edm(alpha: Tensor, sigma: Tensor, std: float = 0.5) -> Coefficients:
    """Unit-variance inputs and targets for data of standard deviation `std` (Karras et al. 2022, table 1)."""
    ratio = sigma / alpha
    total = (ratio.square() + std**2).sqrt()
    return std**2 / total.square() / alpha, ratio * std / total, 1 / (alpha * total)


PRECONDITIONS: dict[str, Callable[[Tensor, Tensor], Coefficients]] = {"eps": eps, "x0": x0, "v": v, "edm": edm}


@dataclass(frozen=True)
class Loss:
    """What the network predicts, and the weight of each time in the loss."""

    predict: Literal["eps", "x0", "v", "edm"] = "v"
    weight: Literal["one", "min_snr"] = "one"
    gamma: float = 5.0  # of min_snr
    std: float = 0.5  # of the data, for edm; 1 for whitened latents

    def __post_init__(self) -> None:
        if not (self.gamma > 0 and self.std > 0):
            raise ValueError(f"gamma and std must be above 0, got {self.gamma} and {self.std}")

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        """c_skip, c_out, c_in of what is predicted."""
        return edm(alpha, sigma, self.std) if self.predict == "edm" else PRECONDITIONS[self.predict](alpha, sigma)

    def weigh(self, alpha: Tensor, sigma: Tensor, c_out: Tensor) -> Tensor:
        """Weight of the squared error in the network's output space: 1 is L_simple for eps.

        min_snr: min(SNR, gamma) on the error of x_0, hence times c_out^2 here (Hang et al. 2023, eq. 8).
        """
        if self.weight == "one":
            return torch.ones_like(alpha)
        snr = (alpha / sigma).square()
        return snr.clamp(max=self.gamma) * c_out.square()


class Denoiser(nn.Module):
    """`forward(x_t, t, **cond) -> x0_hat` around a network `net(x, c_noise, **cond)`.

    x_t: (B, ...); t: () or (B,); the condition's tensors have B rows. c_noise = 1000 t, because the time embeddings
    of diffusers' networks have their frequencies chosen for 0 ... 1000.
    """

    def __init__(self, net: nn.Module, schedule: Schedule, loss: Loss = Loss()):
        super().__init__()
        self.net, self.schedule, self.loss_config = net, schedule, loss

    def coefficients(self, t: Tensor) -> Coefficients:
        """c_skip, c_out, c_in at time t, of t's shape."""
        return self.loss_config.coefficients(*self.schedule(t))

    def run(self, x_t: Tensor, t: Tensor, c_in: Tensor, **cond: Tensor) -> Tensor:
        """The raw network, fed in its own units."""
        c_noise = (1000 * t).to(x_t).expand(len(x_t))
        return self.net(expand(c_in, x_t) * x_t, c_noise, **cond)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        c_skip, c_out, c_in = self.coefficients(t)
        return expand(c_skip, x_t) * x_t + expand(c_out, x_t) * self.run(x_t, t, c_in, **cond).to(x_t.dtype)

    def loss(self, x_0: Tensor, t: Tensor, eps: Tensor, **cond: Tensor) -> Tensor:
        """Weighted squared error in the network's output space, one value a sample: (B,).

        Algorithm 1 of Ho et al. 2020, whose last line is `predict = eps, weight = one`. With x_t = alpha x_0 + sigma eps
        the target (x_0 - c_skip x_t) / c_out is written out, so that nothing is subtracted that cancels.
        """
        alpha, sigma = self.schedule(t)
        c_skip, c_out, c_in = self.coefficients(t)
        x_t = expand(alpha, x_0) * x_0 + expand(sigma, x_0) * eps
        target = expand((1 - c_skip * alpha) / c_out, x_0) * x_0 - expand(c_skip * sigma / c_out, x_0) * eps
        error = (self.run(x_t, t, c_in, **cond).float() - target).square().flatten(1).mean(1)
        return self.loss_config.weigh(alpha, sigma, c_out) * error


def eps_hat(x_t: Tensor, x0_hat: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise that x0_hat implies: (x_t - alpha x0_hat) / sigma."""
    return (x_t - expand(alpha, x_t) * x0_hat) / expand(sigma, x_t)


def score(x_t: Tensor, x0_hat: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """grad log p_t(x_t) = -eps_hat / sigma (Tweedie; Vincent 2011, eq. 9)."""
    return -eps_hat(x_t, x0_hat, alpha, sigma) / expand(sigma, x_t)
