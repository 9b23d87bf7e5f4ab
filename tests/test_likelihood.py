"""The probability flow's likelihood against densities in closed form; the flow there and back; bits of levels."""

import math

import pytest
import torch
from torch.distributions import Normal

from benchmarks.exact import Gaussian, Mixture
from ldm.diffusion.likelihood import Ode, bits_per_dim, decode, dequantise, encode, gaussian, latent_bound, log_likelihood, slerp
from ldm.diffusion.schedules import VE, VP, Cosine, SubVP

TIGHT = Ode(1e-7, 1e-7)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flow_density(model, x_0, t_min):
    """log p(x_0) of what the flow makes of the prior N(0, sigma_1^2): the change of variables of its closed form."""
    ends = torch.tensor([t_min, 1.0], dtype=torch.float64)
    (_, std_0), (_, std_1), sigma_1 = (*(model.marginal(t) for t in ends), model.schedule(ends[1])[1])
    return (Normal(0.0, sigma_1).log_prob(model.flow(x_0, *ends)) + (std_1 / std_0).log()).sum(1)


@pytest.mark.parametrize("schedule", [VP(), Cosine(), SubVP()], ids=str)
def test_gaussian_likelihood_is_exact(schedule):
    """Within 1e-4 bits a dimension of the flow's closed form, within 1e-3 of the data's entropy on average.

    By the exact trace and, as the Jacobian is diagonal, by Hutchinson. (The flow starts at N(0, sigma_1^2), from which
    the law at t = 1 differs by alpha_1: pictures differ by up to 1e-2 bits, their mean does not.)
    """
    model, x_0 = Gaussian(schedule), 0.7 + 0.6 * torch.cat([draws(1000, 3), -draws(1000, 3)])
    exact = log_likelihood(model, x_0, probes=0, ode=TIGHT).nats
    guessed = log_likelihood(model, x_0, torch.Generator().manual_seed(0), probes=2, ode=TIGHT).nats
    truth = flow_density(model, x_0, TIGHT.t_min)
    for nats in (exact, guessed):
        assert (bits_per_dim(nats, 3) - bits_per_dim(truth, 3)).abs().max() < 1e-4
        off = bits_per_dim(nats, 3).mean() - bits_per_dim(Normal(0.7, 0.6).log_prob(x_0).sum(1), 3).mean()
        assert off.abs() < 1e-3


def test_mixture_likelihood_and_hutchinsons_error_bar():
    """A mixture in the plane: the exact trace finds its density; the estimates spread around it as their errors say."""
    model, x_0 = Mixture(VP()), Mixture(VP()).draw(2000, torch.Generator().manual_seed(1))
    apart = x_0[:, None] - model.means
    parts = -apart.square().sum(-1) / (2 * model.std**2) - math.log(2 * math.pi * model.std**2)
    truth = torch.logsumexp(parts, 1) - math.log(len(model.means))
    exact = log_likelihood(model, x_0, probes=0, ode=TIGHT).nats
    off = bits_per_dim(exact - truth, 2, 3)  # of 3 levels: no offset
    assert off.mean().abs() < 1e-3 and off.abs().max() < 1e-2
    guessed = log_likelihood(model, x_0[:100], torch.Generator().manual_seed(0), probes=16, ode=TIGHT)
    z = ((guessed.nats - exact[:100]) / guessed.error.clamp(min=1e-9))[guessed.error > 1e-4]
    assert len(z) > 40 and z.mean().abs() < 0.4 and 0.7 < z.std() < 1.5


@pytest.mark.parametrize("model", [Gaussian(VP()), Gaussian(VE()), Mixture(Cosine())], ids=["VP", "VE", "mixture"])
def test_the_flow_there_and_back(model):
    x_0 = 0.5 + 0.6 * draws(16, 2)
    x_1 = encode(model, x_0, TIGHT)
    assert torch.allclose(decode(model, x_1, TIGHT), x_0, atol=1e-4)
    if isinstance(model, Gaussian):
        ends = torch.tensor([TIGHT.t_min, 1.0], dtype=torch.float64)
        assert torch.allclose(x_1, model.flow(x_0, *ends), rtol=1e-5, atol=1e-5)


def test_interpolation_keeps_the_norm_and_the_ends():
    a, b = draws(4, 3, 16, 16), draws(4, 3, 16, 16, seed=1)
    assert torch.allclose(slerp(a, b, 0.0), a) and torch.allclose(slerp(a, b, 1.0), b, atol=1e-12)
    norm = lambda x: x.flatten(1).norm(dim=1)
    assert (norm(slerp(a, b, 0.5)) / norm(a) - 1).abs().max() < 0.06
    assert torch.allclose(slerp(a, a, 0.3), a)


def test_bits_of_uniform_levels():
    """Levels drawn uniformly cost log2(levels) bits each, whatever the number of levels; the noise stays in its bin."""
    for levels in (2, 17, 256):
        width = 2 / (levels - 1)
        density = -torch.tensor([5 * math.log(levels * width)], dtype=torch.float64)  # of 5 values, uniform over all bins
        assert bits_per_dim(density, 5, levels).item() == pytest.approx(math.log2(levels), abs=1e-12)
        k = torch.arange(levels).repeat(50)
        x = dequantise(k, levels, torch.Generator().manual_seed(0))
        assert torch.equal(((x + 1) / width).round().clamp(0, levels - 1).long(), k)
        assert ((x + 1) / width - k).abs().max() > 0.4


def test_latent_bound_is_tight_for_a_linear_gaussian_model():
    """p(z) = N(0, 1), x = 2 z + 0.5 e: with q the true posterior every z gives log p(x) itself; with another, less."""
    x, s = draws(64, 5), 0.5
    variance = 1 / (1 + 4 / s**2)
    mean, std = variance * 2 / s**2 * x, torch.full_like(x, math.sqrt(variance))
    prior = lambda z: gaussian(z, torch.zeros_like(z), torch.tensor(1.0))
    truth = Normal(0.0, math.sqrt(4 + s**2)).log_prob(x).sum(1)
    bound = latent_bound(x, mean, std, prior, lambda z: 2 * z, s, draws(64, 5, seed=2))
    assert torch.allclose(bound, truth, atol=1e-9)
    worse = latent_bound(x, mean + 0.2, 1.5 * std, prior, lambda z: 2 * z, s, draws(64, 5, seed=2))
    assert worse.mean() < truth.mean() - 0.5
