"""Every solver from the command line's settings on a trained network, and what the command line
refuses.
"""

import pytest
import torch
from solver_models import ALL

from ldm.config import SampleConfig
from ldm.config.schema import to_dict
from ldm.diffusion.solvers import EulerMaruyama
from ldm.errors import Refusal
from ldm.sampling.generate import generate
from ldm.sampling.model import restore
from ldm.sampling.settings import Overrides


def settings(name, *options, eta=None, **given):
    return Overrides(name, options, eta, **given).over(SampleConfig(batch_size=2))


@pytest.mark.parametrize("name", ALL)
def test_every_solver_samples_from_a_checkpoint(pixel_run, name):
    """Named as on the command line; sample i is the same alone and in a batch, but for AdaptiveODE."""
    solver = ALL[name]
    fields = to_dict(solver)
    chosen = settings(
        type(solver).__name__, *[f"{key}={value}" for key, value in fields.items()], steps=3
    )
    assert chosen.solver == solver
    model = restore(pixel_run)
    both = generate(model, chosen, [0, 1])
    assert both.float().std() > 1
    if name != "AdaptiveODE":
        assert torch.equal(generate(model, chosen, [1])[0], both[1])


def test_solver_options_are_typed():
    chosen = settings("EulerMaruyama", "churn=0.5").solver
    assert chosen == EulerMaruyama(0.5) and isinstance(chosen.churn, float)
    assert settings("DDIM", "eta=1").solver.eta == settings("DDIM", eta=1.0).solver.eta == 1.0
    assert settings("AdaptiveODE", "rtol=1e-7", "method=bosh3").solver.rtol == 1e-7
    assert settings("Diffusers", "scheduler=DEIS").solver.scheduler == "DEIS"


@pytest.mark.parametrize(
    "name, option, message",
    [
        ("EulerMaruyama", "chrun=0.5", "no key 'sample.solver.chrun'; did you mean 'churn'"),
        ("EulerMaruyama", "churn=much", "sample.solver.churn: 'much' is not float"),
        ("EulerMaruyama", "churn", "--solver-option: 'churn' is not key=value"),
        ("EulerMaruyama", "churn=${oc.env:HOME}", "is not key=value"),
        ("EulerMaruyama", "churn=-1", "churn of at least 0"),
        ("DDPM", "variance=medium", "sample.solver.variance"),
        ("Diffusers", "scheduler=Unipc", "did you mean 'UniPC'"),
        ("Diffusers", "order=7", "order 1, 2 or 3"),
        ("Heun", "name=DDIM", "is not key=value"),
    ],
)
def test_wrong_solver_options_are_refused_in_one_line(name, option, message):
    with pytest.raises(Refusal, match=message.replace("$", r"\$")) as error:
        settings(name, option)
    assert "\n" not in str(error.value)


def test_a_solver_that_cannot_run_on_the_schedule_is_refused(pixel_run):
    with pytest.raises(Refusal, match=r"sample: .*at most 1000 steps"):
        generate(restore(pixel_run), settings("Diffusers", steps=1001), [0])
