"""What every solver promises: finite at the ends, limits, masks, a sample of its seed alone,
counted evaluations.
"""

import pytest
import torch
from exact import Exploding, Gaussian, no_noise
from solver_models import ALL, FOREIGN, ODES, OURS, SCHEDULES, SDES

from ldm.diffusion.schedules import VP, Discrete
from ldm.diffusion.solvers import (
    DDIM,
    DDPM,
    AdaptiveODE,
    Counted,
    Diffusers,
    DPMpp2M,
    DPMpp2MSDE,
    EDMStochastic,
    Euler,
    EulerMaruyama,
    Heun,
    sample,
    start,
)
from ldm.system.randomness import SampleNoise

VARIANCE_PRESERVING = ("VP", "Cosine", "Discrete")


def noise_of(seed, *shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(*shape, generator=generator, dtype=dtype)


def run(solver, schedule, steps, randn, denoise=None):
    times = schedule.grid(steps)
    return sample(
        solver, denoise or Gaussian(schedule), start(schedule, times[0], randn()), times, randn
    )


@pytest.mark.parametrize("law", SCHEDULES)
@pytest.mark.parametrize("name", ALL)
def test_every_solver_on_every_schedule(name, law):
    """Finite and of x's dtype down to sigma = 0 and from alpha = 0, inside inference mode as
    `generate` is.
    """
    if name in FOREIGN and law not in VARIANCE_PRESERVING:
        with pytest.raises(ValueError, match="variance-preserving"):
            run(ALL[name], SCHEDULES[law], 3, noise_of(0, 4, 3))
        return
    for steps in (1, 3):
        with torch.inference_mode():
            x = run(ALL[name], SCHEDULES[law], steps, noise_of(0, 4, 3))
        assert torch.isfinite(x).all() and x.dtype == torch.float32
    assert (
        law == "VE" or abs(x.mean() - 0.7) < 30
    )  # a step of Euler-Maruyama from sigma = 20 lands far away, as it should


@pytest.mark.parametrize("law", ["VP", "zero-snr", "VE", "Linear"])
@pytest.mark.parametrize("name", [n for n in OURS if n != "AdaptiveODE"])
def test_one_certain_picture_is_found_exactly(name, law):
    """Data that is one point: x0_hat is right at once, and at sigma_s = 0 nothing else may be left
    of x.
    """
    schedule = SCHEDULES[law]
    if law == "VE":
        pytest.skip("sigma_0 is not 0")
    x = run(
        OURS[name],
        schedule,
        4,
        noise_of(0, 4, 64, dtype=torch.float64),
        Gaussian(schedule, std=0.0),
    )
    assert (x - 0.7).abs().max() < 1e-12


class Masked:
    """A toy point-cloud denoiser: particles attend to their mean; zero at padding."""

    def __init__(self, schedule, mask):
        self.schedule, self.mask = schedule, mask

    def __call__(self, x_t, t):
        alpha, sigma = self.schedule(t)
        mean = (x_t * self.mask).sum(1, keepdim=True) / self.mask.sum(1, keepdim=True).clamp(min=1)
        return self.mask * (torch.tanh(x_t + 0.3 * mean) * (alpha / (alpha**2 + sigma**2)) + 0.1)


@pytest.mark.parametrize("law", ["VP", "Linear", "VE"])
@pytest.mark.parametrize("name", ALL)
def test_padding_stays_exactly_zero(name, law):
    """(B, N, F) with 0, 1 and all of N particles: an empty jet is no 0/0 either."""
    if name in FOREIGN and law not in VARIANCE_PRESERVING:
        pytest.skip("refused")
    mask = (torch.arange(6) < torch.tensor([[0], [1], [6]])).float()[..., None]
    draw = noise_of(0, 3, 6, 3)
    x = run(ALL[name], SCHEDULES[law], 4, lambda: mask * draw(), Masked(SCHEDULES[law], mask))
    assert (
        torch.isfinite(x).all()
        and (x * (1 - mask) == 0).all()
        and (x * mask)[1:].abs().sum(1).min() > 0
    )


@pytest.mark.parametrize("name", [n for n in ALL if n != "AdaptiveODE"])
def test_a_sample_depends_on_its_seed_alone(name):
    """Bit for bit the same in a batch of other samples."""
    one, other = (
        run(ALL[name], VP(), 6, SampleNoise(seeds, (2, 3))) for seeds in ([7, 1, 2], [5, 7, 9])
    )
    assert torch.equal(one[0], other[1]) and not torch.equal(one[1], other[0])


def test_an_adaptive_sample_depends_on_its_batch_within_the_tolerance():
    one, other = (
        run(AdaptiveODE(1e-6, 1e-6), VP(), 1, SampleNoise(seeds, (2, 3)))
        for seeds in ([7, 1, 2], [5, 7, 9])
    )
    assert (one[0] - other[1]).abs().max() < 2e-5


LIMITS = {
    "EulerMaruyama(0) = Euler": (EulerMaruyama(0.0), Euler()),
    "EDMStochastic(0) = Heun": (EDMStochastic(s_churn=0.0), Heun()),
    "DDIM(1) = DDPM": (DDIM(1.0), DDPM()),
    "DPMpp2MSDE(0) = DPMpp2M": (DPMpp2MSDE(0.0), DPMpp2M()),
}


@pytest.mark.parametrize("law", SCHEDULES)
@pytest.mark.parametrize("pair", LIMITS)
def test_limits(pair, law):
    schedule, (a, b) = SCHEDULES[law], LIMITS[pair]
    grid = schedule.grid(20)
    grid = (
        grid[:-1] if law == "VE" else grid
    )  # DDPM's last step adds no noise, DDIM's adds what VE has at t = 0
    x = start(schedule, grid[0], noise_of(0, 4, 3, dtype=torch.float64)())
    ends = [
        sample(solver, Gaussian(schedule), x, grid, noise_of(1, 4, 3, dtype=torch.float64))
        for solver in (a, b)
    ]
    assert torch.allclose(*ends, atol=1e-10) and (ends[0] - x).abs().max() > 0.1


def test_first_step_of_multistep_is_ddim():
    schedule, x = VP(), noise_of(0, 4, 3, dtype=torch.float64)()
    times = torch.tensor([0.6, 0.3], dtype=torch.float64)
    ends = [
        sample(solver, Gaussian(schedule), x, times, no_noise) for solver in (DDIM(), DPMpp2M())
    ]
    assert torch.allclose(*ends, atol=1e-12)


EVALUATIONS = {
    "Heun": 2 * 10 - 1,
    "Heun-angle": 2 * 10 - 1,
    "EDMStochastic": 2 * 10 - 1,
    "PredictorCorrector": 2 * 10 - 1,
    "DPMpp3M": 11,
}


@pytest.mark.parametrize("name", [n for n in ALL if n != "AdaptiveODE"])
def test_evaluations_are_counted(name):
    """10 steps of one evaluation each, but for those that say they have two, which have one to
    sigma_s = 0.
    """
    denoise = Counted(Gaussian(VP()))
    run(ALL[name], VP(), 10, noise_of(0, 4, 64), denoise)
    assert denoise.calls == EVALUATIONS.get(name, 10)


def test_tighter_tolerances_cost_evaluations():
    calls = []
    for tolerance in (1e-3, 1e-6, 1e-9):
        denoise = Counted(Gaussian(VP()))
        run(
            AdaptiveODE(tolerance, tolerance),
            VP(),
            1,
            noise_of(0, 4, 3, dtype=torch.float64),
            denoise,
        )
        calls.append(denoise.calls)
    assert calls[0] < calls[1] < calls[2]


def test_deterministic_solvers_draw_no_noise_and_stochastic_ones_do():
    times = torch.tensor([0.6, 0.5, 0.4], dtype=torch.float64)
    for solver in (
        ODES | {"zero": EulerMaruyama(0.0), "no churn": EDMStochastic(s_churn=0.0)}
    ).values():
        sample(solver, Gaussian(VP()), torch.ones(2, 3), times, no_noise)
    for solver in SDES.values():
        with pytest.raises(AssertionError, match="asked for noise"):
            sample(solver, Gaussian(VP()), torch.ones(2, 3), times, no_noise)


def test_a_loop_leaves_nothing_behind():
    """The same solver twice gives the same twice, schedulers with a state too."""
    for solver in ALL.values():
        assert torch.equal(*(run(solver, VP(), 5, noise_of(0, 4, 3)) for _ in range(2)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: EulerMaruyama(-1.0), "churn of at least 0"),
        (lambda: AdaptiveODE(rtol=0.0), "rtol and atol above 0"),
        (lambda: EDMStochastic(s_tmin=2.0, s_tmax=1.0), "s_tmin <= s_tmax"),
        (lambda: Diffusers("Unipc"), "knows DEIS"),
        (lambda: Diffusers(order=4), "order 1, 2 or 3"),
        (lambda: Diffusers().bind(Exploding(), torch.tensor([1.0, 0])), "variance-preserving"),
        (lambda: Diffusers().bind(Discrete(zero_snr=True), torch.tensor([1.0, 0])), "alpha > 0"),
        (lambda: Diffusers().bind(VP(), torch.tensor([1.0, 0.3, 0])), "even times"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
