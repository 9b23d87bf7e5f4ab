"""The laws that every schedule obeys, Song et al.'s SDEs, DDPM's table, sampling times, and forward
paths.
"""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from ldm.diffusion.schedules import VE, VP, Cosine, Discrete, Linear, Schedule, SubVP
from ldm.diffusion.simulate import simulate
from ldm.diffusion.solvers import start

TABLES = [
    Discrete(),
    Discrete("scaled_linear", beta_start=0.00085, beta_end=0.012),
    Discrete("cosine"),
]
CONTINUOUS = [VP(), SubVP(), Cosine(), VE(), Linear()]
ALL = CONTINUOUS + TABLES
t = torch.linspace(0.001, 1, 777, dtype=torch.float64)


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_laws(schedule):
    assert (schedule.log_snr(t).diff() < 0).all()
    at_zero = schedule(torch.zeros(1, dtype=torch.float64))
    assert at_zero[0] == 1 and at_zero[1] == 0
    atol = 1e-6 if schedule in TABLES else 1e-12  # tables by bisection
    inner = t[:-1]  # Linear's log-SNR at 1 is infinite
    assert torch.allclose(schedule.inverse_log_snr(schedule.log_snr(inner)), inner, atol=atol)


@pytest.mark.parametrize("schedule", [VP(), Cosine(), *TABLES], ids=str)
def test_variance_is_preserved(schedule):
    alpha, sigma = schedule(t)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(t), atol=1e-12, rtol=0)


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=str)
def test_inverse_in_closed_form_is_the_bisections(schedule):
    lam = torch.linspace(-3, 4, 50, dtype=torch.float64)
    assert torch.allclose(
        schedule.inverse_log_snr(lam), Schedule.inverse_log_snr(schedule, lam), atol=1e-12
    )


@pytest.mark.parametrize("schedule", ALL, ids=str)
@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_float32_is_float64_rounded(schedule, shape):
    for value in (0.01, 0.4137, 0.9):
        small = torch.full(shape, value)
        for name in ("__call__", "drift", "rates"):
            for a, b in zip(
                getattr(schedule, name)(small), getattr(schedule, name)(small.double()), strict=True
            ):
                assert a.dtype == torch.float32 and a.shape == b.shape == shape
                assert torch.allclose(a.double(), b, rtol=1e-4, atol=1e-6)
        assert torch.allclose(schedule.inverse_log_snr(schedule.log_snr(small)), small, rtol=1e-3)


@pytest.mark.parametrize("schedule", [VP(), SubVP(), Cosine(), VE()], ids=str)
def test_sigma_keeps_its_digits_in_float32(schedule):
    small = torch.tensor([1e-5, 1e-4, 1e-3])
    exact = schedule(small.double())[1]
    assert torch.allclose(schedule(small)[1].double(), exact, rtol=1e-5)


def test_drift_of_vp_is_the_lectures():
    """dx = -beta(t)/2 x dt + sqrt(beta(t)) dw."""
    beta = 0.1 + t * 19.9
    for f, g2 in (VP().drift(t), Schedule.drift(VP(), t)):
        assert torch.allclose(f, -beta / 2, atol=1e-10) and torch.allclose(g2, beta, atol=1e-9)


def test_drift_of_sub_vp_and_ve_is_songs():
    """Song et al. 2021, eqs. 29 and 30, with their integral of beta done by numbers."""
    beta = lambda t: 0.1 + t * 19.9
    integral = torch.stack(
        [
            torch.trapezoid(beta(u), u)
            for u in [torch.linspace(0, s, 2, dtype=torch.float64) for s in t]
        ]
    )
    f, g2 = SubVP().drift(t)
    assert torch.allclose(f, -beta(t) / 2, rtol=1e-12)
    assert torch.allclose(g2, beta(t) * (1 - (-2 * integral).exp()), rtol=1e-9)
    geometric = 0.02 * (30 / 0.02) ** t
    f, g2 = VE(0.02, 30).drift(t)
    assert (f == 0).all() and torch.allclose(
        g2.sqrt(), geometric * math.sqrt(2 * math.log(30 / 0.02)), rtol=1e-12
    )
    assert torch.allclose(VE(0.02, 30)(t)[1] ** 2, geometric**2 - 0.02**2, rtol=1e-9)


