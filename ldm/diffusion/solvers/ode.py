"""Solvers of the probability-flow ODE: Euler, Heun, and one of adaptive step.

dx/dt = f x - g^2/2 score = alpha' x0_hat + sigma' eps_hat (Song et al. 2021, eq. 13).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ldm.diffusion.denoiser import eps_hat
from ldm.diffusion.solvers.angle import (
    Integrator,
    angle_of,
    euler_in_angle,
    largest_rms,
    time_of,
    turning,
    turning_at,
)
from ldm.diffusion.solvers.base import Denoise, Past, Randn, Solver, Step
from ldm.diffusion.solvers.multistep import exponential


@dataclass(frozen=True)
class Euler(Solver):
    """X_s = X_t + (phi_s - phi_t) v: Euler's rule in the angle phi = atan(sigma / alpha).

    X = x / sqrt(alpha^2 + sigma^2) (see `angle`). In t ten steps are of no use. To sigma_s = 0 the
    step is the flow's limit x_s = alpha_s x0_hat. DDIM is Euler's rule in another coordinate, exact
    for data that are one point where this one is exact for data of unit variance.
    """

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        alpha_s, sigma_s = denoise.schedule(s)
        x0_hat = denoise(x_t, t)
        if sigma_s == 0:
            return alpha_s * x0_hat, x0_hat
        return euler_in_angle(denoise.schedule, x_t, x0_hat, t, s), x0_hat


@dataclass(frozen=True)
class Heun(Solver):
    """Heun's rule, second order, two evaluations a step (Karras et al. 2022, algorithm 1).

    ratio: y = x / alpha over u = sigma / alpha, in which the ODE is dy/du = eps_hat for every
    schedule: smooth down to u = 0, where in t it is not (sigma' is infinite for VP), so the order
    holds there too, on a grid that is even in u near 0. To sigma_s = 0 the step is Euler's, DDIM
    (no second evaluation: eps_hat is 0/0). A step over more than a factor LEAP of u, from
    alpha_t = 0 above all, is taken in the angle: u goes to 600 for Cosine, and Heun's rule in u is
    of no use there.

    angle: X = x / sqrt(alpha^2 + sigma^2) over phi = atan(sigma / alpha), dX/dphi = v. It is finite
    at both ends, and with few steps on uniform times far better where u runs over orders of
    magnitude.
    """

    coordinate: Literal["ratio", "angle"] = "ratio"

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        return (heun if self.coordinate == "ratio" else heun_in_angle)(denoise, x_t, t, s)


# the largest u_t / u_s of a step in u: beyond it, eps_hat is not near a straight line in u
LEAP = 3.0


def heun(denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor) -> Step:
    """y_s = y_t + (u_s - u_t) (d_t + d_s) / 2, d = eps_hat, y = x / alpha, u = sigma / alpha."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
    if 0 < LEAP * sigma_s * alpha_t < sigma_t * alpha_s or alpha_t == 0:
        return heun_in_angle(denoise, x_t, t, s)
    x0_hat = denoise(x_t, t)
    x_s = exponential(denoise.schedule, x_t, x0_hat, t, s)
    if sigma_s == 0:
        return x_s, x0_hat
    d_t = eps_hat(x_t, x0_hat, alpha_t, sigma_t)
    d_s = eps_hat(x_s, denoise(x_s, s), alpha_s, sigma_s)
    # x_s is Euler's alpha_s (y_t + (u_s - u_t) d_t): what is missing is half the change of d
    return x_s + (alpha_s * (sigma_s / alpha_s - sigma_t / alpha_t) / 2) * (d_s - d_t), x0_hat


def heun_in_angle(denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor) -> Step:
    """X_s = X_t + (phi_s - phi_t) (v_t + v_s) / 2, at sigma_s = 0 its limit alpha_s x0_hat."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
    x0_hat = denoise(x_t, t)
    if sigma_s == 0:
        return alpha_s * x0_hat, x0_hat
    span = angle_of(alpha_s, sigma_s) - angle_of(alpha_t, sigma_t)
    r_s, x = torch.hypot(alpha_s, sigma_s), x_t / torch.hypot(alpha_t, sigma_t)
    v_t = turning(x_t, x0_hat, alpha_t, sigma_t)
    guess = r_s * (x + span * v_t)
    v_s = turning(guess, denoise(guess, s), alpha_s, sigma_s)
    return r_s * (x + span / 2 * (v_t + v_s)), x0_hat


@dataclass(frozen=True)
class AdaptiveODE(Solver):
    """An adaptive Runge-Kutta method of torchdiffeq carries x from t to s in one `step`.

    In the angle (see `angle`), whose ODE is finite at both ends, alpha_t = 0 too. To sigma_s = 0
    the last piece, from sigma / alpha = 2e-3 in float32, is the flow's limit x_s = alpha_s x0_hat.
    The grid's times only cut the path, and each piece costs a new start: use few steps, or 1.

    torchdiffeq has one step size for a whole batch. Its error norm is here the largest over the
    samples, so that each one meets the tolerance, but the step size is still that of the hardest
    sample: the same seed in another batch gives the same sample within the tolerance, not to the
    last bit. Count the evaluations with `Counted`; `Unreached` is raised beyond max_calls of a
    piece.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    method: Literal["dopri5", "dopri8", "bosh3"] = "dopri5"
    max_calls: int = 5000

    def __post_init__(self) -> None:
        rtol, atol, calls = self.rtol, self.atol, self.max_calls
        if not (rtol > 0 and atol > 0):
            raise ValueError(f"AdaptiveODE needs rtol and atol above 0, got {rtol} and {atol}")
        if calls < 1:
            raise ValueError(f"AdaptiveODE needs max_calls of at least 1, got {calls}")

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        schedule, near = denoise.schedule, torch.finfo(x_t.dtype).eps ** 0.4
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        phi_t, phi_s = angle_of(alpha_t, sigma_t), angle_of(alpha_s, sigma_s).clamp(min=near)
        x0_hat = denoise(x_t, t)
        if phi_t <= phi_s:  # t is inside the last piece
            return alpha_s * x0_hat, x0_hat
        first = turning(x_t, x0_hat, alpha_t, sigma_t)
        x = self.turn(denoise, x_t / torch.hypot(alpha_t, sigma_t), (phi_t, phi_s), first)
        if sigma_s > 0:
            return torch.hypot(alpha_s, sigma_s) * x, x0_hat
        u = time_of(schedule, phi_s)
        x0_hat = denoise(torch.hypot(*schedule(u)) * x, u)
        return alpha_s * x0_hat, x0_hat

    def turn(
        self, denoise: Denoise, x: Tensor, ends: tuple[Tensor, Tensor], first: Tensor
    ) -> Tensor:
        """X = x / sqrt(alpha^2 + sigma^2) carried between two angles; `first`: dX/dphi there."""
        known = [first]  # what the integrator asks for first: not asked of the network again

        def rate(t: Tensor, x: Tensor) -> Tensor:
            return known.pop() if known else turning_at(denoise, x, t)

        integrator = Integrator(self.rtol, self.atol, self.max_calls, self.method)
        return integrator.integrate(denoise.schedule, rate, x, ends, largest_rms)
