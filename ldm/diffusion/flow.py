"""The probability-flow ODE from data to noise and back.

dx/dt = f x - g^2/2 score = alpha' x0_hat + sigma' eps_hat (Song et al. 2021, eq. 13). It moves the
same densities as the SDE. It is integrated in the angle phi = atan(sigma / alpha) for
X = x / sqrt(alpha^2 + sigma^2), whose rate is bounded (see `solvers.angle`).

A path starts at t_min, not 0, where sigma' may be infinite. There the density is the data's,
blurred by sigma(t_min): 1e-3 for VP at 1e-5, an eighth of a grey level of 256. For a Gaussian of
standard deviation s it costs (sigma / s)^2 / 2 nats a dimension or less. A network that trained
from `schedule.t_min` is asked below it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers import Denoise
from ldm.diffusion.solvers.angle import Integrator, State, angle_of, turning_at

Progress = Callable[[float], object]
Norm = Callable[[State], Tensor]


@dataclass(frozen=True)
class Ode:
    """dopri5's tolerances on each sample's root mean square, a path's start, and its most calls.

    `progress` is called with the t of every call of the network. ValueError for settings out of
    range.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    t_min: float = 1e-5
    max_calls: int = 5000
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if not (min(self.rtol, self.atol) > 0 and 0 < self.t_min < 1 and self.max_calls >= 1):
            needs = "Ode needs rtol, atol > 0, 0 < t_min < 1 and max_calls >= 1"
            got = f"{self.rtol}, {self.atol}, {self.t_min} and {self.max_calls}"
            raise ValueError(f"{needs}, got {got}")

    def ends(self, schedule: Schedule) -> tuple[Tensor, Tensor]:
        """alpha and sigma, (2,) each in float64, at t_min and at 1."""
        at = [schedule(torch.tensor(t, dtype=torch.float64)) for t in (self.t_min, 1.0)]
        alpha, sigma = zip(*at, strict=True)
        return torch.stack(alpha), torch.stack(sigma)

    def solve(
        self,
        schedule: Schedule,
        rate: Callable[[Tensor, State], State],
        state: State,
        norm: Norm[State],
        *,
        backwards: bool = False,
    ) -> State:
        """The state carried in the angle from t_min to 1, or backwards; `rate(t, state)` its rate.

        Unreached as by `Integrator.integrate`.
        """

        def observed(t: Tensor, state: State) -> State:
            if self.progress is not None:
                self.progress(t.item())
            return rate(t, state)

        low, high = angle_of(*self.ends(schedule))
        ends = (high, low) if backwards else (low, high)
        integrator = Integrator(self.rtol, self.atol, self.max_calls)
        return integrator.integrate(schedule, observed, state, ends, norm)


def to_noise(denoise: Denoise, x_0: Tensor, ode: Ode = Ode(), mask: Tensor | None = None) -> Tensor:
    """Data x_0 (B, ...) -> the noise x_1 that `from_noise` makes it from.

    float64 within, the network in x_0's dtype. mask: (B, N), true for the real rows of clouds
    (B, N, F), by default the denoiser's own (`Guided.mask`); padding stays 0.
    """
    return _carry(denoise, x_0, ode, mask, backwards=False)


def from_noise(
    denoise: Denoise, x_1: Tensor, ode: Ode = Ode(), mask: Tensor | None = None
) -> Tensor:
    """Noise x_1 = sigma_1 eps -> data: the inverse of `to_noise`, and a solver of adaptive step."""
    return _carry(denoise, x_1, ode, mask, backwards=True)


@torch.no_grad()
def _carry(
    denoise: Denoise, x: Tensor, ode: Ode, mask: Tensor | None, *, backwards: bool
) -> Tensor:
    dtype, real = x.dtype, real_numbers(denoise, x, mask)
    radii = torch.hypot(*ode.ends(denoise.schedule))
    first, last = radii.flip(0) if backwards else radii

    def rate(t: Tensor, x: Tensor) -> Tensor:
        return real * turning_at(denoise, x.to(dtype), t).double()

    state = real * x.double() / first
    state = ode.solve(denoise.schedule, rate, state, rms_of(real), backwards=backwards)
    return (last * state).to(dtype)


def real_numbers(denoise: Denoise, x: Tensor, mask: Tensor | None) -> Tensor:
    """1 where x is a number of the data, 0 at padding: float64, of x's shape."""
    mask = getattr(denoise, "mask", None) if mask is None else mask
    if mask is None:
        return torch.ones_like(x, dtype=torch.float64)
    return mask[..., None].expand(x.shape).double()


def rms_of(real: Tensor) -> Callable[[Tensor | tuple[Tensor, ...]], Tensor]:
    """A norm: the largest root mean square over the samples, of their real numbers.

    Of a pair of states the larger, the second of scalars (B, K).
    """
    count = real.flatten(1).sum(1).clamp(min=1)

    def norm(error: Tensor | tuple[Tensor, ...]) -> Tensor:
        first, *others = error if isinstance(error, tuple) else (error,)
        if not first.ndim:
            return first.abs()
        rms = (first.flatten(1).square().sum(1) / count).sqrt()
        return torch.cat([rms, *(other.abs().flatten() for other in others)]).max()

    return norm


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """[sin((1 - w) angle) a + sin(w angle) b] / sin(angle), row by row (Shoemake 1985).

    Spherical interpolation: two draws of N(0, 1) in many dimensions stay of the norm that such
    draws have, where a straight line would not.
    """
    rows_a, rows_b = a.flatten(1), b.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(rows_a, rows_b, dim=1).clamp(-1, 1)
    angle = cosine.acos().clamp(min=1e-4)[:, None]  # parallel rows: the straight line's limit
    mixed = (((1 - weight) * angle).sin() * rows_a + (weight * angle).sin() * rows_b) / angle.sin()
    return mixed.reshape(a.shape)
