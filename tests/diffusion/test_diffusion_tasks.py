"""Tasks against exact answers: guidance on every channel, projection, the exact posterior of
Gaussian data, every solver.
"""

import pytest
import torch
from exact import Gaussian
from solver_models import ALL, ODES, SCHEDULES, SDES
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
    denoise_once,
    denoising_start,
    edit,
    guide,
    guide_through,
    noise_level,
    noise_time,
    project,
)
from ldm.diffusion.tasks.inverse import posterior_variance


class Labelled(nn.Module):
    def forward(self, x, c_noise, label):
        return x * 0.1 + label.to(x)[:, None, None, None]


CHANNELS = [1, 3, 4, 8]


def guided(channels, scale, t=0.5, **options):
    denoiser = Denoiser(Labelled(), VP(), Loss("x0"))
    x, t = (
        torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(0)),
        torch.tensor(t),
    )
    cond, null = {"label": torch.tensor([1, 2])}, {"label": torch.tensor([7, 7])}
    return (
        cfg(denoiser, cond, null, scale, **options)(x, t),
        denoiser(x, t, **cond),
        denoiser(x, t, **null),
    )


@pytest.mark.parametrize("channels", CHANNELS)
def test_guidance(channels):
    x0_hat, x0_cond, x0_null = guided(channels, 1.0)
    assert torch.equal(x0_hat, x0_cond)
    assert torch.allclose(guided(channels, 0.0)[0], x0_null, atol=1e-6)
    difference = (guided(channels, 3.0)[0] - x0_null).mean((2, 3))
    assert torch.allclose(
        difference, 3 * torch.tensor([[-6.0], [-5.0]]).expand(2, channels), atol=1e-5
    )


def test_guidance_within_an_interval_and_rescaled():
    for t, inside in ((0.1, False), (0.3, True), (0.9, False)):
        x0_hat, x0_cond, _ = guided(3, 3.0, t, interval=(0.2, 0.8))
        assert torch.equal(x0_hat, guided(3, 3.0, t)[0] if inside else x0_cond)


class Louder(Labelled):
    def forward(self, x, c_noise, label):
        return x * label.to(x)[:, None, None, None]


def test_rescaled_guidance_has_the_conditional_models_contrast():
    denoiser, x = Denoiser(Louder(), VP(), Loss("x0")), torch.randn(2, 3, 4, 4)
    cond, null = {"label": torch.tensor([1, 2])}, {"label": torch.tensor([9, 9])}
    at = lambda rescale: cfg(denoiser, cond, null, 3.0, rescale=rescale)(x, torch.tensor(0.5)).std(
        (1, 2, 3)
    )
    plain = denoiser(x, torch.tensor(0.5), **cond).std((1, 2, 3))
    assert torch.allclose(at(1.0), plain, rtol=1e-4) and torch.allclose(
        at(0.5), (plain + at(0.0)) / 2, rtol=1e-4
    )
    assert (at(0.0) / plain - 1).abs().min() > 0.5


# --- linear measurements
# --------------------------------------------------------------------------------------------

KNOWN = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
OPERATORS = {"mask": Mask(KNOWN), "pool": AveragePool(2), "identity": Identity()}
MEAN = torch.tensor([0.3, -0.2, 0.1, 0.5], dtype=torch.float64)
ROOT = torch.tensor(
    [[0.6, 0, 0, 0], [0.3, 0.5, 0, 0], [-0.2, 0.3, 0.4, 0], [0.1, 0.2, 0.3, 0.5]],
    dtype=torch.float64,
)
COV, NOISE = ROOT @ ROOT.T, 0.4


