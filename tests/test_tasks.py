"""Tasks against exact answers: guidance on every channel, projection, the exact posterior of Gaussian data, every solver."""

import pytest
import torch
from benchmarks.exact import Gaussian
from solver_models import ALL, OURS, SCHEDULES
from torch import nn

from ldm.diffusion.denoiser import Denoiser, Loss
from ldm.diffusion.schedules import VP
from ldm.diffusion.solvers import DDIM, DDPM, AdaptiveODE, Diffusers, DPMpp2M, sample, start
from ldm.diffusion.tasks import (
    AveragePool,
    Identity,
    Mask,
    Repaint,
    below,
    cfg,
    edit,
    guide,
    guide_through,
    noise_level,
    noise_time,
    posterior_mean,
    project,
    restore,
)


class Labelled(nn.Module):
    def forward(self, x, c_noise, label):
        return x * 0.1 + label.to(x)[:, None, None, None]


CHANNELS = [1, 3, 4, 8]


def guided(channels, scale, t=0.5, **options):
    denoiser = Denoiser(Labelled(), VP(), Loss("x0"))
    x, t = torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor(t)
    cond, null = {"label": torch.tensor([1, 2])}, {"label": torch.tensor([7, 7])}
    return cfg(denoiser, cond, null, scale, **options)(x, t), denoiser(x, t, **cond), denoiser(x, t, **null)


@pytest.mark.parametrize("channels", CHANNELS)
def test_guidance(channels):
    x0_hat, x0_cond, x0_null = guided(channels, 1.0)
    assert torch.equal(x0_hat, x0_cond)
    assert torch.allclose(guided(channels, 0.0)[0], x0_null, atol=1e-6)
    difference = (guided(channels, 3.0)[0] - x0_null).mean((2, 3))
    assert torch.allclose(difference, 3 * torch.tensor([[-6.0], [-5.0]]).expand(2, channels), atol=1e-5)


def test_guidance_within_an_interval_and_rescaled():
    for t, inside in ((0.1, False), (0.3, True), (0.9, False)):
        x0_hat, x0_cond, _ = guided(3, 3.0, t, interval=(0.2, 0.8))
        assert torch.equal(x0_hat, guided(3, 3.0, t)[0] if inside else x0_cond)
    class Louder(Labelled):
        def forward(self, x, c_noise, label):
            return x * label.to(x)[:, None, None, None]

    denoiser, x = Denoiser(Louder(), VP(), Loss("x0")), torch.randn(2, 3, 4, 4)
    cond, null = {"label": torch.tensor([1, 2])}, {"label": torch.tensor([4, 4])}
    at = lambda rescale: cfg(denoiser, cond, null, 3.0, rescale=rescale)(x, torch.tensor(0.5)).std((1, 2, 3))
    plain = denoiser(x, torch.tensor(0.5), **cond).std((1, 2, 3))
    assert torch.allclose(at(1.0), plain) and torch.allclose(at(0.5), (plain + at(0.0)) / 2)
    assert (at(0.0) / plain - 1).abs().min() > 0.5


# --- linear measurements --------------------------------------------------------------------------------------------

KNOWN = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
OPERATORS = {"mask": Mask(KNOWN), "pool": AveragePool(2), "identity": Identity()}
CROWD = 32  # independent 2 x 2 pictures in the channels of each row: PredictorCorrector's norms need many numbers
MEAN = torch.tensor([0.3, -0.2, 0.1, 0.5], dtype=torch.float64)
ROOT = torch.tensor([[0.6, 0, 0, 0], [0.3, 0.5, 0, 0], [-0.2, 0.3, 0.4, 0], [0.1, 0.2, 0.3, 0.5]], dtype=torch.float64)
COV, NOISE = ROOT @ ROOT.T, 0.4


class Correlated:
    """The exact denoiser of x_0 ~ N(MEAN, COV) for every 2 x 2 picture of x (B, CROWD, 2, 2)."""

    def __init__(self, schedule):
        self.schedule = schedule

    def posterior(self, t):
        """Cov[x_0 | x_t], sigma^2 (sigma^2 + alpha^2 COV)^-1 COV."""
        alpha, sigma = self.schedule(t)
        return sigma**2 * torch.linalg.solve(sigma**2 * torch.eye(4, dtype=torch.float64) + alpha**2 * COV, COV)

    def covariance(self, t):
        return torch.block_diag(*[self.posterior(t)] * CROWD)

    def __call__(self, x_t, t):
        alpha, sigma = self.schedule(t)
        gain = torch.linalg.solve(alpha**2 * COV + sigma**2 * torch.eye(4, dtype=torch.float64), alpha * COV)
        x = x_t.flatten(2).double()
        return (MEAN + (x - alpha * MEAN) @ gain).reshape(x_t.shape).to(x_t.dtype)


def matrix_of(operator):
    return operator(torch.eye(4, dtype=torch.float64).reshape(4, 1, 2, 2)).flatten(1).T


def measured(operator):
    """One y, and the posterior's mean and covariance by the book (Bishop 2006, eq. 2.116)."""
    x = torch.tensor([1.0, 0.4, -0.5, 0.8], dtype=torch.float64).reshape(1, 1, 2, 2)
    y, a = operator(x) + 0.1, matrix_of(operator)
    precision = torch.linalg.inv(COV) + a.T @ a / NOISE**2
    cov = torch.linalg.inv(precision)
    return y, cov @ (torch.linalg.inv(COV) @ MEAN + a.T @ y.flatten() / NOISE**2), cov


STEPS = {"AdaptiveODE": 1, "EulerMaruyama": 600, "EulerMaruyama-half": 600, "PredictorCorrector": 400, "Euler": 600}


@pytest.mark.parametrize("kind", ["mask", "pool"])
@pytest.mark.parametrize("name", ALL)
def test_guide_with_the_exact_covariance_samples_the_posterior(name, kind):
    """20,000 samples, seeded: mean and covariance within 2e-2, by every solver of the registry."""
    operator, generator = OPERATORS[kind], torch.Generator().manual_seed(0)
    y, mean, cov = measured(operator)
    prior = Correlated(SCHEDULES["VP"])
    denoise = guide(prior, operator, y.expand(-1, CROWD, -1, -1), NOISE, prior.covariance)
    randn = lambda: torch.randn(20_000 // CROWD, CROWD, 2, 2, generator=generator, dtype=torch.float64)
    times = prior.schedule.grid(STEPS.get(name, 150))
    x = sample(ALL[name], denoise, start(prior.schedule, times[0], randn()), times, randn).reshape(-1, 4)
    assert (x.mean(0) - mean).abs().max() < 2e-2
    assert (x.T.cov() - cov).abs().max() < 2e-2


