"""Solvers against exact answers: orders, laws, Algorithm 2 typed from the lecture, diffusers."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from ldm.diffusion.schedules import VP, Discrete
from ldm.diffusion.solvers import DDIM, DDPM, DPMpp2M, sample


class Gaussian:
    """The exact denoiser of x_0 ~ N(mean, std^2): E[x_0 | x_t]."""

    def __init__(self, schedule, mean=0.7, std=0.6):
        self.schedule, self.mean, self.std = schedule, mean, std

    def __call__(self, x_t, t):
        alpha, sigma = self.schedule(t)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)

    def flow(self, x, t, s):
        """The probability flow from t to s, exactly: it keeps (x - alpha mean) / std(x_t)."""
        (a_t, s_t), (a_s, s_s) = self.schedule(t), self.schedule(s)
        width = lambda a, sg: (a**2 * self.std**2 + sg**2).sqrt()
        return a_s * self.mean + (x - a_t * self.mean) * width(a_s, s_s) / width(a_t, s_t)


def no_noise():
    raise AssertionError("a deterministic solver asked for noise")


@pytest.mark.parametrize("solver, order", [(DDIM(), 0.9), (DPMpp2M(), 1.85)], ids=["DDIM", "DPMpp2M"])
def test_order_of_convergence(solver, order):
    denoise = Gaussian(VP())
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors = []
    for n in (64, 128, 256):
        # uniform in log-SNR, to a time before 0: the order is a statement about equal steps of a smooth law
        lam = torch.linspace(*denoise.schedule.log_snr(torch.tensor([1, 0.05], dtype=torch.float64)).tolist(), n + 1)
        times = denoise.schedule.inverse_log_snr(lam.double())
        errors.append((sample(solver, denoise, x, times, no_noise) - denoise.flow(x, times[0], times[-1])).abs().max())
    assert math.log2(errors[1] / errors[2]) > order and math.log2(errors[0] / errors[1]) > order


@pytest.mark.parametrize("solver", [DDPM(), DDPM("large"), DDIM(1.0), DDIM(0.5)], ids=["small", "large", "eta1", "eta0.5"])
def test_exact_law_without_monte_carlo(solver):
    """On Gaussian data a step is affine in x and z: read its coefficients, propagate mean and variance exactly."""
    denoise = Gaussian(VP())
    errors = []
    for n in (200, 400):
        times = denoise.schedule.grid(n)
        mean, variance = torch.zeros((), dtype=torch.float64), denoise.schedule(times[0])[1] ** 2
        for t, s in pairwise(times):
            step = lambda x, z, t=t, s=s: solver.step(denoise, torch.tensor(float(x)).double(), t, s, lambda: z, [])[0]
            c = step(0, 0.0)
            a, b = step(1, 0.0) - c, step(0, 1.0) - c
            mean, variance = a * mean + c, a**2 * variance + b**2
        errors.append((abs(mean - 0.7).item(), abs(variance - 0.36).item()))
    assert errors[1][0] < 5e-3 and errors[1][1] < 2e-2
    assert errors[1][1] < 0.6 * errors[0][1]  # first order


def fake_eps(x, t):
    """A smooth made-up network: eps_hat of x at DDPM's integer time t."""
    return torch.tanh(x) * (0.5 + torch.as_tensor(t).double() / 2000) + 0.1 * x


class Fake:
    """The same network as a denoiser on the table's grid."""

    schedule = Discrete()

    def __call__(self, x_t, t):
        alpha, sigma = self.schedule(t)
        return (x_t - sigma * fake_eps(x_t, (t * 1000 - 1).round())) / alpha


def test_algorithm_2_as_in_the_lecture():
    """x_{t-1} = 1/sqrt(a_t) (x_t - (1 - a_t)/sqrt(1 - abar_t) eps_theta) + sigma_t z, sigma_t^2 = beta_t or beta-tilde_t."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    a, abar = 1 - beta, (1 - beta).cumprod(0)
    for variance in ("large", "small"):
        x = start = torch.randn(8, generator=torch.Generator().manual_seed(0)).double()
        noise = torch.Generator().manual_seed(1)
        for t in reversed(range(1000)):
            mean = (x - (1 - a[t]) / (1 - abar[t]).sqrt() * fake_eps(x, t)) / a[t].sqrt()
            before = abar[t - 1] if t else torch.tensor(1.0)
            var = beta[t] if variance == "large" else beta[t] * (1 - before) / (1 - abar[t])
            x = mean + var.sqrt() * torch.randn(8, generator=noise).double() if t else mean
        noise = torch.Generator().manual_seed(1)
        randn = lambda noise=noise: torch.randn(8, generator=noise).double()
        ours = sample(DDPM(variance), Fake(), start, Discrete().grid(1000), randn)
        assert (ours - x).abs().max() < 1e-8


def through_diffusers(scheduler, steps, x, **step):
    # their tables are float32; ours put in place of them, the comparison is of the algorithms alone
    scheduler.alphas_cumprod = Discrete().alphas[1:] ** 2
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(fake_eps(x, t), t, x, **step).prev_sample
    return x


COMMON = dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", timestep_spacing="trailing", prediction_type="epsilon")


@pytest.mark.parametrize("steps", [10, 50, 250])
def test_ddim_equals_diffusers(steps):
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    theirs = through_diffusers(DDIMScheduler(1000, clip_sample=False, set_alpha_to_one=True, **COMMON), steps, x, eta=0.0)
    ours = sample(DDIM(), Fake(), x, Discrete().grid(steps), no_noise)
    assert (ours - theirs).abs().max() < 1e-10


def test_ddpm_equals_diffusers():
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    scheduler = DDPMScheduler(1000, clip_sample=False, variance_type="fixed_small", **COMMON)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    theirs = through_diffusers(scheduler, 50, x, generator=torch.Generator().manual_seed(3))
    noise = torch.Generator().manual_seed(3)
    ours = sample(DDPM(), Fake(), x, Discrete().grid(50), lambda: torch.randn(4, 2, generator=noise, dtype=torch.float64))
    assert (ours - theirs).abs().max() < 1e-6  # theirs clamps the variance at 1e-20 and works in part in float32


def test_dpmpp_equals_diffusers():
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    scheduler = DPMSolverMultistepScheduler(
        1000, algorithm_type="dpmsolver++", solver_order=2, lower_order_final=True, final_sigmas_type="zero", **COMMON
    )
    scheduler.set_timesteps(50)
    theirs = x
    for t in scheduler.timesteps:
        theirs = scheduler.step(fake_eps(theirs, t), t, theirs).prev_sample
    ours = sample(DPMpp2M(), Fake(), x, Discrete().grid(50), no_noise)
    assert (ours - theirs).abs().max() < 3e-3  # their tables and states are float32


def test_ddim_with_eta_1_is_ddpm():
    x = torch.randn(8).double()
    randn = lambda: torch.full((8,), 0.3, dtype=torch.float64)
    grid = Discrete().grid(20)
    assert torch.allclose(sample(DDIM(1.0), Fake(), x, grid, randn), sample(DDPM(), Fake(), x, grid, randn), atol=1e-10)
