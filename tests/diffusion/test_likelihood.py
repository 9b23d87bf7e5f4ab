"""The probability flow's likelihood against densities in closed form; the flow there and back; bits
of levels.
"""

import math

import pytest
import torch
from exact import Gaussian, Mixture
from torch.distributions import Normal, SigmoidTransform, TransformedDistribution

from ldm.config import SampleConfig
from ldm.diffusion.denoiser import Denoiser, Loss
from ldm.diffusion.flow import Ode, from_noise, slerp, to_noise
from ldm.diffusion.likelihood import (
    Encoded,
    bits_per_dim,
    dequantise,
    latent_bound,
    log_likelihood,
    normal_log_density,
)
from ldm.diffusion.schedules import VE, VP, Cosine, Discrete, Linear, SubVP
from ldm.diffusion.solvers import AdaptiveODE, Counted, Unreached, sample
from ldm.diffusion.tasks import cfg
from ldm.errors import Refusal
from ldm.jets.network import SetTransformer
from ldm.jets.space import PointCloudSpace
from ldm.sampling.density import Estimate
from ldm.sampling.jets import log_density
from ldm.sampling.model import Model

TIGHT = Ode(1e-7, 1e-7)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flow_density(model, x_0, t_min):
    """log p(x_0) of what the flow makes of the prior N(0, sigma_1^2): the change of variables of
    its closed form.
    """
    ends = torch.tensor([t_min, 1.0], dtype=torch.float64)
    (_, std_0), (_, std_1), sigma_1 = (
        *(model.marginal(t) for t in ends),
        model.schedule(ends[1])[1],
    )
    return (Normal(0.0, sigma_1).log_prob(model.flow(x_0, *ends)) + (std_1 / std_0).log()).sum(1)


@pytest.mark.parametrize(
    "schedule", [VP(), Cosine(), SubVP(), Discrete(), Discrete(zero_snr=True), Linear()], ids=str
)
def test_gaussian_likelihood_is_exact(schedule):
    """Within 1e-4 bits a dimension of the flow's closed form, within 1e-3 of the data's entropy on
    average.

    By the exact trace and, as the Jacobian is diagonal, by Hutchinson. (The flow starts at N(0,
    sigma_1^2), from which the law at t = 1 differs by alpha_1: pictures differ by up to 1e-2 bits,
    their mean does not.)
    """
    model, x_0 = Gaussian(schedule), 0.7 + 0.6 * torch.cat([draws(1000, 3), -draws(1000, 3)])
    exact = log_likelihood(model, x_0, probes=0, ode=TIGHT).nats
    guessed = log_likelihood(model, x_0, torch.Generator().manual_seed(0), probes=2, ode=TIGHT).nats
    truth = flow_density(model, x_0, TIGHT.t_min)
    for nats in (exact, guessed):
        assert (bits_per_dim(nats, 3) - bits_per_dim(truth, 3)).abs().max() < 1e-4
        off = (
            bits_per_dim(nats, 3).mean()
            - bits_per_dim(Normal(0.7, 0.6).log_prob(x_0).sum(1), 3).mean()
        )
        assert off.abs() < 1e-3


def test_mixture_likelihood_and_hutchinsons_error_bar():
    """A mixture in the plane: the exact trace finds its density; the estimates spread around it as
    their errors say.
    """
    model, x_0 = Mixture(VP()), Mixture(VP()).draw(2000, torch.Generator().manual_seed(1))
    apart = x_0[:, None] - model.means
    parts = -apart.square().sum(-1) / (2 * model.std**2) - math.log(2 * math.pi * model.std**2)
    truth = torch.logsumexp(parts, 1) - math.log(len(model.means))
    exact = log_likelihood(model, x_0, probes=0, ode=TIGHT).nats
    off = bits_per_dim(exact - truth, 2, 3)  # of 3 levels: no offset
    assert off.mean().abs() < 1e-3 and off.abs().max() < 1e-2
    guessed = log_likelihood(
        model, x_0[:100], torch.Generator().manual_seed(0), probes=16, ode=TIGHT
    )
    z = ((guessed.nats - exact[:100]) / guessed.error.clamp(min=1e-9))[guessed.error > 1e-4]
    assert len(z) > 40 and z.mean().abs() < 0.4 and 0.7 < z.std() < 1.5