@pytest.mark.parametrize("schedule", [*CONTINUOUS, TABLES[0]], ids=str)
def test_drift_is_the_derivative_of_the_law(schedule):
    """f = d log(alpha) / dt, g^2 = d sigma^2 / dt - 2 f sigma^2, by central differences; rates too."""
    u, h = t[5:-5:9] + 0.3e-3, 1e-6
    sigma, later, earlier = schedule(u)[1], schedule(u + h), schedule(u - h)
    difference = lambda g: (g(*later) - g(*earlier)) / (2 * h)
    f = difference(lambda a, s: a.log())
    g2 = difference(lambda a, s: s**2) - 2 * f * sigma**2
    for ours in (schedule.drift(u), Schedule.drift(schedule, u)):
        assert torch.allclose(ours[0], f, rtol=1e-5) and torch.allclose(ours[1], g2, rtol=1e-5)
    for ours in (schedule.rates(u), Schedule.rates(schedule, u)):
        assert torch.allclose(ours[0], difference(lambda a, s: a), rtol=1e-5, atol=1e-9)
        assert torch.allclose(ours[1], difference(lambda a, s: s), rtol=1e-5)


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_drift_at_the_data_and_in_inference_mode(schedule):
    with torch.inference_mode():
        f, g2 = schedule.drift(torch.zeros((), dtype=torch.float64))
        assert torch.isfinite(f) and torch.isfinite(g2) and g2 >= 0
        assert torch.isfinite(torch.stack(schedule.rates(torch.full((2,), 0.5)))).all()


@pytest.mark.parametrize(
    "betas, name",
    [("linear", "linear"), ("scaled_linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2")],
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
    assert (
        alpha[-1] == 0
        and torch.isclose(alpha[1], Discrete().alphas[1])
        and (alpha.diff() < 0).all()
    )


def test_training_times_stay_on_the_grid():
    u = torch.rand(1000)
    steps = Discrete(steps=10).times(u) * 10
    assert (
        torch.allclose(steps, steps.round(), atol=1e-5) and steps.min() >= 1 and steps.max() <= 10
    )
    assert (VP().times(u) >= VP().t_min).all()


def test_grid_is_the_tables_and_refuses_more_steps_than_it_has():
    grid = Discrete().grid(30) * 1000
    assert torch.equal(grid, grid.round()) and grid[0] == 1000 and grid[-1] == 0 and len(grid) == 31
    with pytest.raises(ValueError):
        Discrete(steps=10).grid(11)


SPACINGS = ["uniform", "angle", "log_snr", "karras"]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("schedule", [*ALL, Discrete(zero_snr=True)], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 17])
def test_grids_fall_from_1_to_0(schedule, spacing, steps):
    grid = schedule.grid(steps, spacing)
    assert len(grid) == steps + 1 and grid[0] == 1 and grid[-1] == 0 and grid.dtype == torch.float64
    assert (grid.diff() < 0).all() and (grid[:-1] >= schedule.t_min - 1e-12).all()


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_grids_are_even_in_what_they_say(schedule):
    ratio = (-schedule.log_snr(schedule.grid(20, "log_snr")[1:-1])).exp()
    assert torch.allclose(ratio.log().diff(), ratio.log().diff()[0].expand(18), rtol=1e-3)
    angles = (-schedule.log_snr(schedule.grid(20, "angle"))).exp().atan()
    assert torch.allclose(angles.diff(), angles.diff()[0].expand(20), rtol=1e-6)
    roots = (-schedule.log_snr(schedule.grid(20, "karras")[1:-1])).exp() ** (1 / 7)
    assert torch.allclose(roots.diff(), roots.diff()[0].expand(18), rtol=1e-3)
    assert math.isclose(schedule.grid(20, "karras")[-2], schedule.t_min, rel_tol=1e-6)


