"""Stochastic solvers: the reverse SDE, Langevin corrections, and EDM's sampler.

dx = [f x - (1 + churn^2)/2 g^2 score] dt + churn g dw (Song et al. 2021, eq. 6, for churn 1).
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers.angle import angle_of, euler_in_angle, turning
from ldm.diffusion.solvers.base import Denoise, Past, Randn, Solver, Step
from ldm.diffusion.solvers.ode import heun


@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """Euler-Maruyama on the reverse SDE: churn 1 is the lecture's, 0 the probability-flow ODE.

    dx = [f x - (1 + churn^2)/2 g^2 score] dt + churn g dw (Song et al. 2021, eqs. 6 and 13). In t
    its coefficients are infinite where alpha_t = 0 and sigma_t runs over orders of magnitude; in
    the angle phi = atan(sigma / alpha), with X = x / sqrt(alpha^2 + sigma^2), they are, for every
    law,

        dX = v dphi + churn^2 tan(phi) (X + cot(phi) v) dphi + churn sqrt(2 tan(phi)) dw.

    The last two terms are Langevin's, linear in X: their linear part is solved exactly, as
    `relaxed`, with the share 1 - (cos(phi_t) / cos(phi_s))^(churn^2). So data of unit variance keep
    their law by steps of any length. The share is held to sin^2(phi_t) (1 - (phi_t - phi_s)
    cot(phi_t)), beyond which a step overshoots data of no variance: any churn is stable on any
    grid, and a churn beyond it adds nothing. To sigma_s = 0 the step is the limit x_s = alpha_s
    x0_hat.
    """

    churn: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.churn < math.inf:
            raise ValueError(f"EulerMaruyama needs churn of at least 0, got {self.churn}")

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
        x0_hat = denoise(x_t, t)
        if sigma_s == 0:
            return alpha_s * x0_hat, x0_hat
        x_s = euler_in_angle(denoise.schedule, x_t, x0_hat, t, s)
        if not self.churn:
            return x_s, x0_hat
        r_t, r_s = torch.hypot(alpha_t, sigma_t), torch.hypot(alpha_s, sigma_s)
        cot, span = alpha_t / sigma_t, angle_of(alpha_t, sigma_t) - angle_of(alpha_s, sigma_s)
        most = (sigma_t / r_t) ** 2 * (1 - span * cot)
        kept = (alpha_t / r_t * (r_s / alpha_s)) ** (self.churn**2)
        share = (1 - kept).clamp(min=0).minimum(most)
        x, v = x_t / r_t, turning(x_t, x0_hat, alpha_t, sigma_t)
        return x_s + r_s * (relaxed(x, v, cot, share, randn()) - x), x0_hat


def relaxed(x: Tensor, v: Tensor, cot: Tensor, share: Tensor, z: Tensor) -> Tensor:
    """Langevin's step at an angle: (1 - share) X - share cot(phi) v + sqrt(share (2 - share)) z.

    The score of X is -X - cot(phi) v, v = 0 for data of unit variance; with v held fixed, this is
    the exact law of dX = score dtau + sqrt(2) dw after exp(-tau) = 1 - share (Ornstein-Uhlenbeck).
    """
    return (1 - share) * x - (share * cot) * v + (share * (2 - share)).sqrt() * z


@dataclass(frozen=True)
class PredictorCorrector(Solver):
    """Reverse-SDE predictor, Langevin corrector: 1 + corrector_steps evaluations a step.

    Song et al. 2021, algorithms 2-5. Predictor: a step of `EulerMaruyama`. Corrector, at s:
    x <- x + e score + sqrt(2 e) z, e = 2 (snr |z| / |score|)^2. The authors' norms are of the
    batch's own noise and score, which are numbers for pictures and not for a jet of three: here
    they are what they are in many dimensions, |z| / |score| = sigma_s, a score being -eps /
    sigma_s. So a step is the same for 3 numbers and for 3,000, and a sample does not depend on its
    neighbours. The step is `relaxed` by the share 2 snr^2 sin^2(phi); snr up to 0.5 keeps the
    spread within 15 % of the truth for data of any variance, however many the steps. At sigma_s = 0
    there is no score and no corrector.
    """

    corrector_steps: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if self.corrector_steps < 0 or not 0 < self.snr <= 0.5:
            raise ValueError(
                "PredictorCorrector needs corrector_steps of at least 0 "
                "and snr above 0, at most 0.5"
            )

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        x_s, x0_hat = EulerMaruyama().step(denoise, x_t, t, s, randn, past)
        alpha, sigma = denoise.schedule(s)
        for _ in range(self.corrector_steps if sigma > 0 else 0):
            r, v = torch.hypot(alpha, sigma), turning(x_s, denoise(x_s, s), alpha, sigma)
            x_s = r * relaxed(x_s / r, v, alpha / sigma, 2 * (self.snr * sigma / r) ** 2, randn())
        return x_s, x0_hat


@dataclass(frozen=True)
class EDMStochastic(Solver):
    """EDM's stochastic sampler: noise added, then Heun's step from there.

    Karras et al. 2022, algorithm 2, with u = sigma / alpha and y = x / alpha, which for VE are the
    paper's sigma and x: gamma = min(s_churn / N, sqrt(2) - 1) where s_tmin <= u_t <= s_tmax, else
    0; u_hat = (1 + gamma) u_t, at most the u of t = 1; y_hat = y_t + s_noise sqrt(u_hat^2 - u_t^2)
    z; Heun from u_hat to u_s. Two evaluations a step. s_churn 0 is Heun. s_noise is the paper's
    1.003 to 1.007 or near it: it goes straight into the samples' spread.
    """

    s_churn: float = 40.0
    s_tmin: float = 0.05
    s_tmax: float = 50.0
    s_noise: float = 1.003

    def __post_init__(self) -> None:
        fits = self.s_churn >= 0 and 0 <= self.s_tmin <= self.s_tmax
        if not (fits and 0.98 <= self.s_noise <= 1.05):
            raise ValueError(
                "EDMStochastic needs s_churn >= 0, 0.98 <= s_noise <= 1.05 "
                "and 0 <= s_tmin <= s_tmax"
            )

    def bind(self, schedule: Schedule, times: Tensor) -> Solver:
        t = times[:-1].cpu()
        gamma = min(self.s_churn / len(t), math.sqrt(2) - 1)
        u = 1 / torch.exp(schedule.log_snr(t))
        inside = (u >= self.s_tmin) & (u <= self.s_tmax) & (gamma > 0) & u.isfinite()
        raised = schedule.inverse_log_snr(-(u * (1 + gamma)).log()).clamp(max=1)
        return _Churned(self.s_noise, dict(zip(t[inside].tolist(), raised[inside], strict=True)))


@dataclass(frozen=True)
class _Churned(Solver):
    """The loop's body of EDM's algorithm 2; `raised`: the times that get noise -> their t_hat."""

    s_noise: float
    raised: dict[float, Tensor] = field(default_factory=dict)

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        hat = self.raised.get(float(t))
        if hat is None:
            return heun(denoise, x_t, t, s)
        (alpha_t, sigma_t), (alpha, sigma) = denoise.schedule(t), denoise.schedule(hat)
        std = ((sigma / alpha) ** 2 - (sigma_t / alpha_t) ** 2).clamp(min=0).sqrt()
        x_hat = alpha * (x_t / alpha_t + (self.s_noise * std) * randn())
        return heun(denoise, x_hat, hat, s)
