"""Solvers against exact answers: orders of convergence, laws of stochastic steps, samples of a
mixture.
"""

import pytest
import torch
from exact import (
    Gaussian,
    Mixture,
    energy_distance,
    even_ratio,
    even_time,
    flow_errors,
    law,
    law_errors,
    slopes,
)
from solver_models import ODES, SCHEDULES, SDES

from ldm.diffusion.solvers import (
    DDIM,
    DPMpp2MSDE,
    EDMStochastic,
    Heun,
    PredictorCorrector,
    sample,
    start,
)

ORDERS = {
    "DDIM": 0.95,
    "Euler": 0.95,
    "Heun": 1.9,
    "Heun-angle": 1.9,
    "DPMpp2M": 1.9,
    "DPMpp3M": 2.7,
}
LAWS = ["VP", "VE", "Linear"]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", ORDERS)
def test_order_on_a_gaussian_flow(name, law):
    errors = flow_errors(ODES[name], Gaussian(SCHEDULES[law]), (128, 256, 512))
    assert min(slopes(errors)) > ORDERS[name]


@pytest.mark.parametrize("name", ORDERS)
def test_order_on_a_mixture(name):
    errors = flow_errors(ODES[name], Mixture(SCHEDULES["VP"]), (128, 256))
    assert min(slopes(errors)) > ORDERS[name]


@pytest.mark.parametrize("name", ["Heun", "Heun-angle", "DPMpp2M", "DPMpp3M"])
def test_order_on_steps_of_changing_size(name):
    errors = flow_errors(ODES[name], Gaussian(SCHEDULES["Cosine"]), (256, 512), even_time)
    assert min(slopes(errors)) > ORDERS[name]


def test_heun_keeps_its_order_down_to_no_noise():
    """On VP sigma grows as sqrt(t): in t the order is lost there, in sigma / alpha it is not."""
    denoise = Gaussian(SCHEDULES["VP"])
    assert min(slopes(flow_errors(Heun(), denoise, (64, 128, 256), even_ratio))) > 1.9
    assert min(slopes(flow_errors(DDIM(), denoise, (64, 128, 256), even_ratio))) > 0.95


@pytest.mark.parametrize("law", SCHEDULES)
def test_adaptive_meets_its_tolerance(law):
    denoise, ends = Gaussian(SCHEDULES[law]), torch.tensor([1, 0], dtype=torch.float64)
    x = start(
        denoise.schedule,
        ends[0],
        torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).double(),
    )
    errors = []
    for tolerance in (1e-4, 1e-8):
        solver = type(ODES["AdaptiveODE"])(tolerance, tolerance)
        errors.append((sample(solver, denoise, x, ends, None) - denoise.flow(x, *ends)).abs().max())
    assert (
        errors[0] < 2e-3 and errors[1] < 2e-7
    )  # ten times the tolerance a step, and the size of x


# EDM's default churn is capped for few steps and s_noise = 1.003 adds noise on purpose: an order is
# of s_noise = 1
WEAK = {
    name: (solver, 0.95)
    for name, solver in SDES.items()
    if name not in ("PredictorCorrector", "EDMStochastic", "DPMpp2MSDE")
} | {"EDMStochastic": (EDMStochastic(3.0, 0.0, 1e9, 1.0), 1.9), "DPMpp2MSDE": (DPMpp2MSDE(), 1.9)}


@pytest.mark.parametrize("name", WEAK)
def test_exact_law_of_stochastic_solvers(name):
    """Mean and variance of the samples by propagation, no Monte Carlo: both tend to the data's with
    the solver's order.
    """
    solver, order = WEAK[name]
    means, variances = zip(*law_errors(solver, Gaussian(SCHEDULES["VP"]), (150, 300)), strict=True)
    assert slopes(variances)[0] > order and variances[1] < 1e-2
    assert means[1] < 1e-12 or (slopes(means)[0] > order and means[1] < 2e-3)


@pytest.mark.parametrize("law_name", ["VE", "Linear", "zero-snr"])
@pytest.mark.parametrize("name", [n for n in SDES if n != "PredictorCorrector"])
def test_laws_on_other_schedules_to_the_end(name, law_name):
    denoise = Gaussian(SCHEDULES[law_name])
    times = denoise.schedule.grid(250)
    (mean, variance), (wanted, std) = law(SDES[name], denoise, times), denoise.marginal(times[-1])
    assert abs(mean - wanted) < 3e-3 and abs(variance - std**2) < 2.5e-2


def test_predictor_corrector_leaves_the_exact_law_nearly_invariant():
    """Its step size has norms in it, so the law is measured: 512 rows of 256 numbers, at every time
    of the path.
    """
    denoise = Gaussian(SCHEDULES["VP"])
    generator = torch.Generator().manual_seed(0)
    randn = lambda: torch.randn(512, 256, generator=generator, dtype=torch.float64)
    times, errors = denoise.schedule.grid(200), []

    def watch(i, x, x0_hat):
        mean, std = denoise.marginal(times[i + 1])
        errors.append(((x.mean() - mean).abs().item(), (x.std() / std - 1).abs().item()))

    mean, std = denoise.marginal(times[0])
    for steps, most in ((1, 0.03), (0, 0.05)):
        errors.clear()
        sample(PredictorCorrector(steps), denoise, mean + std * randn(), times, randn, watch)
        assert max(e[0] for e in errors) < 0.02 and max(e[1] for e in errors[:-1]) < most


class Crowd(Mixture):
    """32 independent points of the mixture in each row of x, (B, 64): PredictorCorrector's norms
    need many numbers.
    """

    def __call__(self, x_t, t):
        return super().__call__(x_t.reshape(-1, 2), t).reshape(x_t.shape)


@pytest.mark.parametrize("name", SDES)
def test_samples_of_a_mixture(name):
    """Energy distance of 2048 samples to 2048 of the data, seeded."""
    generator = torch.Generator().manual_seed(0)
    denoise, randn = (
        Crowd(SCHEDULES["VP"]),
        (lambda: torch.randn(64, 64, generator=generator, dtype=torch.float64)),
    )
    times, data = denoise.schedule.grid(150), denoise.draw(2048, generator)
    made = sample(
        SDES[name], denoise, start(denoise.schedule, times[0], randn()), times, randn
    ).reshape(-1, 2)
    assert energy_distance(made, data) < 4e-3  # between two draws of the data: 1e-3 and less
    assert energy_distance(randn().reshape(-1, 2), data) > 5e-2
