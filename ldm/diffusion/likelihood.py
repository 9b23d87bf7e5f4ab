"""The exact log-likelihood along the probability flow, and bits a dimension.

The log-density along a path of the flow falls by the divergence (Chen et al. 2018, theorem 1):

    log p(x_0) = log N(x_1; 0, sigma_1^2) + int_0^1 div(dx/dt) dt.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.diffusion.flow import Ode, real_numbers, rms_of
from ldm.diffusion.solvers import Denoise
from ldm.diffusion.solvers.angle import turning_at


@dataclass(frozen=True)
class Likelihood:
    """log p(x_0) in nats, its standard error over the probes, (B,) each; x_1, and the calls.

    error: 0 for the exact trace; not a number for a single probe, whose error shows over images
    alone. dimensions: how many numbers each sample has, (B,), for `bits_per_dim` of clouds.
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
    """log p(x_0) under the probability flow (Song et al. 2021, eq. 39); x_0 (B, ...).

    probes >= 1: Hutchinson's estimate of the divergence, e^T J e with e = +-1 drawn on the CPU by
    `generator` and kept along the path (Grathwohl et al. 2019), unbiased. probes = 0: the exact
    trace, as many products a call as x has dimensions.

    mask: (B, N), true for the real rows of clouds x_0 (B, N, F), by default the denoiser's own
    (`Guided.mask`). Padding is no number of the data and adds nothing: nats are of n F numbers,
    given n. They are of x_0 as the denoiser sees it; for a density of a space's features add its
    `log_jacobian`. Unreached where the tolerance takes more than ode.max_calls.
    """
    x_0, schedule = x_0.detach().clone(), denoise.schedule
    real = real_numbers(denoise, x_0, mask)
    rate = _Divergence(denoise, real, _directions(x_0, real, generator, probes))
    alpha, sigma = ode.ends(schedule)
    r_0, r_1 = torch.hypot(alpha, sigma)
    with torch.no_grad():
        state = real * x_0.double() / r_0, real.new_zeros(len(real), len(rate.directions))
        x_1, change = ode.solve(schedule, rate, state, rms_of(real))
    count = real.flatten(1).sum(1)
    # of x_0, which is r_0 times the state
    prior = normal_log_density(x_1, torch.zeros_like(x_1), sigma[1] / r_1, real) - count * r_0.log()
    divergence = change.mean(1) if probes else change.sum(1)
    error = torch.full_like(prior, 0 if probes == 0 else math.nan)
    if probes > 1:
        error = change.std(1) / math.sqrt(probes)
    return Likelihood(prior + divergence, error, (r_1 * x_1).to(x_0.dtype), rate.calls, count)


class _Divergence:
    """dX/dphi, and its products e^T J e with some directions e: the rate of (X, log-density)."""

    def __init__(self, denoise: Denoise, real: Tensor, directions: list[Tensor]):
        self.denoise, self.real, self.directions, self.calls = denoise, real, directions, 0

    def __call__(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        self.calls += 1
        with torch.enable_grad():
            x = state[0].detach().to(self.directions[0].dtype).requires_grad_()
            v = turning_at(self.denoise, x, t)
            products = [
                (torch.autograd.grad(v, x, e, retain_graph=True)[0] * e).flatten(1).sum(1)
                for e in self.directions
            ]
        return self.real * v.detach().double(), torch.stack(products, 1).detach().double()


def _directions(
    x: Tensor, real: Tensor, generator: torch.Generator | None, probes: int
) -> list[Tensor]:
    """`probes` Rademacher draws of x's shape, 0 at padding; for 0 the unit vectors of all axes."""
    if probes == 0:
        units = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        drawn = [unit.reshape(x[0].shape).expand(x.shape) for unit in units]
    else:
        levels = [torch.randint(0, 2, x.shape, generator=generator) for _ in range(probes)]
        drawn = [level.to(x) * 2 - 1 for level in levels]
    return [e * real.to(e) for e in drawn]


def normal_log_density(x: Tensor, mean: Tensor, std: Tensor, real: Tensor | float = 1.0) -> Tensor:
    """log N(x; mean, std^2) in nats, summed over a sample where `real` is 1: (B,)."""
    squares = -0.5 * ((x - mean) / std).square()
    terms = squares - torch.as_tensor(std).log() - 0.5 * math.log(2 * math.pi)
    return (real * terms.expand(x.shape)).flatten(1).sum(1)


def dequantise(levels: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Levels 0 ... count - 1 -> [-1, 1] with uniform noise over each level's bin.

    Level k is 2 k / (count - 1) - 1, as in training, and a bin of width 2 / (count - 1), so the
    outer bins reach half a width beyond [-1, 1]. The noise is drawn on the CPU. Theis et al. 2016,
    section 3.1: the mean density of the noisy data bounds the levels' probability from below.
    """
    noise = torch.rand(levels.shape, generator=generator).to(levels.device) - 0.5
    return (levels + noise) * (2 / (count - 1)) - 1


def bits_per_dim(nats: Tensor, dimensions: int | Tensor, levels: int = 256) -> Tensor:
    """Bits a dimension of data of so many levels in [-1, 1]: -log2 p / D - log2(2 / (levels - 1)).

    The second term is the log of a bin's width: 6.994 for 256 levels, 3 for 17. (Song et al. have
    7: their 256 bins fill [-1, 1], so that their data are 255/256 as wide as ours; the sum is the
    same.)
    dimensions: (B,) for clouds.
    """
    return -nats / (dimensions * math.log(2)) - math.log2(2 / (levels - 1))


@dataclass(frozen=True)
class Encoded:
    """q(z|x) = N(mean, std^2) of an encoder, (B, ...), as the diffusion model sees z (whitened)."""

    mean: Tensor
    std: Tensor


def latent_bound(
    x: Tensor,
    posterior: Encoded,
    log_prior: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    decoder_std: float,
    noise: Tensor,
) -> Tensor:
    """log p(x|z) + log p(z) - log q(z|x) <= log p(x) on average, nats (B,), at one z of q.

    The evidence lower bound for latent diffusion (Kingma & Welling 2014, eq. 3; Vahdat et al. 2021,
    eq. 4): z = mean + std noise; p(x|z) = N(decode(z), decoder_std^2), a choice: the root mean
    square of the reconstruction error is the best one; p(z) is the diffusion model's,
    `log_likelihood`.nats.
    """
    mean, std = posterior.mean, posterior.std
    z = mean + std * noise
    of_x = normal_log_density(x, decode(z), torch.as_tensor(decoder_std))
    return of_x + log_prior(z) - normal_log_density(z, mean, std)
