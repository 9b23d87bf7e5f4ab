"""The probability-flow ODE dx/dt = f x - g^2/2 score = alpha' x0_hat + sigma' eps_hat (Song et al. 2021, eq. 13)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ldm.diffusion.denoiser import eps_hat
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers.base import Denoise, Past, Randn, Solver, Step
from ldm.diffusion.solvers.multistep import exponential


@dataclass(frozen=True)
class Euler(Solver):
    """X_s = X_t + (phi_s - phi_t) v: Euler's rule in the angle phi = atan(sigma / alpha), X = x / sqrt(alpha^2 + sigma^2).

    In t the ODE's coefficients are infinite at an end (sigma' at t = 0 for VP) or run over orders of magnitude (VE), and ten
    steps are of no use; in the angle they are bounded for every law, at alpha_t = 0 too. To sigma_s = 0 the step is the
    flow's limit x_s = alpha_s x0_hat. DDIM is Euler's rule in another coordinate, exact for data that are one point where
    this one is exact for data of unit variance.
    """

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        alpha_s, sigma_s = denoise.schedule(s)
        x0_hat = denoise(x_t, t)
        return (
            euler_in_angle(denoise.schedule, x_t, x0_hat, t, s) if sigma_s > 0 else alpha_s * x0_hat
        ), x0_hat


def euler_in_angle(schedule: Schedule, x_t: Tensor, x0_hat: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s = r_s (x_t / r_t + (phi_s - phi_t) v_t), r = sqrt(alpha^2 + sigma^2)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    span = torch.atan2(sigma_s, alpha_s) - torch.atan2(sigma_t, alpha_t)
    x = x_t / torch.hypot(alpha_t, sigma_t) + span * turning(x_t, x0_hat, alpha_t, sigma_t)
    return torch.hypot(alpha_s, sigma_s) * x


@dataclass(frozen=True)
class Heun(Solver):
    """Heun's rule, second order, two evaluations a step (Karras et al. 2022, algorithm 1).

    In y = x / alpha over u = sigma / alpha the ODE is dy/du = eps_hat for every schedule: smooth down to u = 0, where in
    t it is not (sigma' is infinite for VP), so the order holds there too, on a grid that is even in u near 0. To
    sigma_s = 0 the step is Euler's, DDIM (no second evaluation: eps_hat is 0/0).

    coordinate = angle: X = x / sqrt(alpha^2 + sigma^2) over phi = atan(sigma / alpha), dX/dphi = v, as AdaptiveODE has it.
    It is finite at both ends, and with few steps on uniform times far better where u runs over orders of magnitude. A step
    over more than a factor LEAP of u, from alpha_t = 0 above all, is taken in the angle whatever the coordinate: u goes to
    600 for Cosine, and Heun's rule in u is of no use there.
    """

    coordinate: Literal["ratio", "angle"] = "ratio"

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        return (heun if self.coordinate == "ratio" else heun_in_angle)(denoise, x_t, t, s)


LEAP = (
    3.0  # the largest u_t / u_s of a step in u: beyond it, eps_hat is not near a straight line in u
)


def heun(denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor) -> Step:
    """y_s = y_t + (u_s - u_t) (d_t + d_s) / 2, d = eps_hat, y = x / alpha, u = sigma / alpha."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
    if 0 < LEAP * sigma_s * alpha_t < sigma_t * alpha_s or alpha_t == 0:
        return heun_in_angle(denoise, x_t, t, s)
    x0_hat = denoise(x_t, t)
    x_s = exponential(denoise.schedule, x_t, x0_hat, t, s)
    if sigma_s == 0:
        return x_s, x0_hat
    bend = eps_hat(x_s, denoise(x_s, s), alpha_s, sigma_s) - eps_hat(x_t, x0_hat, alpha_t, sigma_t)
    return x_s + (alpha_s * (sigma_s / alpha_s - sigma_t / alpha_t) / 2) * bend, x0_hat


def heun_in_angle(denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor) -> Step:
    """X_s = X_t + (phi_s - phi_t) (v_t + v_s) / 2, to sigma_s = 0 the flow's limit x_s = alpha_s x0_hat."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = denoise.schedule(t), denoise.schedule(s)
    x0_hat = denoise(x_t, t)
    if sigma_s == 0:
        return alpha_s * x0_hat, x0_hat
    span = torch.atan2(sigma_s, alpha_s) - torch.atan2(sigma_t, alpha_t)
    scale, x = torch.hypot(alpha_s, sigma_s), x_t / torch.hypot(alpha_t, sigma_t)
    v_t = turning(x_t, x0_hat, alpha_t, sigma_t)
    guess = scale * (x + span * v_t)
    v_s = turning(guess, denoise(guess, s), alpha_s, sigma_s)
    return scale * (x + span / 2 * (v_t + v_s)), x0_hat


def turning(x_t: Tensor, x0_hat: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """v = dX/dphi = cos(phi) eps_hat - sin(phi) x0_hat (Salimans & Ho 2022, appendix D)."""
    r = torch.hypot(alpha, sigma)
    return (alpha / r) * eps_hat(x_t, x0_hat, alpha, sigma) - (sigma / r) * x0_hat


@dataclass(frozen=True)
class AdaptiveODE(Solver):
    """An adaptive Runge-Kutta method of torchdiffeq carries x from t to s within tolerances, in one `step`.

    The angle phi = atan(sigma / alpha) is its time and X = x / sqrt(alpha^2 + sigma^2) its state (Salimans & Ho 2022,
    appendix D): dX/dphi = cos(phi) eps_hat - sin(phi) x0_hat is finite at both ends, alpha_t = 0 too, and does not see the
    kinks of a table of betas. To sigma_s = 0 the last piece, from sigma / alpha = 2e-3 in float32, is the flow's limit
    x_s = alpha_s x0_hat. The grid's times only cut the path, and each piece costs a new start: use few steps, or 1.

    torchdiffeq has one step size for a whole batch. Its error norm is here the largest over the samples, so that each
    one meets the tolerance, but the step size is still that of the hardest sample: the same seed in another batch gives
    the same sample within the tolerance, not to the last bit. Evaluations: count them with `Counted`; `Unreached` is raised
    beyond max_calls of a piece.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    method: Literal["dopri5", "dopri8", "bosh3"] = "dopri5"
    max_calls: int = 5000

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(
                f"AdaptiveODE needs rtol and atol above 0, got {self.rtol} and {self.atol}"
            )
        if self.max_calls < 1:
            raise ValueError(f"AdaptiveODE needs max_calls of at least 1, got {self.max_calls}")

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        schedule, near = denoise.schedule, torch.finfo(x_t.dtype).eps ** 0.4
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        phi_t, phi_s = torch.atan2(sigma_t, alpha_t), torch.atan2(sigma_s, alpha_s).clamp(min=near)
        x0_hat = denoise(x_t, t)
        if phi_t <= phi_s:  # t is inside the last piece
            return alpha_s * x0_hat, x0_hat
        x = self.turn(denoise, x_t / torch.hypot(alpha_t, sigma_t), phi_t, phi_s)
        if sigma_s > 0:
            return torch.hypot(alpha_s, sigma_s) * x, x0_hat
        u = time_of(schedule, phi_s)
        x0_hat = denoise(torch.hypot(*schedule(u)) * x, u)
        return alpha_s * x0_hat, x0_hat

    def turn(self, denoise: Denoise, x: Tensor, phi_t: Tensor, phi_s: Tensor) -> Tensor:
        """X = x / sqrt(alpha^2 + sigma^2) carried from the angle phi_t to phi_s."""

        def rate(t: Tensor, x: Tensor) -> Tensor:
            return turned(denoise, x, t)

        tolerance = self.rtol, self.atol, self.max_calls
        return along_angle(
            denoise.schedule, rate, x, (phi_t, phi_s), tolerance, largest_rms, self.method
        )


def turned(denoise: Denoise, x: Tensor, t: Tensor) -> Tensor:
    """v = dX/dphi of X = x / sqrt(alpha^2 + sigma^2) at time t."""
    alpha, sigma = denoise.schedule(t)
    x_t = torch.hypot(alpha, sigma) * x
    return turning(x_t, denoise(x_t, t), alpha, sigma)


class Unreached(ValueError):
    """An adaptive integration that did not reach its tolerance within the calls it may make."""


def along_angle(
    schedule: Schedule,
    rate: Callable[[Tensor, Any], Any],
    state: Any,
    ends: tuple[Tensor, Tensor],
    tolerance: tuple[float, float, int],
    norm: Callable[[Any], Tensor],
    method: str = "dopri5",
) -> Any:
    """The state, a tensor or a tuple of them, carried between two angles by torchdiffeq: `rate(t, state)` is d state / dphi.

    tolerance: rtol, atol and the most calls of `rate`. `norm` is of errors over tolerances, of the state's form.
    Unreached beyond the calls, or where the step underflows.
    """
    from torchdiffeq import odeint

    first = state[0] if isinstance(state, tuple) else state
    low, high = sorted(map(float, ends))
    phis, (rtol, atol, most), calls = torch.stack(ends).to(first.device), tolerance, 0
    failed = f"the ODE was not solved to a tolerance of rtol {rtol:g}, atol {atol:g}"

    def told(phi: Tensor, state: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > most:
            raise Unreached(
                f"{failed} within {most} calls of the network: take a larger one, or allow more calls"
            )
        # the first trial step may overshoot, and for x in float32 torchdiffeq rounds phi, to more than pi/2
        return rate(time_of(schedule, phi.cpu().double().clamp(low, high)), state)

    options = {
        "norm": norm,
        "step_t": phis[1:],
    }  # end on the last angle, not beyond it with interpolation back
    try:
        path = odeint(told, state, phis, rtol=rtol, atol=atol, method=method, options=options)
    except AssertionError as error:  # torchdiffeq's word for steps of 0 and for what is not finite
        raise Unreached(f"{failed} ({error}): take a larger one") from None
    return tuple(p[-1] for p in path) if isinstance(path, tuple) else path[-1]


def time_of(schedule: Schedule, phi: Tensor) -> Tensor:
    """The t with tan(phi) = sigma / alpha."""
    return schedule.inverse_log_snr(-phi.tan().log())


def largest_rms(error: Tensor) -> Tensor:
    """The largest root mean square over the samples; torchdiffeq's own is over the whole batch."""
    return (
        error.reshape(len(error), -1).square().mean(1).sqrt().max() if error.ndim else error.abs()
    )
