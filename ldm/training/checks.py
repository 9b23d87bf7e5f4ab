"""What can be known to be wrong before the first step.

Hours of stage 1 are not spent before a mistake of stage 2 is found: its networks, solver, figures
and Lightning's settings are tried now.
"""

import os
from pathlib import Path

import torch

from ldm.config import Config, stage1_of
from ldm.errors import Refusal, printable
from ldm.training.arithmetic import once_in_shapes
from ldm.training.legs import Leg
from ldm.training.machine import expect_whole_weights, world_size
from ldm.training.panels.registry import figures_of
from ldm.training.state import expect_state
from ldm.training.trainer import check_trainer


def check_strategies(run: Config) -> None:
    """Refusal of what either stage cannot be trained by; known before any data is read."""
    stage1 = stage1_of(run)
    for stage in (run, stage1) if stage1 else (run,):
        expect_whole_weights(stage)


def check_leg(leg: Leg) -> None:
    """Refusal for what would fail once the stage trains."""
    train, test, world = len(leg.images.train), len(leg.images.test), world_size(leg.run.trainer)
    if min(train, test) < world:
        few = f"{train} pictures and {test} held out are too few"
        raise Refusal(f"data: {few} for {world} processes")
    leg.check()
    if leg.run.data.modality == "pictures":  # networks of other data take any number of rows
        _try_once(leg)
    figures_of(leg.module, leg.images)  # looks for what it needs
    trainer = check_trainer(leg.run)
    if leg.start is not None:
        expect_state(leg.module, leg.state, leg.start, trainer)


def _try_once(leg: Leg) -> None:
    """The networks' answer to one picture, in shapes alone."""
    try:
        with torch.no_grad():
            once_in_shapes(leg.module)
    except (RuntimeError, ValueError) as error:
        why, shape = printable(str(error).splitlines()[0]), tuple(leg.images.shape)
        raise Refusal(f"network: {leg.run.name} does not take pictures of {shape}: {why}") from None


def check_output(folder: Path) -> None:
    """Refusal where the run's folder cannot be made or written to."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise Refusal(f"output: '{there}' is a file, where {folder}/ is to be; set output or name")
    if not os.access(there, os.W_OK | os.X_OK):
        raise Refusal(f"output: '{there}' cannot be written to; set output")
