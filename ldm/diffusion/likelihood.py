"""The probability-flow ODE: data to noise, noise to data, and the exact log-likelihood along the way.

dx/dt = f x - g^2/2 score = alpha' x0_hat + sigma' eps_hat (Song et al. 2021, eq. 13). It moves the same densities as the
SDE, and the log-density along a path falls by the divergence (Chen et al. 2018, theorem 1):

    log p(x_0) = log N(x_1; 0, sigma_1^2) + int_0^1 div(dx/dt) dt.

It is integrated in the angle phi = atan(sigma / alpha) for X = x / sqrt(alpha^2 + sigma^2), whose rate is bounded.

A path starts at t_min, not 0, where sigma' may be infinite. There the density is the data's, blurred by sigma(t_min):
1e-3 for VP at 1e-5, an eighth of a grey level of 256. For a Gaussian of standard deviation s
it costs (sigma / s)^2 / 2 nats a dimension or less. A network that trained from `schedule.t_min` is asked below it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ldm.diffusion import denoiser
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers import Denoise
from ldm.diffusion.solvers.ode import along_angle, turned

Norm = Callable[[Any], Tensor]

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Ode:
    """dopri5's tolerances (on each sample's root mean square), where the path starts, and the calls it may take.

    Its time is the angle phi = atan(sigma / alpha), its state x / sqrt(alpha^2 + sigma^2), as AdaptiveODE's: in t a table of
    betas has a kink at every entry, and laws have infinite rates at their ends.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    t_min: float = 1e-5
    max_calls: int = 5000
    progress: Progress | None = None  # told of the t of every call of the network

    def __post_init__(self) -> None:
        if not (min(self.rtol, self.atol) > 0 and 0 < self.t_min < 1 and self.max_calls >= 1):
            got = f"{self.rtol}, {self.atol}, {self.t_min} and {self.max_calls}"
            raise ValueError(
                f"Ode needs rtol, atol > 0, 0 < t_min < 1 and max_calls >= 1, got {got}"
            )

    def ends(self, schedule: Schedule) -> Tensor:
        """alpha and sigma at t_min and at 1, (2, 2) in float64."""
        return torch.stack(
            [torch.stack(schedule(torch.tensor(t, dtype=torch.float64))) for t in (self.t_min, 1.0)]
        )

    def solve(
        self,
        schedule: Schedule,
        rate: Callable[[Tensor, Any], Any],
        state: Any,
        norm: Norm,
        backwards: bool = False,
    ) -> Any:
        """The state, a tensor or a tuple of them, carried in the angle from t_min to 1, or backwards. Unreached: see there."""

        def told(t: Tensor, state: Any) -> Any:
            if self.progress is not None:
                self.progress(t.item())
            return rate(t, state)

        alpha, sigma = self.ends(schedule).unbind(1)
        low, high = torch.atan2(sigma, alpha)
        ends = (high, low) if backwards else (low, high)
        return along_angle(
            schedule, told, state, ends, (self.rtol, self.atol, self.max_calls), norm
        )


def velocity(denoise: Denoise, x: Tensor, t: Tensor) -> Tensor:
    """dx/dt of the probability-flow ODE at time t, 0-dim (Song et al. 2021, eq. 13)."""
    return denoiser.velocity(x, denoise(x, t), *denoise.schedule(t), *denoise.schedule.rates(t))


def encode(denoise: Denoise, x_0: Tensor, ode: Ode = Ode(), mask: Tensor | None = None) -> Tensor:
    """Data -> the noise x_1 that `decode` makes it from. float64 within, the network in x_0's dtype.

    mask: (B, N), true for the real rows of clouds (B, N, F), by default the denoiser's own (`Guided.mask`); padding stays 0.
    """
    return _carry(denoise, x_0, ode, mask, backwards=False)


def decode(denoise: Denoise, x_1: Tensor, ode: Ode = Ode(), mask: Tensor | None = None) -> Tensor:
    """Noise x_1 = sigma_1 eps -> data: the inverse of `encode`, and a solver of adaptive step."""
    return _carry(denoise, x_1, ode, mask, backwards=True)


