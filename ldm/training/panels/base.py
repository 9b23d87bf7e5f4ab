"""Callbacks that show how a run is doing: sample grids, reconstructions, throughput, alerts.

Every rank does its share of sampling and measuring; rank 0 alone writes and logs. Each panel is a PNG in the run's
folder and the same picture on the boards of logger.kind. Names are SECTION/NAME: train, val, loss_by_time, discriminator,
evaluate, speed, pictures, tables.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from PIL import Image

from ldm.training.boards.loggers import log_picture


def panel(trainer: pl.Trainer, folder: Path, name: str, picture: Image.Image, caption: str) -> None:
    """Write samples/<name>-<step>.png, and log it."""
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{name}-{trainer.global_step:07d}.png")
    log_picture(trainer, f"pictures/{name}", picture, caption)


class EverySteps(pl.Callback):
    """Calls `show` at step 0 (so that what does not fit into memory fails in the first minute), every n steps, at the end."""

    def __init__(self, folder: Path, every: int):
        self.folder, self.every, self.shown = folder, every, -1

    def show(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        raise NotImplementedError

    def _once(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step != self.shown:
            self.shown = trainer.global_step
            self.show(trainer, module)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            self._once(trainer, module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if self.every and trainer.global_step and trainer.global_step % self.every == 0:
            self._once(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._once(trainer, module)