class Correlated:
    """The exact denoiser of x_0 ~ N(MEAN, COV) for every 2 x 2 picture of x (B, crowd, 2, 2)."""

    def __init__(self, schedule, crowd=1):
        self.schedule, self.crowd = schedule, crowd

    def posterior(self, t):
        """Cov[x_0 | x_t], sigma^2 (sigma^2 + alpha^2 COV)^-1 COV."""
        alpha, sigma = self.schedule(t)
        return sigma**2 * torch.linalg.solve(
            sigma**2 * torch.eye(4, dtype=torch.float64) + alpha**2 * COV, COV
        )

    def covariance(self, t):
        return torch.block_diag(*[self.posterior(t)] * self.crowd)

    def __call__(self, x_t, t):
        alpha, sigma = self.schedule(t)
        gain = torch.linalg.solve(
            alpha**2 * COV + sigma**2 * torch.eye(4, dtype=torch.float64), alpha * COV
        )
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


# solvers of the first order need more than the others
STEPS = {
    "AdaptiveODE": 1,
    "DDPM": 250,
    "DDPM-large": 100,
    **dict.fromkeys(["DDIM", "DDIM-eta", "Euler", "diffusers-Euler"], 150),
    **dict.fromkeys(["EulerMaruyama", "EulerMaruyama-half", "PredictorCorrector"], 150),
}


@pytest.mark.parametrize("kind", ["mask", "pool"])
@pytest.mark.parametrize("name", ALL)
def test_guide_with_the_exact_covariance_samples_the_posterior(name, kind):
    """20,000 samples, seeded: mean and covariance within 2e-2, by every solver of the registry."""
    operator, generator = OPERATORS[kind], torch.Generator().manual_seed(0)
    y, mean, cov = measured(operator)
    crowd = (
        32 if name == "PredictorCorrector" else 1
    )  # pictures in the channels of a row: its norms need many numbers
    prior = Correlated(SCHEDULES["VP"], crowd)
    denoise = guide(prior, operator, y.expand(-1, crowd, -1, -1), NOISE, prior.covariance)
    randn = lambda: torch.randn(
        20_000 // crowd, crowd, 2, 2, generator=generator, dtype=torch.float64
    )
    times = prior.schedule.grid(STEPS.get(name, 60))
    x = sample(ALL[name], denoise, start(prior.schedule, times[0], randn()), times, randn).reshape(
        -1, 4
    )
    assert (x.mean(0) - mean).abs().max() < 2e-2
    assert (x.T.cov() - cov).abs().max() < 2e-2


def test_pseudo_inverse_guidance_is_exact_for_white_data():
    """Data N(0, std^2) in every pixel: then its r^2 A A^T is the covariance, and J the exact one."""
    for law in ("VP", "Linear"):
        prior, y = Gaussian(SCHEDULES[law], 0.0, 0.6), torch.randn(3, 1, 2, 2).double()
        covariance = lambda t, prior=prior: (
            torch.eye(16).double() * posterior_variance(*prior.schedule(t), 0.6)
        )
        for t in torch.tensor([0.01, 0.5, 0.9, 1.0], dtype=torch.float64):
            x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
            wanted = guide(prior, AveragePool(2), y, NOISE, covariance)(x, t)
            assert torch.allclose(
                guide(prior, AveragePool(2), y, NOISE, std=0.6)(x, t), wanted, atol=1e-10
            )


def test_guidance_through_a_linear_decoder_is_exact():
    """D linear and as many conjugate gradients as measurements: the posterior of A D x, its
    covariance not given.
    """
    generator, t = torch.Generator().manual_seed(0), torch.tensor(0.5, dtype=torch.float64)
    matrix, prior = torch.randn(4, 16, generator=generator).double(), Correlated(SCHEDULES["VP"])
    decode = lambda z: (z.flatten(1) @ matrix).reshape(-1, 1, 4, 4)
    z, y = (
        torch.randn(3, 1, 2, 2, generator=generator).double(),
        torch.randn(3, 1, 2, 2, generator=generator).double(),
    )
    found = guide_through(prior, decode, AveragePool(2), y, NOISE, steps=4)(z, t)
    a, cov, x0_hat = (
        AveragePool(2)(decode(torch.eye(4).double())).flatten(1).T,
        prior.posterior(t),
        prior(z, t).flatten(1),
    )
    gain = cov @ a.T @ torch.linalg.inv(a @ cov @ a.T + NOISE**2 * torch.eye(4).double())
    assert torch.allclose(
        found.flatten(1), x0_hat + (y.flatten(1) - x0_hat @ a.T) @ gain.T, atol=1e-7
    )
    with pytest.raises(ValueError, match="above 0"):
        guide_through(prior, decode, AveragePool(2), y, 0.0)