@torch.no_grad()
def _carry(denoise: Denoise, x: Tensor, ode: Ode, mask: Tensor | None, backwards: bool) -> Tensor:
    dtype, real = x.dtype, real_numbers(denoise, x, mask)
    radii = torch.hypot(*ode.ends(denoise.schedule).unbind(1))
    first, last = radii.flip(0) if backwards else radii
    rate = lambda t, x: real * turned(denoise, x.to(dtype), t).double()  # noqa: E731
    return (
        last * ode.solve(denoise.schedule, rate, real * x.double() / first, rms_of(real), backwards)
    ).to(dtype)


def real_numbers(denoise: Denoise, x: Tensor, mask: Tensor | None) -> Tensor:
    """1 where x is a number of the data, 0 at padding: float64, of x's shape."""
    mask = getattr(denoise, "mask", None) if mask is None else mask
    return (
        torch.ones_like(x, dtype=torch.float64)
        if mask is None
        else mask[..., None].expand(x.shape).double()
    )


def rms_of(real: Tensor) -> Norm:
    """The largest root mean square over the samples, of their real numbers; of scalars a sample, (B, K), the largest."""
    count = real.flatten(1).sum(1).clamp(min=1)

    def norm(error: Any) -> Tensor:
        parts = error if isinstance(error, tuple) else (error,)
        if not parts[0].ndim:
            return parts[0].abs()
        sizes = [
            (parts[0].flatten(1).square().sum(1) / count).sqrt(),
            *(part.abs().flatten() for part in parts[1:]),
        ]
        return torch.cat(sizes).max()

    return norm


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Spherical interpolation of noise, row by row: sin((1 - w) angle) a + sin(w angle) b over sin(angle) (Shoemake 1985).

    Two draws of N(0, 1) in many dimensions stay of the norm that such draws have, where a straight line would not.
    """
    rows_a, rows_b = a.flatten(1), b.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(rows_a, rows_b, dim=1).clamp(-1, 1)
    angle = cosine.acos().clamp(min=1e-4)[:, None]  # parallel rows: the straight line's limit
    mixed = (((1 - weight) * angle).sin() * rows_a + (weight * angle).sin() * rows_b) / angle.sin()
    return mixed.reshape(a.shape)


@dataclass(frozen=True)
class Likelihood:
    """log p(x_0) in nats and its standard error over the probes, (B,) each; the noise x_1 and the calls it took.

    error: 0 for the exact trace; not a number for a single probe, whose error shows over images alone. dimensions: how
    many numbers each sample has, (B,), for `bits_per_dim` of clouds.
    """

    nats: Tensor
    error: Tensor
    x_1: Tensor
    calls: int
    dimensions: Tensor


@torch.inference_mode(False)
def log_likelihood(
    denoise: Denoise,
    x_0: Tensor,
    generator: torch.Generator | None = None,
    probes: int = 1,
    ode: Ode = Ode(),
    mask: Tensor | None = None,
) -> Likelihood:
    """log p(x_0) under the probability flow (Song et al. 2021, eq. 39); x_0 (B, ...). In inference mode too.

    probes >= 1: Hutchinson's estimate of the divergence, e^T J e with e = +-1 drawn on the CPU by `generator` and kept along
    the path (Grathwohl et al. 2019), unbiased. probes = 0: the exact trace, as many products a call as x has dimensions.

    mask: (B, N), true for the real rows of clouds x_0 (B, N, F), by default the denoiser's own (`Guided.mask`). Padding is no
    number of the data and adds nothing: nats are of n F numbers, given n. They are of x_0 as the denoiser sees it; for a
    density of a space's features add its `log_jacobian`. Unreached where the tolerance takes more than ode.max_calls.
    """
    x_0, dtype = x_0.detach().clone(), x_0.dtype
    real = real_numbers(denoise, x_0, mask)
    directions = [e * real.to(e) for e in _directions(x_0, generator, probes)]
    calls = 0

    def rate(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        with torch.enable_grad():
            x = state[0].detach().to(dtype).requires_grad_()
            v = turned(denoise, x, t)
            products = [
                (torch.autograd.grad(v, x, e, retain_graph=True)[0] * e).flatten(1).sum(1)
                for e in directions
            ]
        return real * v.detach().double(), torch.stack(products, 1).detach().double()

    (alpha, sigma), count = ode.ends(denoise.schedule).unbind(1), real.flatten(1).sum(1)
    r_0, r_1 = torch.hypot(alpha, sigma)
    with torch.no_grad():
        state = real * x_0.double() / r_0, real.new_zeros(len(real), len(directions))
        x_1, change = ode.solve(denoise.schedule, rate, state, rms_of(real))
    prior = (
        gaussian(x_1, torch.zeros_like(x_1), sigma[1] / r_1, real) - count * r_0.log()
    )  # of x_0, r_0 times the state
    x_1 = (r_1 * x_1).to(dtype)
    if probes == 0:
        return Likelihood(prior + change.sum(1), torch.zeros_like(prior), x_1, calls, count)
    error = change.std(1) / math.sqrt(probes) if probes > 1 else torch.full_like(prior, math.nan)
    return Likelihood(prior + change.mean(1), error, x_1, calls, count)


def _directions(x: Tensor, generator: torch.Generator | None, probes: int) -> list[Tensor]:
    """`probes` Rademacher draws of x's shape; for 0 the unit vectors of every dimension."""
    if probes == 0:
        units = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        return [unit.reshape(x[0].shape).expand(x.shape) for unit in units]
    draw = lambda: torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1  # noqa: E731
    return [draw() for _ in range(probes)]


