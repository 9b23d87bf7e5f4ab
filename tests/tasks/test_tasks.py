"""Classes of tasks: a sixth one by the path of the others, flags, the table of the docs, tensors."""

import json
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers import ROOT, grey, script
from PIL import Image

import ldm.tasks
from ldm.demo.edits import Wanted, change
from ldm.demo.limits import Asked, Limits
from ldm.diffusion.solvers import DDIM
from ldm.errors import Refusal
from ldm.pictures.images import Digits
from ldm.sampling.conditions import Condition
from ldm.sampling.model import restore
from ldm.sampling.settings import Overrides
from ldm.scripts import sample
from ldm.system.batches import as_floats
from ldm.tasks import (
    Denoising,
    Editing,
    InPainting,
    Interpolation,
    SuperResolution,
    every_flag,
    tasks_table,
)
from ldm.tasks.base import Task
from ldm.tasks.options import Control, option
from ldm.tasks.request import TaskRequest

SHORT = Overrides(steps=3)


@dataclass(frozen=True)
class Mirroring(Task):
    """Pictures near the given one that are their own mirror image, from t = reach on."""

    name = "mirror"
    about = "makes a picture its own mirror image"
    page = "Mirror"
    methods: ClassVar = {"pixel": ("average",), "latent": ("average",)}
    controls: ClassVar = {"reach": Control("slider", "Reach", 0.5)}

    reach: float = option(0.5, "how much is made anew, above 0 and at most 1", "R", float)

    def fitted(self, model):
        if not 0 < self.reach <= 1:
            raise Refusal(f"--reach: {self.reach:g} is not above 0 and at most 1")
        return self

    def make(self, prior, case):
        from ldm.diffusion.tasks import edit

        x_0 = prior.space.encode_mean((case.given + case.given.flip(-1)) / 2)
        made = prior.below(prior.denoise(), *edit(prior.schedule, x_0, self.reach, prior.randn()))
        return (made + made.flip(-1)) / 2


@pytest.fixture
def sixth(monkeypatch):
    monkeypatch.setattr(ldm.tasks, "TASKS", (*ldm.tasks.TASKS, Mirroring))
    monkeypatch.setattr(sample, "TASKS", ldm.tasks.TASKS)
    monkeypatch.setattr("ldm.demo.edits.TASKS", ldm.tasks.TASKS)


@pytest.fixture
def digit(tmp_path):
    """A held-out digit as a file."""
    Image.fromarray(pictures(1)[0, 0].numpy()).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def pictures(count):
    return Digits().load().test.images[:count]


def typed(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, words)])
    sample.main()


@pytest.mark.parametrize("run_of", ["pixel_run", "latent_run"])
def test_a_sixth_task_is_a_class_and_a_line(
    sixth, run_of, digit, tmp_path, monkeypatch, capsys, request
):
    """By sample.py, refused as all are, on the page, in the help and in the table of the docs."""
    common = "--checkpoint", request.getfixturevalue(run_of), "--device", "cpu", "--task", "mirror"
    common += "--steps", 3, "--count", 2, "--image", digit
    typed(monkeypatch, *common, "--output", tmp_path / "o", "--reach", 0.8)
    made = [grey(tmp_path / "o" / f"digit-0000000{seed}.png") for seed in (0, 1)]
    assert all(np.array_equal(one, one[:, ::-1]) for one in made) and not np.array_equal(*made)
    settings = json.loads((tmp_path / "o" / "settings.json").read_text())
    assert {"name": "mirror", "method": "average", "reach": 0.8}.items() <= settings.items()
    assert (tmp_path / "o" / "panel.png").exists()
    with pytest.raises(Refusal, match="--reach: 2 is not above 0"):
        typed(monkeypatch, *common, "--output", tmp_path / "p", "--reach", 2)
    with pytest.raises(Refusal, match="--mask: --task mirror takes none"):
        typed(monkeypatch, *common, "--output", tmp_path / "p", "--mask", digit)
    with pytest.raises(SystemExit):
        typed(monkeypatch, "--help")
    assert "mirror: how much is made anew" in " ".join(capsys.readouterr().out.split())
    assert "| `mirror` | makes a picture its own mirror image |" in tasks_table()
    wanted = Wanted(pictures(1)[0], [], "mirror", options={"reach": 0.8})
    model = restore(request.getfixturevalue(run_of))
    *_, last = change(model, Limits(), wanted, Asked("DDIM", 3, 1.0, 0, 2))
    assert "Done" in last.status and torch.equal(last.samples, last.samples.flip(-1))