STEPPED = [name for name in SDES | ODES if name != "AdaptiveODE"]
FINAL = [(name, "VP") for name in ALL] + [
    (name, law) for name in STEPPED for law in ("Linear", "zero-snr")
]


@pytest.mark.parametrize("name, law", FINAL)
def test_projection_meets_the_measurement(name, law):
    """A x = y at the end of the loop; diffusers' DEIS stops at its table's first noise, not at t =
    0.
    """
    prior, generator = Gaussian(SCHEDULES[law]), torch.Generator().manual_seed(0)
    randn = lambda: torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    times = prior.schedule.grid(1 if name == "AdaptiveODE" else 6)
    known = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).repeat(2, 2)
    for operator in (Mask(known), AveragePool(2), Identity()):
        y = operator(randn())
        x = sample(
            ALL[name],
            project(prior, operator, y),
            start(prior.schedule, times[0], randn()),
            times,
            randn,
        )
        assert (operator(x) - y).abs().max() < (0.05 if name == "diffusers-DEIS" else 1e-5)
        assert isinstance(operator, Identity) or x.std() > 0.1  # the rest is made, not copied


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_operators_are_their_matrices(operator):
    """Transpose, pseudo-inverse and gram against the matrix A, read off the unit vectors."""
    a, rows = matrix_of(operator), torch.randn(5, 1, 2, 2).double()
    y = operator(rows)
    assert torch.allclose(y.flatten(1), rows.flatten(1) @ a.T)
    assert torch.allclose(operator.transpose(y).flatten(1), y.flatten(1) @ a)
    assert torch.allclose(operator.pinv(y).flatten(1), y.flatten(1) @ torch.linalg.pinv(a).T)
    assert torch.allclose(a @ a.T @ a, operator.gram * a)


# --- resampling, de-noising, editing
# --------------------------------------------------------------------------------


def law_of(solver, denoise, x, times, count=40_000):
    generator = torch.Generator().manual_seed(1)
    randn = lambda: torch.randn(count, 1, dtype=torch.float64, generator=generator)
    made = sample(solver, denoise, x(randn), times, randn)
    return made.mean().item(), made.std().item()


def test_repaint_keeps_the_law_and_forgets_the_path():
    """Resampling an exact denoiser changes no law; and with one resample the solver is itself."""
    prior, times = Gaussian(SCHEDULES["VP"]), SCHEDULES["VP"].grid(300)
    begin = lambda randn: start(prior.schedule, times[0], randn())
    mean, std = law_of(Repaint(DDPM(), 3), prior, begin, times, 10_000)
    assert abs(mean - prior.mean) < 0.02 and abs(std - prior.std) < 0.02
    assert law_of(Repaint(DPMpp2M(), 1), prior, begin, times) == law_of(
        DPMpp2M(), prior, begin, times
    )
    x = torch.zeros(
        1000, 1, dtype=torch.float64
    )  # a deterministic solver from one point: only the resampling spreads
    generator = torch.Generator().manual_seed(0)
    randn = lambda: torch.randn(x.shape, generator=generator, dtype=torch.float64)
    made = [sample(solver, prior, x, times, randn).std() for solver in (DDIM(), Repaint(DDIM(), 3))]
    assert made[0] < 1e-12 and made[1] > 0.1
    with pytest.raises(ValueError, match="Repaint"):
        Repaint(Diffusers())