def gaussian(x: Tensor, mean: Tensor, std: Tensor, real: Tensor | float = 1.0) -> Tensor:
    """log N(x; mean, std^2) in nats, summed over all but the first axis, where `real` is 1: (B,)."""
    terms = (
        -0.5 * ((x - mean) / std).square()
        - torch.as_tensor(std).log()
        - 0.5 * math.log(2 * math.pi)
    )
    return (real * terms.expand(x.shape)).flatten(1).sum(1)


def dequantise(levels: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Levels 0 ... count - 1 -> [-1, 1] with uniform noise over each level's bin, of width 2 / (count - 1).

    Level k is 2 k / (count - 1) - 1, as in training, so the outer bins reach half a width beyond [-1, 1]. The noise is drawn
    on the CPU. Theis et al. 2016, section 3.1: the mean density of the noisy data bounds the levels' probability from below.
    """
    noise = torch.rand(levels.shape, generator=generator).to(levels.device) - 0.5
    return (levels + noise) * (2 / (count - 1)) - 1


def bits_per_dim(nats: Tensor, dimensions: int | Tensor, levels: int = 256) -> Tensor:
    """Bits a dimension of data with so many levels in [-1, 1]: -log2 p / D - log2(2 / (levels - 1)).

    The second term is the log of a bin's width: 6.994 for 256 levels, 3 for 17. (Song et al. have 7: their 256 bins fill
    [-1, 1], so that their data are 255/256 as wide as ours; the sum is the same.) dimensions: (B,) for clouds.
    """
    return -nats / (dimensions * math.log(2)) - math.log2(2 / (levels - 1))


def latent_bound(
    x: Tensor,
    mean: Tensor,
    std: Tensor,
    log_prior: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    decoder_std: float,
    noise: Tensor,
) -> Tensor:
    """A lower bound of log p(x) for latent diffusion, nats (B,): log p(x|z) + log p(z) - log q(z|x) at one z of q.

    q(z|x) = N(mean, std^2) is the encoder's, z = mean + std noise; p(x|z) = N(decode(z), decoder_std^2), a choice: the root
    mean square of the reconstruction error is the best one; p(z) is the diffusion model's, `log_likelihood`.nats. With z
    whitened after the encoder, whiten mean and std too. Kingma & Welling 2014, eq. 3; Vahdat et al. 2021, eq. 4.
    """
    z = mean + std * noise
    return (
        gaussian(x, decode(z), torch.as_tensor(decoder_std)) + log_prior(z) - gaussian(z, mean, std)
    )