def test_the_table_of_the_readme_is_the_classes():
    assert tasks_table() in (ROOT / "docs" / "tasks.md").read_text()


def test_every_flag_is_known_to_sample_py_without_torch(tmp_path):
    """Help and mistakes in arguments wait for nothing slow."""
    (tmp_path / "torch.py").write_text("raise SystemExit(9)")
    given = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = script("sample.py", "--help", **given)
    assert done.returncode == 0 and all(flag.text in done.stdout for flag in every_flag())
    bad = script("sample.py", "--checkpoint", "x", "--task", "inpant", **given)
    assert bad.returncode == 2 and bad.stderr.startswith("error: ")


def test_flags_of_other_tasks_are_named_and_those_of_none_refused(digit, capsys):
    words = {"task": "edit", "image": [str(digit)], "mask": None, "output": "o", "factor": 2}
    TaskRequest.parse(words | {"checkpoint": "c", "strength": 0.3})
    assert capsys.readouterr().out == "--factor: not used by --task edit\n"
    with pytest.raises(Refusal, match=r"--strength belongs to a task: add --task inpaint, .* or "):
        ldm.tasks.without_task({"strength": 0.3})


@pytest.mark.parametrize("run_of", ["pixel_run", "latent_run"])
def test_tensors(run_of, request):
    """Every task on tensors: a sample a picture and seed; floats and bytes are the same picture."""
    model, bytes_ = restore(request.getfixturevalue(run_of)), pictures(2)
    few = {"settings": Editing().settings(model, SHORT)}
    mask = torch.zeros(8, 8)
    mask[2:6, 2:6] = 1
    filled = InPainting().solve(model, bytes_, mask, (0, 1, 2), **few)
    assert filled.shape == (2, 3, 1, 8, 8) and filled.abs().max() <= 1
    floats = InPainting().solve(model, as_floats(bytes_), mask[None].bool(), (0, 1, 2), **few)
    assert torch.equal(filled, floats)
    small = torch.nn.functional.avg_pool2d(as_floats(bytes_), 2)
    assert SuperResolution(factor=2).solve(model, small, **few).shape == (2, 1, 1, 8, 8)
    noisy = Denoising(noise_std=0.5).solve(model, bytes_, seeds=(0, 1), **few)
    explicit = Denoising(noise_std=0.5).solve(
        model, bytes_, seeds=(0, 1), condition=Condition([3, 4]), **few
    )
    assert noisy.shape == (2, 2, 1, 8, 8) and not torch.equal(noisy, explicit)
    frames = Interpolation().solve(model, bytes_, seeds=range(3), **few)
    assert frames.shape == (1, 3, 1, 8, 8)
    for task, given, message in (
        (InPainting(), {}, "mask: inpaint needs one"),
        (Editing(), {"mask": mask}, "mask: edit takes none"),
        (Editing(strength=2.0), {}, "--strength: 2"),
        (InPainting("blended"), {"mask": mask}, "'blended' is not one of guide"),
    ):
        with pytest.raises(Refusal, match=message):
            task.solve(model, bytes_, **given)


def test_a_named_solver_is_taken(pixel_run):
    model = restore(pixel_run)
    assert type(Editing().settings(model, SHORT).solver).__name__ == "DPMpp2MSDE"
    assert Editing().settings(model, replace(SHORT, solver="DDIM")).solver == DDIM()