@pytest.mark.parametrize("law", SCHEDULES)
def test_restoring_samples_the_posterior_of_noise(law):
    """y = x + n: p(x | y) from the t of its noise, by the exact denoiser; its mean by one call."""
    prior, y, noise = Gaussian(SCHEDULES[law]), 1.2, 0.5
    t, _ = denoising_start(prior.schedule, torch.tensor(y), noise)
    alpha, sigma = prior.schedule(t)
    assert abs(sigma / alpha - noise) < 1e-6
    variance = 1 / (1 / prior.std**2 + 1 / noise**2)
    mean = variance * (prior.mean / prior.std**2 + y / noise**2)
    begin = lambda randn: denoising_start(prior.schedule, y + 0 * randn(), noise)[1]
    found = law_of(DDPM(), prior, begin, below(prior.schedule.grid(100), t), 10_000)
    assert abs(found[0] - mean) < 0.02 and abs(found[1] - variance**0.5) < 0.02
    assert (
        abs(denoise_once(prior, torch.tensor([y], dtype=torch.float64), noise).item() - mean) < 1e-6
    )


def test_edit_starts_where_the_forward_process_is():
    x_0, noise = (
        torch.full((20_000, 1), 0.7).double(),
        torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)).double(),
    )
    t, x_t = edit(VP(), x_0, 0.4, noise)
    alpha, sigma = VP()(t)
    assert t == 0.4 and abs(x_t.mean() - 0.7 * alpha) < 0.02 and abs(x_t.std() - sigma) < 0.02
    times = below(VP().grid(10), t)
    assert times[0] == 0.4 and times[-1] == 0 and len(times) == 11
    made = {
        s: sample(
            AdaptiveODE(),
            Gaussian(VP()),
            edit(VP(), x_0, s, noise)[1],
            below(VP().grid(1), edit(VP(), x_0, s, noise)[0]),
            None,
        )
        for s in (0.05, 1.0)
    }
    assert (
        (made[0.05] - x_0).abs().mean() < 0.2 < 0.45 < made[1.0].std()
    )  # little kept its place, all made it anew
    for strength in (0.0, 1.1):
        with pytest.raises(ValueError, match="strength"):
            edit(VP(), x_0, strength, noise)


def test_the_noise_of_a_picture_is_found():
    """Within 15 % on a smooth picture with edges, also where a file has clipped the noise at black."""
    u = torch.linspace(-1, 1, 64)
    clean = torch.where(
        (u[:, None] ** 2 + u**2) < 0.6, 0.4 * torch.sin(2 * u)[None], -torch.ones(64, 64)
    )[None, None]
    for std in (0.1, 0.25, 0.5):
        y = clean + std * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        assert abs(noise_level(y) / std - 1) < 0.15
    assert (
        abs(
            noise_level(
                (
                    clean
                    + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
                ).clamp(-1, 1)
            )
            / 0.2
            - 1
        )
        < 0.15
    )
    for std in (0.0, float("nan"), 1e9):
        with pytest.raises(ValueError, match="standard deviation"):
            noise_time(VP(), std)


def test_rescaled_guidance_sees_no_padding():
    """The standard deviation of a cloud is that of its constituents: the same padded to 4 as to 9;
    one number has none.
    """
    from ldm.diffusion.tasks.guidance import rescaled

    generator = torch.Generator().manual_seed(0)
    x, cond = (torch.randn(2, 4, 3, generator=generator) for _ in range(2))
    pad = lambda x: torch.cat([x, x.new_zeros(2, 5, 3)], 1)
    mask = (torch.arange(9) < 4).expand(2, 9)
    assert torch.allclose(
        rescaled(pad(x), pad(cond), 0.7, mask)[:, :4], rescaled(x, cond, 0.7), atol=1e-6
    )
    assert not torch.allclose(
        rescaled(pad(x), pad(cond), 0.7)[:, :4], rescaled(x, cond, 0.7), atol=1e-3
    )
    for few in (torch.zeros(2, 9, dtype=torch.bool), mask & (torch.arange(9) < 1)):
        assert torch.isfinite(rescaled(pad(x), pad(cond), 0.7, few)).all()
    assert torch.equal(rescaled(x[:, :1, :1], cond[:, :1, :1], 0.7), x[:, :1, :1])
