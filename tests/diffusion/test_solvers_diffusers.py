"""Solvers against others' code: Algorithm 2 typed from the lecture, diffusers' schedulers, the
adapter to them.
"""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from exact import Gaussian, no_noise
from solver_models import FOREIGN

from ldm.diffusion.schedules import VP, Discrete
from ldm.diffusion.solvers import DDIM, DDPM, Diffusers, DPMpp2M, DPMpp2MSDE, sample


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
    """x_{t-1} = 1/sqrt(a_t) (x_t - (1 - a_t)/sqrt(1 - abar_t) eps_theta) + sigma_t z, sigma_t^2 =
    beta_t or beta-tilde_t.
    """
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


COMMON = dict(
    beta_start=1e-4,
    beta_end=0.02,
    beta_schedule="linear",
    timestep_spacing="trailing",
    prediction_type="epsilon",
)


@pytest.mark.parametrize("steps", [10, 50, 250])
def test_ddim_equals_diffusers(steps):
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    theirs = through_diffusers(
        DDIMScheduler(1000, clip_sample=False, set_alpha_to_one=True, **COMMON), steps, x, eta=0.0
    )
    ours = sample(DDIM(), Fake(), x, Discrete().grid(steps), no_noise)
    assert (ours - theirs).abs().max() < 1e-10


@pytest.mark.parametrize("steps", [10, 50, 250, 1000])
def test_ddpm_equals_diffusers(steps):
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    scheduler = DDPMScheduler(1000, clip_sample=False, variance_type="fixed_small", **COMMON)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    theirs = through_diffusers(scheduler, steps, x, generator=torch.Generator().manual_seed(3))
    noise = torch.Generator().manual_seed(3)
    randn = lambda: torch.randn(4, 2, generator=noise, dtype=torch.float64)
    ours = sample(DDPM(), Fake(), x, Discrete().grid(steps), randn)
    if (
        steps < 1000
    ):  # with fewer steps theirs adds noise in the last one too, of variance clamp(0, min=1e-20)
        ours = ours + 1e-10 * randn()
    assert (ours - theirs).abs().max() < 1e-10


def test_dpmpp_equals_diffusers():
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    scheduler = DPMSolverMultistepScheduler(
        1000,
        algorithm_type="dpmsolver++",
        solver_order=2,
        lower_order_final=True,
        final_sigmas_type="zero",
        **COMMON,
    )
    scheduler.set_timesteps(50)
    theirs = x
    for t in scheduler.timesteps:
        theirs = scheduler.step(fake_eps(theirs, t), t, theirs).prev_sample
    ours = sample(DPMpp2M(), Fake(), x, Discrete().grid(50), no_noise)
    assert (ours - theirs).abs().max() < 3e-3  # their tables and states are float32


def test_dpmpp_sde_equals_diffusers():
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    scheduler = DPMSolverMultistepScheduler(
        1000, algorithm_type="sde-dpmsolver++", final_sigmas_type="zero", **COMMON
    )
    scheduler.set_timesteps(50)
    theirs, noise = x, torch.Generator().manual_seed(1)
    for t in scheduler.timesteps:
        z = torch.randn(4, 2, generator=noise, dtype=torch.float64)
        theirs = scheduler.step(fake_eps(theirs, t), t, theirs, variance_noise=z).prev_sample
    noise = torch.Generator().manual_seed(1)
    ours = sample(
        DPMpp2MSDE(),
        Fake(),
        x,
        Discrete().grid(50),
        lambda: torch.randn(4, 2, generator=noise, dtype=torch.float64),
    )
    assert (ours - theirs).abs().max() < 3e-3


@pytest.mark.parametrize("steps", [1, 2, 5, 30, 50, 1000])
@pytest.mark.parametrize("name", FOREIGN)
def test_the_adapter_equals_diffusers_own_loop(name, steps):
    """Their loop as their pipelines write it, with the lecture's own betas, against ours through
    the adapter.
    """
    if steps == 1000 and name != "diffusers-Euler":
        pytest.skip("slow")
    adapter, x = FOREIGN[name], torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    theirs, scaled = adapter.build(Discrete()), adapter.scheduler in ("Euler", "LMS")
    trained = dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", trained_betas=None)
    theirs = type(theirs).from_config(
        {**theirs.config, **trained}
    )  # their own table in place of ours
    if adapter.scheduler == "DPMSolverSinglestep":
        theirs.set_timesteps(timesteps=[round(1000 * k / steps) - 1 for k in range(steps, 0, -1)])
    else:
        theirs.set_timesteps(steps)
    noise, sample_ = (
        torch.Generator().manual_seed(1),
        x * theirs.init_noise_sigma / (Discrete().alphas[0] if scaled else 1),
    )
    for t in theirs.timesteps:
        eps = fake_eps(theirs.scale_model_input(sample_, t), t).float()
        extra = (
            {"variance_noise": torch.randn(4, 2, generator=noise)} if name.endswith("SDE") else {}
        )
        extra |= {"order": 2} if adapter.scheduler == "LMS" else {}
        sample_ = theirs.step(eps, t, sample_, **extra).prev_sample
    noise = torch.Generator().manual_seed(1)
    schedule = Discrete()
    start = schedule(torch.ones((), dtype=torch.float64))[1] * x if scaled else x
    ours = sample(
        adapter, Fake(), start, schedule.grid(steps), lambda: torch.randn(4, 2, generator=noise)
    )
    assert (ours - sample_).abs().max() < 2e-4 * sample_.abs().max()


@pytest.mark.parametrize("name", [n for n in FOREIGN if n != "diffusers-DEIS"])
def test_the_adapter_ends_without_noise(name):
    """Data that is one point: at t = 0 nothing but it is left. DEIS stops at the table's first
    noise, 0.01.
    """
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = sample(FOREIGN[name], Gaussian(VP(), std=0.0), x, VP().grid(10), lambda: x)
    assert (ends - 0.7).abs().max() < 1e-4


def test_the_adapter_passes_the_order_on():
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = lambda solver: sample(solver, Fake(), x, Discrete().grid(20), no_noise)
    for ours, theirs in (
        (DDIM(), Diffusers("DPMSolverMultistep", 1)),
        (DPMpp2M(), Diffusers("DPMSolverMultistep", 2)),
    ):
        assert (run(ours) - run(theirs)).abs().max() < 1e-3
    assert (run(DDIM()) - run(DPMpp2M())).abs().max() > 1e-2
