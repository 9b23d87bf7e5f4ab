"""Which panels show a run: a line for each, and a file for each modality.

They are imported when they are needed: matplotlib and the metrics' networks are slow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ldm.system.data import DataSet
from ldm.training.panels.base import EverySteps
from ldm.training.stage import Stage

if TYPE_CHECKING:
    from ldm.training.panels.evaluation import RunFigures

PANELS = {  # by Stage.panel
    "reconstructions": "pictures.ReconstructionPanel",
    "pictures": "pictures.SamplePanel",
    "jets": "jets.JetPanels",
    "points": "points.PointPanels",
    "task": "tasks.TaskPanel",
}
FIGURES = {  # by Stage.stage
    "autoencoder": "evaluation.ReconstructionFigures",
    "diffusion": "evaluation.SampleFigures",
}


def panel_of(module: Stage, images: DataSet) -> EverySteps:
    """What shows how a run is doing, at sample.every or trainer.validate."""
    return _class(PANELS[module.panel]).of(module, images)


def figures_of(module: Stage, images: DataSet) -> "RunFigures | None":
    """evaluate.py's figures, at evaluate.every; None for never. Refusal where they cannot be."""
    return (
        _class(FIGURES[module.stage]).of(module, images) if module.config.evaluate.every else None
    )


def _class(name: str) -> Any:
    file, kind = name.split(".")
    return getattr(import_module(f"{__package__}.{file}"), kind)