@pytest.mark.parametrize("schedule", [VP(), SubVP(), Cosine(), VE()], ids=str)
def test_karras_grid_is_the_papers(schedule):
    """Eq. 5 typed from the paper, with sigma of x_t / alpha."""
    ends = torch.tensor([1.0, schedule.t_min], dtype=torch.float64)
    sigma_max, sigma_min = (-schedule.log_snr(ends)).exp()
    i = torch.arange(10, dtype=torch.float64)
    sigma = (sigma_max ** (1 / 7) + i / 9 * (sigma_min ** (1 / 7) - sigma_max ** (1 / 7))) ** 7
    assert torch.allclose(
        (-schedule.log_snr(schedule.grid(10, "karras")[:-1])).exp(), sigma, rtol=1e-6
    )


@pytest.mark.parametrize("steps", [1, 7, 10, 30, 50, 70, 250, 1000])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_table_grids_are_diffusers(steps, spacing):
    """Their timestep j of 0 ... T - 1 is our i = j + 1."""
    theirs = DDIMScheduler(1000, timestep_spacing=spacing, steps_offset=0)
    theirs.set_timesteps(steps)
    ours = Discrete().grid(steps, spacing) * 1000
    assert torch.equal((ours[:-1] - 1).round().long(), theirs.timesteps) and ours[-1] == 0
    assert torch.allclose(ours, ours.round(), atol=1e-9)


def test_auto_grid_is_uniform_or_trailing_and_a_table_is_needed_for_one():
    assert torch.equal(VP().grid(9), VP().grid(9, "uniform"))
    assert torch.equal(Discrete().grid(30), Discrete().grid(30, "trailing"))
    for schedule in CONTINUOUS:
        with pytest.raises(ValueError, match="Discrete"):
            schedule.grid(5, "leading")
    with pytest.raises(ValueError, match="at least 1"):
        VP().grid(0)


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_the_prior_is_what_data_of_unit_variance_have_become(schedule):
    """x_1 = sigma_1 eps; what is forgotten of x_0, alpha_1 / sigma_1, is small."""
    one = torch.ones((), dtype=torch.float64)
    alpha, sigma = schedule(one)
    noise = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert torch.allclose(start(schedule, one, noise), sigma * noise) and alpha / sigma < 0.1


def law_of_simulation(schedule, steps, end):
    """Mean and variance of simulate's last state for x_0 = 1, exactly: each step is affine in the
    state and the noise.
    """
    times = torch.linspace(0, end, steps + 1, dtype=torch.float64)
    mean, variance = 1.0, 0.0
    for pair in times.unfold(0, 2, 1):
        # the three states 0, 1 and 0 with noise 1 read the step's coefficients
        state = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        noise = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        offset, slope, spread = simulate(schedule, state, pair, lambda noise=noise: noise)[1]
        assert offset == 0
        mean, variance = slope * mean, slope**2 * variance + spread**2
    return mean, variance


@pytest.mark.parametrize("schedule", [*CONTINUOUS, Discrete()], ids=str)
def test_simulated_law_tends_to_the_closed_form(schedule):
    """Errors of mean and variance against alpha_t and sigma_t^2 halve with the step: order 1,
    without Monte Carlo.
    """
    end = 0.9  # Linear's drift is infinite at 1
    alpha, sigma = schedule(torch.tensor(end, dtype=torch.float64))
    errors = []
    for steps in (200, 400, 800):
        mean, variance = law_of_simulation(schedule, steps, end)
        errors.append([abs(mean / alpha - 1).item(), abs(variance / sigma**2 - 1).item()])
    for coarse, fine in zip(*errors[1:], strict=True):
        # the mean is exact, step by step, for VE and Linear
        assert fine < 0.05 and (fine < 1e-9 or 1.8 < coarse / fine < 2.2)


def test_simulation_keeps_the_path_and_runs_forwards():
    x_0, times = torch.randn(3, 2), torch.linspace(0, 1, 6)
    path = simulate(VP(), x_0, times, lambda: torch.zeros(3, 2))
    assert path.shape == (6, 3, 2) and path.dtype == x_0.dtype and torch.equal(path[0], x_0)
    with pytest.raises(ValueError, match="increase"):
        simulate(VP(), x_0, times.flip(0), lambda: x_0)
