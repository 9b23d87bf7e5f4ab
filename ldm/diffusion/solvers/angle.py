"""The probability-flow ODE in the angle phi = atan(sigma / alpha), and its adaptive integration.

dx/dt = f x - g^2/2 score = alpha' x0_hat + sigma' eps_hat (Song et al. 2021, eq. 13) becomes, for
X = x / r with r = sqrt(alpha^2 + sigma^2) (Salimans & Ho 2022, appendix D),

    dX/dphi = v = cos(phi) eps_hat - sin(phi) x0_hat.

In t the coefficients are infinite at an end (sigma' at t = 0 for VP) or run over orders of
magnitude (VE), and a table of betas has a kink at every entry. In the angle they are bounded for
every law, at alpha_t = 0 too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ldm.diffusion.denoiser import eps_hat
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers.base import Denoise

State = TypeVar("State", Tensor, tuple[Tensor, Tensor])


class Unreached(ValueError):
    """An adaptive integration that did not reach its tolerance within the calls it may make."""


def angle_of(alpha: Tensor, sigma: Tensor) -> Tensor:
    """phi = atan(sigma / alpha), in [0, pi/2]."""
    return torch.atan2(sigma, alpha)


def time_of(schedule: Schedule, phi: Tensor) -> Tensor:
    """The t with tan(phi) = sigma / alpha."""
    return schedule.inverse_log_snr(-phi.tan().log())


def turning(x_t: Tensor, x0_hat: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """v = dX/dphi = cos(phi) eps_hat - sin(phi) x0_hat (Salimans & Ho 2022, appendix D)."""
    r = torch.hypot(alpha, sigma)
    return (alpha / r) * eps_hat(x_t, x0_hat, alpha, sigma) - (sigma / r) * x0_hat


def turning_at(denoise: Denoise, x: Tensor, t: Tensor) -> Tensor:
    """v = dX/dphi at X = x and time t, by one call of the denoiser."""
    alpha, sigma = denoise.schedule(t)
    x_t = torch.hypot(alpha, sigma) * x
    return turning(x_t, denoise(x_t, t), alpha, sigma)


def euler_in_angle(schedule: Schedule, x_t: Tensor, x0_hat: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s = r_s (x_t / r_t + (phi_s - phi_t) v_t): Euler's rule."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    span = angle_of(alpha_s, sigma_s) - angle_of(alpha_t, sigma_t)
    x = x_t / torch.hypot(alpha_t, sigma_t) + span * turning(x_t, x0_hat, alpha_t, sigma_t)
    return torch.hypot(alpha_s, sigma_s) * x


def largest_rms(error: Tensor) -> Tensor:
    """The largest root mean square over the samples, (); torchdiffeq's own is the whole batch's."""
    if not error.ndim:
        return error.abs()
    return error.reshape(len(error), -1).square().mean(1).sqrt().max()


@dataclass(frozen=True)
class Integrator:
    """An adaptive Runge-Kutta method of torchdiffeq, its tolerances, and the calls it may take."""

    rtol: float
    atol: float
    max_calls: int
    method: Literal["dopri5", "dopri8", "bosh3"] = "dopri5"

    def integrate(
        self,
        schedule: Schedule,
        rate: Callable[[Tensor, State], State],
        state: State,
        ends: tuple[Tensor, Tensor],
        norm: Callable[[State], Tensor],
    ) -> State:
        """The state carried between two angles: `rate(t, state)` is d state / dphi at time t.

        norm: of errors over tolerances, of the state's form. Unreached beyond the calls, or where
        the step underflows.
        """
        from torchdiffeq import odeint

        first = state[0] if isinstance(state, tuple) else state
        phis, (low, high), calls = torch.stack(ends).to(first.device), sorted(map(float, ends)), 0
        failed = f"the ODE was not solved to a tolerance of rtol {self.rtol:g}, atol {self.atol:g}"

        def counted(phi: Tensor, state: State) -> State:
            nonlocal calls
            calls += 1
            if calls > self.max_calls:
                within = f"{failed} within {self.max_calls} calls of the network"
                raise Unreached(f"{within}: take a larger one, or allow more calls")
            # the first step may overshoot; and for x in float32 torchdiffeq's phi may exceed pi/2
            return rate(time_of(schedule, phi.cpu().double().clamp(low, high)), state)

        options = {"norm": norm, "step_t": phis[1:]}  # a step ends on the last angle
        settings = dict(rtol=self.rtol, atol=self.atol, method=self.method, options=options)
        try:
            path = odeint(counted, state, phis, **settings)
        except AssertionError as error:  # torchdiffeq's, of steps of 0 and of what is not finite
            raise Unreached(f"{failed} ({error}): take a larger one") from None
        last: Any = tuple(p[-1] for p in path) if isinstance(path, tuple) else path[-1]
        return last
