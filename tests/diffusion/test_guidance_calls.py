"""Guidance away from a worse model, exactly; and how often a step asks the networks: no more than
it must, for every solver, kind of guidance and interval."""

import pytest
import torch
from exact import Mixture
from solver_models import ALL

from ldm.diffusion.denoiser import Denoiser, Loss
from ldm.diffusion.schedules import VP, Cosine
from ldm.diffusion.solvers import sample, start
from ldm.diffusion.tasks import Identity, autoguided, cfg, guide, project

COND, NULL = {"label": torch.tensor([0, 1, 0])}, {"label": torch.tensor([2, 2, 2])}
STEPS, ROWS = 6, 3


class Asked:
    """The exact denoiser of a mixture, moved by the label; it keeps what it is asked."""

    def __init__(self, std=0.25, schedule=VP()):
        self.exact, self.schedule, self.asked = Mixture(schedule, std), schedule, []

    def __call__(self, x_t, t, label):
        self.asked.append((x_t.detach().clone(), float(t), len(x_t)))
        return self.exact(x_t, t) + 0.1 * label[:, None]

    @property
    def points(self):
        """Where it was asked, (x_t, t), the first of a doubled batch's halves."""
        return [(t, x[:ROWS].double().numpy().tobytes()) for x, t, _ in self.asked]


def noise(seed=0):
    random = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(ROWS, 2, generator=random, dtype=torch.float64)


def run(solver, denoise, steps=STEPS):
    randn, times = noise(), denoise.schedule.grid(steps)
    return sample(solver, denoise, start(denoise.schedule, times[0], randn()), times, randn)


# -- exactly ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.5, 3.0])
def test_the_estimate_is_led_away_from_the_worse_one(weight):
    good, bad = Mixture(VP(), 0.25), Mixture(VP(), 0.6)
    x, t = noise()(), torch.tensor(0.4, dtype=torch.float64)
    guided = autoguided(cfg(good, {}, scale=weight), bad, {})
    expected = bad(x, t) + weight * (good(x, t) - bad(x, t))
    assert torch.allclose(guided(x, t), expected, rtol=0, atol=1e-14)
    assert weight == 0 or not torch.allclose(guided(x, t), bad(x, t), atol=1e-3)


def test_weight_one_gives_the_models_own_bits_and_does_not_ask_the_guide():
    good, bad = Asked(), Asked(0.6)
    alone = run(ALL["DDIM"], cfg(good, COND))
    guided = run(ALL["DDIM"], autoguided(cfg(good, COND, scale=1.0), bad, NULL))
    assert torch.equal(alone, guided) and not bad.asked


def test_the_guide_has_a_condition_of_its_own_and_the_null_one_is_not_asked():
    good, bad, x = Asked(), Asked(0.6), noise()()
    t = torch.tensor(0.4, dtype=torch.float64)
    autoguided(cfg(good, COND, NULL, 2.0), bad, {"label": torch.tensor([5, 6, 7])})(x, t)
    assert [rows for _, _, rows in good.asked] == [ROWS]
    expected = Mixture(VP(), 0.6)(x, t) + 0.1 * torch.tensor([[5], [6], [7]])
    found = autoguided(cfg(good, COND, NULL, 0.0), bad, {"label": torch.tensor([5, 6, 7])})(x, t)
    assert torch.allclose(found, expected, atol=1e-14)


def test_rescale_brings_back_the_models_own_contrast():
    good, bad, x = Asked(0.25), Asked(0.9), noise()()
    t = torch.tensor(0.6, dtype=torch.float64)
    free = cfg(good, COND, scale=4.0, rescale=1.0)
    spread = autoguided(free, bad, NULL)(x, t).std(1)
    assert torch.allclose(spread, good(x, t, **COND).std(1))


def test_a_guide_of_another_schedule_is_refused():
    with pytest.raises(ValueError, match="the guide is of schedule Cosine"):
        autoguided(cfg(Asked(), COND), Asked(schedule=Cosine()), COND)


def test_gradients_go_through_both_models():
    """What tasks that follow the network's gradient need of a guided one."""
    nets = [torch.nn.Linear(2, 2, bias=False) for _ in range(2)]

    class Net(torch.nn.Module):
        def __init__(self, inside):
            super().__init__()
            self.inside = inside

        def forward(self, x, c_noise):
            return self.inside(x)

    good, bad = (Denoiser(Net(net), VP(), Loss("x0")) for net in nets)
    x = torch.randn(1, 2, requires_grad=True)
    autoguided(cfg(good, {}, scale=3.0), bad, {})(x, torch.tensor(0.5)).sum().backward()
    expected = (3 * nets[0].weight - 2 * nets[1].weight).sum(0)
    assert torch.allclose(x.grad, expected[None], atol=1e-6)


# -- how often the networks are asked --------------------------------------------------------------
TWICE = ("Heun", "Heun-angle", "PredictorCorrector", "EDMStochastic")
CALLS = dict.fromkeys(ALL, STEPS) | dict.fromkeys(TWICE, 2 * STEPS - 1)
CALLS |= {"DPMpp3M": STEPS + 1, "AdaptiveODE": None}  # of its tolerance


def built(kind, interval):
    """A model, its guide, and the two bound together as `kind` says."""
    good, bad = Asked(), Asked(0.6)
    free = cfg(good, COND, NULL, 1.0 if kind == "none" else 2.0, interval)
    return good, bad, autoguided(free, bad, COND) if kind == "auto" else free


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.2, 0.7), (0.3, 0.3)])
@pytest.mark.parametrize("kind", ["none", "free", "auto"])
@pytest.mark.parametrize("name", ALL)
def test_a_step_asks_no_more_than_it_must(name, kind, interval):
    good, bad, denoise = built(kind, interval)
    run(ALL[name], denoise)
    points = good.points
    assert len(set(points)) == len(points), "asked twice of one x_t and t"
    assert CALLS[name] in (None, len(points))
    low, high = interval
    inside = [low <= t <= high for t, _ in points]
    doubled = [rows == 2 * ROWS for _, _, rows in good.asked]
    assert doubled == ([*inside] if kind == "free" else [False] * len(points))
    led = [point for point, within in zip(points, inside, strict=True) if within]
    assert bad.points == (led if kind == "auto" else [])


@pytest.mark.parametrize("kind", ["free", "auto"])
def test_tasks_ask_once_a_step_too(kind):
    good, bad, denoise = built(kind, (0.0, 1.0))
    y = torch.zeros(ROWS, 2, dtype=torch.float64)
    run(ALL["DDIM"], project(guide(denoise, Identity(), y, 0.1), Identity(), y))
    assert len(good.asked) == STEPS and len(bad.asked) == (STEPS if kind == "auto" else 0)