@pytest.mark.parametrize(
    "model", [Gaussian(VP()), Gaussian(VE()), Mixture(Cosine())], ids=["VP", "VE", "mixture"]
)
def test_the_flow_there_and_back(model):
    x_0 = 0.5 + 0.6 * draws(16, 2)
    x_1 = to_noise(model, x_0, TIGHT)
    assert torch.allclose(from_noise(model, x_1, TIGHT), x_0, atol=1e-4)
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
    """Levels drawn uniformly cost log2(levels) bits each, whatever the number of levels; the noise
    stays in its bin.
    """
    for levels in (2, 17, 256):
        width = 2 / (levels - 1)
        density = -torch.tensor(
            [5 * math.log(levels * width)], dtype=torch.float64
        )  # of 5 values, uniform over all bins
        assert bits_per_dim(density, 5, levels).item() == pytest.approx(
            math.log2(levels), abs=1e-12
        )
        k = torch.arange(levels).repeat(50)
        x = dequantise(k, levels, torch.Generator().manual_seed(0))
        assert torch.equal(((x + 1) / width).round().clamp(0, levels - 1).long(), k)
        assert ((x + 1) / width - k).abs().max() > 0.4


def test_latent_bound_is_tight_for_a_linear_gaussian_model():
    """p(z) = N(0, 1), x = 2 z + 0.5 e: with q the true posterior every z gives log p(x) itself;
    with another, less.
    """
    x, s = draws(64, 5), 0.5
    variance = 1 / (1 + 4 / s**2)
    mean, std = variance * 2 / s**2 * x, torch.full_like(x, math.sqrt(variance))
    prior = lambda z: normal_log_density(z, torch.zeros_like(z), torch.tensor(1.0))
    truth = Normal(0.0, math.sqrt(4 + s**2)).log_prob(x).sum(1)
    bound = latent_bound(x, Encoded(mean, std), prior, lambda z: 2 * z, s, draws(64, 5, seed=2))
    assert torch.allclose(bound, truth, atol=1e-9)
    worse = latent_bound(
        x, Encoded(mean + 0.2, 1.5 * std), prior, lambda z: 2 * z, s, draws(64, 5, seed=2)
    )
    assert worse.mean() < truth.mean() - 0.5


NUMBERS = [0, 1, 4, 7]  # of constituents, in clouds padded to 7


def masks():
    return torch.arange(7) < torch.tensor(NUMBERS)[:, None]


@pytest.mark.parametrize("probes", [0, 2])
def test_padding_adds_nothing_to_the_likelihood(probes):
    """Clouds of 0, 1, 4 and 7 of 7: each has the nats of its real numbers, and of these alone in a
    batch of its own.
    """
    model, mask, x_0 = Gaussian(VP()), masks(), 0.7 + 0.6 * draws(4, 7, 3)
    run = lambda x, m: log_likelihood(model, x, torch.Generator().manual_seed(0), probes, TIGHT, m)
    found = run(x_0 + 100 * ~mask[..., None], mask)  # whatever lies in the padding
    each = flow_density(model, x_0.reshape(-1, 1), TIGHT.t_min).reshape(4, 7, 3)
    assert torch.allclose(found.nats, (each * mask[..., None]).sum((1, 2)), atol=1e-3)
    assert found.dimensions.tolist() == [3 * n for n in NUMBERS] and (found.x_1[~mask] == 0).all()
    short = run(x_0[2:3, :4], torch.ones(1, 4, dtype=torch.bool))
    assert torch.allclose(short.nats, found.nats[2:3], atol=1e-4)
    there = to_noise(model, x_0, TIGHT, mask)
    assert (
        torch.allclose(there, found.x_1, atol=1e-4)
        and (from_noise(model, there, TIGHT, mask)[~mask] == 0).all()
    )


class Pairs(Mixture):
    """Clouds (B, N, 2) of independent points of the mixture."""

    def __call__(self, x_t, t):
        return super().__call__(x_t.reshape(-1, 2), t).reshape(x_t.shape)


def test_clouds_of_a_mixture():
    model, mask = Pairs(Cosine()), masks()
    x_0 = Mixture(VP()).draw(28, torch.Generator().manual_seed(2)).reshape(4, 7, 2)
    apart = x_0[..., None, :] - model.means
    parts = -apart.square().sum(-1) / (2 * model.std**2) - math.log(2 * math.pi * model.std**2)
    truth = ((torch.logsumexp(parts, -1) - math.log(3)) * mask).sum(1)
    found = log_likelihood(model, x_0, probes=0, ode=Ode(1e-6, 1e-6), mask=mask)
    assert (found.nats - truth).abs().max() < 0.03


