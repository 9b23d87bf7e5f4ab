"""Every use of a model, on a GPU that is not there: nothing that a real one would refuse."""

import dataclasses
from contextlib import contextmanager

import pytest
import torch
from diffusers import DiffusionPipeline
from helpers import run_config
from pretend import Pretended

import ldm
from ldm.diffusion import solvers
from ldm.diffusion.flow import Ode
from ldm.diffusion.solvers.foreign import Diffusers
from ldm.evaluation.requests import EvaluationRequest, Opened
from ldm.evaluation.run import KINDS
from ldm.export.folder import export
from ldm.pictures.images import Digits
from ldm.sampling.density import Estimate
from ldm.sampling.requests import Place, Seeds, Source
from ldm.sampling.settings import Overrides
from ldm.system.processes import ALONE
from ldm.tasks import TASKS
from ldm.training.run import train_run

EVERY = [getattr(solvers, name) for name in solvers.__all__]
EVERY = [kind for kind in EVERY if dataclasses.is_dataclass(kind) and hasattr(kind, "step")]
OTHER = (Diffusers, solvers.AdaptiveODE, solvers.Counted, solvers.Consistency)  # the last: students
OWN = [kind() for kind in EVERY if kind not in OTHER]
FOREIGN = ("DEIS", "DPMSolverMultistep", "DPMSolverSinglestep", "Euler", "LMS", "UniPC")
MORE = [
    solvers.DDIM(0.5),
    solvers.Heun("angle"),
    solvers.AdaptiveODE(1e-1, 1e-1),
    *(Diffusers(name) for name in FOREIGN),
]
ONE = {"seed": 0, "steps": 3, "batch_size": 1}
ROUGH = Estimate(ode=Ode(1e-1, 1e-1))


@contextmanager
def loaded(run):
    """A model on the device; nothing that it is asked here is mixed."""
    with Pretended() as device:
        yield ldm.load(run, device="cuda")
    assert not device.mixed()


def digits(count=1):
    return Digits().load().test.images[:count]


def fine(found):
    assert isinstance(found, torch.Tensor) and found.device.type == "cpu"
    assert torch.isfinite(found.float()).all()


def test_a_sample_on_a_pretended_device(pixel_run):
    with loaded(pixel_run) as model:
        assert next(model.model.denoiser.parameters()).is_cuda
        fine(model.sample(2, steps=3, guidance=2.0))


@pytest.mark.slow
@pytest.mark.parametrize("solver", [*OWN, *MORE], ids=repr)
def test_every_solver(solver, pixel_run):
    how = dict(steps=4, guidance=2.0, interval=(0.1, 0.9), rescale=0.5)
    with loaded(pixel_run) as model:
        fine(model.sample(2, solver=solver, **how))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["latent_run", "text_run"])
def test_samples_of_latents_and_captions(kind, request):
    with loaded(request.getfixturevalue(kind)) as model:
        fine(model.sample(2, steps=3, guidance=2.0))


@pytest.mark.slow
def test_samples_and_density_of_jets(jets_run):
    with loaded(jets_run) as model:
        features, mask = made = model.sample(2, steps=3)
        fine(features)
        assert mask.device.type == "cpu"
        fine(model.log_likelihood(made, estimate=ROUGH).nats.cpu())


METHODS = [
    (kind, task.name, method)
    for kind in ("pixel", "latent")
    for task in TASKS
    for method in task.methods[kind]
]


def solve(model, name, method):
    x, hole = digits(), torch.zeros(8, 8)
    hole[2:5, 2:5] = 1
    how = {**ONE, "method": method}
    return {
        "inpaint": lambda: model.inpaint(x, hole, **how),
        "super-resolve": lambda: model.super_resolve(x[..., ::2, ::2], factor=2, **how),
        "denoise": lambda: model.denoise(x, noise_std=0.3, **how),
        "edit": lambda: model.edit(x, **how),
        "interpolate": lambda: model.interpolate(x, digits(2)[1:], count=2, **how),
    }[name]()


@pytest.mark.slow
@pytest.mark.parametrize("kind, name, method", METHODS, ids=["-".join(m) for m in METHODS])
def test_every_task_by_every_method(kind, name, method, request):
    with loaded(request.getfixturevalue(f"{kind}_run")) as model:
        fine(solve(model, name, method))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["Inpaint", "{name: SuperResolve, factor: 2}"])
def test_a_trained_task(task, tmp_path):
    more = ("trainer.max_steps=2", "sample.every=0", "sample.count=2", "sample.steps=2")
    run = train_run(run_config("pixel", tmp_path, f"task={task}", *more))
    with loaded(run) as model:
        fine(solve(model, "inpaint" if task == "Inpaint" else "super-resolve", "trained"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pixel_run", "latent_run"])
def test_likelihood(kind, request):
    with loaded(request.getfixturevalue(kind)) as model:
        fine(model.log_likelihood(digits(2), label=[0, 1], estimate=ROUGH).nats.cpu())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pixel_run", "stage1", "jets_run"])
def test_evaluation(kind, request, tmp_path):
    run, jets = request.getfixturevalue(kind), kind == "jets_run"
    metrics, few = (("w1m",), Seeds(60)) if jets else (None, Seeds(150))
    where = dict(cache=str(tmp_path / "cache"), output=str(tmp_path / "out"))
    how, opened = Overrides(steps=2, batch_size=50), Opened.at(run)
    asked = EvaluationRequest(Source(str(run)), few, how, metrics, **where)
    with Pretended() as device:
        evaluation, place = KINDS[opened.kind](asked, opened), Place("cuda", "cuda", ALONE)
        evaluation.restore(place)
        evaluation.make(place)
        assert all(evaluation.figures())
    assert not device.mixed()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pixel_run", "latent_run"])
def test_an_exported_pipeline(kind, request, tmp_path):
    folder = export(str(request.getfixturevalue(kind)), str(tmp_path / "out"))
    with Pretended() as device:
        pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True).to("cuda")
        pipeline.set_progress_bar_config(disable=True)
        found = pipeline(class_labels=[0, 1], num_inference_steps=2, output_type="np")
    assert not device.mixed()
    assert found.images.shape[:3] == (2, 8, 8)
