"""Stochastic solvers: the reverse SDE dx = [f x - (1 + churn^2)/2 g^2 score] dt + churn g dw, and Langevin corrections."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ldm.diffusion.denoiser import eps_hat, score
from ldm.diffusion.schedules import Schedule, expand
from ldm.diffusion.solvers.base import Denoise, Past, Randn, Solver, Step
from ldm.diffusion.solvers.ddpm import transition
from ldm.diffusion.solvers.ode import heun


@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """Euler-Maruyama on the reverse SDE (Song et al. 2021, eq. 6): churn 1 is the lecture's, 0 the flow's ODE (eq. 13).

    x_s = x_t + (s - t) [f x_t - (1 + churn^2)/2 g^2 score] + churn g sqrt(t - s) z. The ends are limits: from alpha_t = 0,
    where f and g are infinite, x_s = alpha_s x0_hat + sigma_s z; to sigma_s = 0, x_s = alpha_s x0_hat.
    """

    churn: float = 1.0

    def __post_init__(self) -> None:
        if not self.churn >= 0:
            raise ValueError(f"EulerMaruyama needs churn of at least 0, got {self.churn}")

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past) -> Step:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
        x0_hat = denoise(x_t, t)
        if sigma_s == 0 or (alpha_t == 0 and self.churn):
            return fresh(x0_hat, alpha_s, sigma_s, randn), x0_hat
        d_alpha, d_sigma = denoise.schedule.rates(t)
        eps = eps_hat(x_t, x0_hat, alpha_t, sigma_t)
        x_s = x_t + (s - t) * (d_alpha * x0_hat + d_sigma * eps)  # f x - g^2/2 score, finite where alpha_t = 0
        if not self.churn:
            return x_s, x0_hat
        g2 = 2 * sigma_t * (d_sigma - d_alpha / alpha_t * sigma_t)
        x_s = x_s + (s - t) * (self.churn**2 / 2 * g2 / sigma_t) * eps
        return x_s + self.churn * (g2 * (t - s)).sqrt() * randn(), x0_hat


def fresh(x0_hat: Tensor, alpha_s: Tensor, sigma_s: Tensor, randn: Randn) -> Tensor:
    """alpha_s x0_hat + sigma_s z: the posterior q(x_s | x_t, x0_hat) where alpha_t = 0 or sigma_s = 0, which forgets x_t."""
    return alpha_s * x0_hat + sigma_s * randn() if sigma_s > 0 else alpha_s * x0_hat


@dataclass(frozen=True)
class PredictorCorrector(Solver):
    """Reverse-diffusion predictor, Langevin corrector (Song et al. 2021, algorithms 2-5), 1 + corrector_steps evaluations.

    Predictor, with the forward transition x_t = a x_s + b z: x_s = (2 - a) x_t + b^2 score + b z. Corrector, at s:
    x <- x + e score + sqrt(2 e) z, e = 2 a^2 (snr |z| / |score|)^2. The norms are each sample's own. The authors' code
    takes their mean over the batch, by which a sample would depend on its neighbours. A norm needs many dimensions to be
    a stable number: for points in 2-D use another solver. To sigma_s = 0 and from alpha_t = 0 the predictor is the limit
    alpha_s x0_hat + sigma_s z; at sigma_s = 0 there is no score and no corrector.
    """

    corrector_steps: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if self.corrector_steps < 0 or not self.snr > 0:
            raise ValueError("PredictorCorrector needs corrector_steps of at least 0 and snr above 0")

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past) -> Step:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
        x0_hat = denoise(x_t, t)
        if sigma_s == 0 or alpha_t == 0:
            x_s = fresh(x0_hat, alpha_s, sigma_s, randn)
        else:
            a, b2 = transition(alpha_t, sigma_t, alpha_s, sigma_s)
            x_s = (2 - a) * x_t + b2 * score(x_t, x0_hat, alpha_t, sigma_t) + b2.sqrt() * randn()
        for _ in range(self.corrector_steps if sigma_s > 0 else 0):
            x_s = self.correct(x_s, score(x_s, denoise(x_s, s), alpha_s, sigma_s), alpha_t / alpha_s, randn())
        return x_s, x0_hat

    def correct(self, x: Tensor, score: Tensor, a: Tensor, z: Tensor) -> Tensor:
        """One Langevin step. With alpha_t = 0 the paper's factor a^2 would turn it off: 1 is taken there."""
        ratio = z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
        e = expand(2 * (a**2 if a > 0 else 1) * (self.snr * ratio) ** 2, x)
        return x + e * score + (2 * e).sqrt() * z


@dataclass(frozen=True)
class EDMStochastic(Solver):
    """EDM's stochastic sampler: noise added, then Heun's step from there (Karras et al. 2022, algorithm 2).

    With u = sigma / alpha and y = x / alpha, which for VE are the paper's sigma and x: gamma = min(s_churn / N, sqrt(2) - 1)
    where s_tmin <= u_t <= s_tmax, else 0; u_hat = (1 + gamma) u_t, at most the u of t = 1;
    y_hat = y_t + s_noise sqrt(u_hat^2 - u_t^2) z; Heun from u_hat to u_s. Two evaluations a step. s_churn 0 is Heun.
    """

    s_churn: float = 40.0
    s_tmin: float = 0.05
    s_tmax: float = 50.0
    s_noise: float = 1.003

    def __post_init__(self) -> None:
        if not (self.s_churn >= 0 and self.s_noise > 0 and 0 <= self.s_tmin <= self.s_tmax):
            raise ValueError("EDMStochastic needs s_churn >= 0, s_noise > 0 and 0 <= s_tmin <= s_tmax")

    def bind(self, schedule: Schedule, times: Tensor) -> Solver:
        t = times[:-1].cpu()
        gamma = min(self.s_churn / len(t), math.sqrt(2) - 1)
        u = 1 / torch.exp(schedule.log_snr(t))
        inside = (u >= self.s_tmin) & (u <= self.s_tmax) & (gamma > 0)
        raised = schedule.inverse_log_snr(-(u * (1 + gamma)).log()).clamp(max=1)
        return _Churned(self.s_noise, dict(zip(t[inside].tolist(), raised[inside], strict=True)))


@dataclass(frozen=True)
class _Churned(Solver):
    """The loop's body of EDM's algorithm 2; `raised` maps the times that get noise to their t_hat."""

    s_noise: float
    raised: dict[float, Tensor] = field(default_factory=dict)

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past) -> Step:
        hat = self.raised.get(float(t))
        if hat is None:
            return heun(denoise, x_t, t, s)
        (alpha_t, sigma_t), (alpha, sigma) = denoise.schedule(t), denoise.schedule(hat)
        std = ((sigma / alpha) ** 2 - (sigma_t / alpha_t) ** 2).clamp(min=0).sqrt()
        x_hat = alpha * (x_t / alpha_t + (self.s_noise * std) * randn())
        return heun(denoise, x_hat, hat, s)