@pytest.mark.parametrize(
    "schedule",
    [VP(), SubVP(), VE(), Cosine(), Linear(), Discrete(), Discrete(zero_snr=True)],
    ids=str,
)
def test_calls_are_few_on_every_law(schedule):
    """In t the table's kinks took 17,690 calls at 1e-8."""
    found = log_likelihood(Gaussian(schedule), draws(4, 2), probes=0, ode=Ode(1e-8, 1e-8))
    assert found.calls < 500


def test_a_tolerance_out_of_reach_is_refused_by_its_name():
    model = Counted(Gaussian(VP()))
    with pytest.raises(Unreached, match="rtol 1e-10, atol 1e-10 within 60 calls"):
        log_likelihood(model, draws(4, 2), ode=Ode(1e-10, 1e-10, max_calls=60))
    assert model.calls == 60
    x, ends = torch.ones(2, 3), torch.tensor([1.0, 0.0], dtype=torch.float64)
    with pytest.raises(Unreached, match="rtol 1e-06, atol 1e-06 within 20 calls"):
        sample(AdaptiveODE(1e-6, 1e-6, max_calls=20), Gaussian(VP()), x, ends, None)
    broken = lambda x, t: torch.full_like(x, torch.nan)
    broken.schedule = VP()
    with pytest.raises(Unreached, match=r"rtol 1e-05, atol 1e-05 .*larger one"):
        sample(AdaptiveODE(), broken, x, ends, None)


def set_model(predict="v", schedule=VP()):
    torch.manual_seed(0)
    net = SetTransformer(dim=16, layers=1, heads=2).build((7, 3))
    for p in net.parameters():
        p.data.normal_(0, 0.1)
    return Denoiser(net, schedule, Loss(predict)).eval().requires_grad_(False)


def test_likelihood_of_a_network_in_inference_mode_and_out_of_it():
    """The mask is the condition's own; made in inference mode or not, the numbers are the same."""
    denoiser, x_0 = set_model(), draws(4, 7, 3).float()

    def run():
        return log_likelihood(
            cfg(denoiser, {"mask": masks()}),
            x_0 * 1,
            torch.Generator().manual_seed(0),
            1,
            Ode(1e-4, 1e-4),
        )

    outside = run()
    with torch.inference_mode():
        inside = run()
    assert torch.allclose(inside.nats, outside.nats, atol=1e-5) and outside.dimensions.tolist() == [
        0,
        3,
        12,
        21,
    ]
    assert outside.nats[0] == 0 and (outside.nats[1:] < 0).all()


class ExactNet(torch.nn.Module):
    """A network that is given c_noise = 1000 t and predicts x_0 of N(0.2, 0.5^2) exactly."""

    def __init__(self):
        super().__init__()
        self.exact, self.unused = Gaussian(VP(), 0.2, 0.5), torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, c_noise, mask):
        return self.exact(x, c_noise[0].double() / 1000).to(x) * mask[..., None]


def test_density_of_physical_features():
    """Angles are normal, pt logit-normal: torch's distributions have their densities, constituent
    by constituent.
    """
    space, mask = PointCloudSpace((7, 3)), masks()
    space.shift.copy_(torch.tensor([0.0, 0.0, -3.0]))
    space.scale.copy_(torch.tensor([0.1, 0.2, 1.5]))
    model = Model(Denoiser(ExactNet(), VP(), Loss("x0")), space, (), SampleConfig())
    x = (0.2 + 0.5 * draws(4, 7, 3)).float().masked_fill(~mask[..., None], 0)
    features = space.decode(x, mask)
    angle = [Normal(0.2 * s, 0.5 * s).log_prob(features[..., i]) for i, s in enumerate((0.1, 0.2))]
    pt = TransformedDistribution(Normal(-3 + 0.2 * 1.5, 0.5 * 1.5), SigmoidTransform()).log_prob(
        features[..., 2].clamp(1e-9)
    )
    truth = torch.where(mask, sum(angle) + pt, 0).sum(1)
    found = log_density(model, features, mask, estimate=Estimate(2, ode=Ode(1e-6, 1e-6)))
    assert (found.nats - truth).abs().max() < 0.1 and found.nats[
        0
    ] == 0  # the flow's prior forgets alpha_1 = e^-5
    with pytest.raises(Refusal, match=r"likelihood: .*rtol 1e-06, atol 1e-06 within 10 calls"):
        log_density(model, features, mask, estimate=Estimate(ode=Ode(1e-6, 1e-6, max_calls=10)))
