"""The laws that every schedule obeys, and DDPM's table."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from ldm.diffusion.schedules import VP, Cosine, Discrete

ALL = [VP(), Cosine(), Discrete(), Discrete("scaled_linear", beta_start=0.00085, beta_end=0.012), Discrete("cosine")]
t = torch.linspace(0.001, 1, 777, dtype=torch.float64)


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_laws(schedule):
    alpha, sigma = schedule(t)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(t), atol=1e-12, rtol=0)
    assert (schedule.log_snr(t).diff() < 0).all()
    at_zero = schedule(torch.zeros(1, dtype=torch.float64))
    assert at_zero[0] == 1 and at_zero[1] == 0
    assert torch.allclose(schedule.inverse_log_snr(schedule.log_snr(t)), t, atol=1e-6)


@pytest.mark.parametrize("schedule", [VP(), Cosine()], ids=str)
def test_sigma_keeps_its_digits_in_float32(schedule):
    small = torch.tensor([1e-5, 1e-4, 1e-3])
    exact = schedule(small.double())[1]
    assert torch.allclose(schedule(small)[1].double(), exact, rtol=1e-5)


def test_drift_of_vp_is_the_lectures():
    """dx = -beta(t)/2 x dt + sqrt(beta(t)) dw."""
    beta = 0.1 + t * 19.9
    f, g2 = VP().drift(t)
    assert torch.allclose(f, -beta / 2, atol=1e-10) and torch.allclose(g2, beta, atol=1e-9)


@pytest.mark.parametrize(
    "betas, name", [("linear", "linear"), ("scaled_linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2")]
)
def test_discrete_is_ddpms_table(betas, name):
    theirs = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule=name)
    exact = (1 - Discrete(betas).beta_table()).cumprod(0)
    ours = Discrete(betas)(torch.arange(1, 1001, dtype=torch.float64) / 1000)[0] ** 2
    assert (ours - exact).abs().max() < 1e-12
    assert (ours - theirs.alphas_cumprod.double()).abs().max() < 1e-5  # theirs is float32


def test_discrete_tends_to_vp():
    """T betas of beta(t) / T are the lecture's SDE in the limit, with an error of order 1 / T."""
    errors = []
    for steps in (1000, 2000):
        table = Discrete(steps=steps, beta_start=0.1 / steps, beta_end=20 / steps)
        errors.append((table(t)[0] - VP()(t)[0]).abs().max().item())
    assert errors[0] < 0.005 and math.isclose(errors[0] / errors[1], 2, rel_tol=0.1)


def test_zero_terminal_snr():
    alpha = Discrete(zero_snr=True).alphas
    assert alpha[-1] == 0 and torch.isclose(alpha[1], Discrete().alphas[1]) and (alpha.diff() < 0).all()


def test_training_times_stay_on_the_grid():
    u = torch.rand(1000)
    steps = Discrete(steps=10).times(u) * 10
    assert torch.allclose(steps, steps.round(), atol=1e-5) and steps.min() >= 1 and steps.max() <= 10
    assert (VP().times(u) >= VP.t_min).all()


def test_grid_is_the_tables_and_refuses_more_steps_than_it_has():
    grid = Discrete().grid(30) * 1000
    assert torch.equal(grid, grid.round()) and grid[0] == 1000 and grid[-1] == 0 and len(grid) == 31
    with pytest.raises(ValueError):
        Discrete(steps=10).grid(11)
