"""What shows a run: the registry has a panel for every kind, each made from its stage's config."""

from typing import get_args

import pytest
from helpers import run_config

from ldm.config import STAGES, AnyData
from ldm.training.legs import leg_of
from ldm.training.panels.base import EverySteps
from ldm.training.panels.registry import FIGURES, PANELS, _class, figures_of, panel_of


@pytest.mark.parametrize("name", [*PANELS.values(), *FIGURES.values()])
def test_every_name_is_of_a_panel(name):
    assert issubclass(_class(name), EverySteps) and not _class(name).__abstractmethods__


def test_every_modality_and_stage_has_its_own():
    assert {data.modality for data in get_args(AnyData)} <= PANELS.keys()
    assert STAGES.keys() == FIGURES.keys()


@pytest.mark.parametrize(
    ("kind", "more", "panel", "monitor"),
    [
        ("autoencoder", [], "ReconstructionPanel", ("val/psnr", "max")),
        ("pixel", [], "SamplePanel", ("val/loss", "min")),
        ("pixel", ["task=Inpaint"], "TaskPanel", ("val/loss", "min")),
    ],
)
def test_a_stage_says_what_shows_it(tmp_path, kind, more, panel, monitor):
    run = run_config(kind, tmp_path, *more)
    module = leg_of(run, run.data.load()).build()
    made = panel_of(module, run.data.load())
    assert (type(made).__name__, module.monitor) == (panel, monitor)
    assert made.folder == run.folder / "samples" and figures_of(module, run.data.load()) is None
    assert run.folder.name in module.farewell() and module.describe().startswith(run.stage)
