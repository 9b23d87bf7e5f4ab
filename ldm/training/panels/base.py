"""Callbacks that show how a run is doing: what is shown; where it is shown are the boards.

Every rank does its share of sampling and measuring; rank 0 alone writes and logs. Each panel is a
PNG in the run's folder and the same picture on the boards of logger.kind. Names are SECTION/NAME:
train, val, loss_by_time, discriminator, evaluate, speed, pictures, tables.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import lightning.pytorch as pl
from PIL import Image

from ldm.networks.quick import eager
from ldm.system.data import DataSet
from ldm.training.boards.loggers import log_picture
from ldm.training.progress import Beside, busy
from ldm.training.ranks import announce
from ldm.training.stage import Stage

AnyStage = TypeVar("AnyStage", bound=Stage)


def show_panel(
    trainer: pl.Trainer, folder: Path, name: str, picture: Image.Image, caption: str
) -> None:
    """Write samples/<name>-<step>.png, and log it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{trainer.global_step:07d}.png"
    picture.save(path)
    announce(f"step {trainer.global_step}: wrote {path}")
    log_picture(trainer, f"pictures/{name}", picture, caption)


def log_figures(trainer: pl.Trainer, values: Mapping[str, float]) -> None:
    """Numbers on every board and in metrics.csv."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=trainer.global_step)


class EverySteps(Beside, ABC, Generic[AnyStage]):
    """Calls `show` at step 0, every n steps and at the end.

    At step 0, so that running out of memory shows in the first minute.
    """

    doing: ClassVar[str] = "drawing samples"  # as the bar says it

    def __init__(self, folder: Path, every: int):
        self.folder, self.every, self.shown = folder, every, -1
        self.tick: Callable[..., None] = lambda *_: None  # inside `show` time passes in the bar

    @classmethod
    @abstractmethod
    def of(cls, module: AnyStage, images: DataSet) -> Self:
        """As a run's config has it."""

    @abstractmethod
    def show(self, trainer: pl.Trainer, module: AnyStage) -> None:
        """On every rank."""

    def _once(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step != self.shown:
            cast(Stage, module).settle()
            self.shown, self.since = trainer.global_step, time.monotonic()
            with eager(), busy(trainer, self.doing) as self.tick:
                self.show(trainer, cast(AnyStage, module))
            self.took, self.since = time.monotonic() - self.since, 0.0

    def to_come(self, step: int, last: int) -> int:
        between = (last - 1) // self.every - step // self.every if self.every else 0
        return max(0, between) + (self.shown != last)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            self._once(trainer, module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if self.every and trainer.global_step and trainer.global_step % self.every == 0:
            self._once(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._once(trainer, module)
