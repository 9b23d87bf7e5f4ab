"""Ancestral sampling: DDPM (the lecture's Algorithm 2) and DDIM."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ldm.diffusion.denoiser import eps_hat
from ldm.diffusion.solvers.base import Denoise, Past, Randn, Solver, Step


@dataclass(frozen=True)
class DDIM(Solver):
    """x_s = alpha_s x0_hat + sqrt(sigma_s^2 - std^2) eps_hat + std z.

    Song et al. 2021, "DDIM", eq. 12, with std = eta (sigma_s / sigma_t) sqrt(sigma_t^2 - (alpha_t
    sigma_s / alpha_s)^2), for VP their eq. 16. eta = 0 is the probability-flow ODE, by Euler's rule
    in x / alpha over sigma / alpha; eta = 1 is DDPM with the smaller variance.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"DDIM needs eta in [0, 1], got {self.eta}")

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
        x0_hat = denoise(x_t, t)
        std = self.eta * posterior_std(alpha_t, sigma_t, alpha_s, sigma_s)
        towards = (sigma_s**2 - std**2).clamp(min=0).sqrt()
        x_s = alpha_s * x0_hat + towards * eps_hat(x_t, x0_hat, alpha_t, sigma_t)
        return (x_s + std * randn() if self.eta else x_s), x0_hat


@dataclass(frozen=True)
class DDPM(Solver):
    """Algorithm 2 of Ho et al. 2020: a draw of the posterior q(x_s | x_t, x0_hat), for any s < t.

    x_s = (a sigma_s^2 / sigma_t^2) x_t + (alpha_s b^2 / sigma_t^2) x0_hat + std z (eqs. 6-7) of the
    transition x_t = a x_s + b z, a = alpha_t / alpha_s. `variance` is the lecture's choice: "small"
    is the posterior's own beta-tilde, exact for data that are one point. "large" is exact for data
    of unit variance (section 3.2): b^2 r_s^2 / r_t^2 with r^2 = alpha^2 + sigma^2, for VP the
    paper's beta = b^2 = 1 - a^2. With b^2 itself VE would end with the noise of a whole step.
    """

    variance: Literal["small", "large"] = "small"

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
        x0_hat = denoise(x_t, t)
        a, b2 = transition(alpha_t, sigma_t, alpha_s, sigma_s)
        mean = (a * sigma_s**2 / sigma_t**2) * x_t + (alpha_s * b2 / sigma_t**2) * x0_hat
        if s == 0:  # the last line of Algorithm 2: z = 0 if t = 1
            return mean, x0_hat
        if self.variance == "large":
            r2_t, r2_s = alpha_t**2 + sigma_t**2, alpha_s**2 + sigma_s**2
            std = (b2 * r2_s / r2_t).sqrt()
        else:
            std = posterior_std(alpha_t, sigma_t, alpha_s, sigma_s)
        return mean + std * randn(), x0_hat


def transition(
    alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor
) -> tuple[Tensor, Tensor]:
    """a = alpha_t / alpha_s and b^2 = sigma_t^2 - a^2 sigma_s^2 of x_t = a x_s + b z, s < t."""
    a = alpha_t / alpha_s
    return a, (sigma_t**2 - a**2 * sigma_s**2).clamp(min=0)


def posterior_std(alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor) -> Tensor:
    """Of q(x_s | x_t, x_0): (sigma_s / sigma_t) sqrt(sigma_t^2 - (alpha_t sigma_s / alpha_s)^2)."""
    return sigma_s / sigma_t * transition(alpha_t, sigma_t, alpha_s, sigma_s)[1].sqrt()
