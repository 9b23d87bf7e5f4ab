"""Several processes of one run: when one of them is lost, the others end with one line."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

from ldm.errors import PartnerLost

PATIENCE = 10  # seconds for a process to find out by itself, in its next exchange


def lost_partner(error: BaseException, world: int) -> bool:
    """Whether an exchange between processes failed because one of them is gone."""
    broken = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
    return world > 1 and isinstance(error, RuntimeError) and broken


def partner_lost(step: int, world: int) -> PartnerLost:
    """What the others say."""
    return PartnerLost(
        f"one of the {world} processes of the run was lost at step {step}: killed, out of memory, "
        "or its machine; --resume goes on from the last checkpoint"
    )


class Partners(pl.Callback):
    """Ends this process with one line where an exchange with one that was lost would wait for ever.

    Lightning's observer kills the first process without a word, and in the middle of its last work:
    a further process that has stopped as it was asked to has a status that is not 0 either.
    """

    def __init__(self) -> None:
        self.ending = threading.Event()

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        for thread in threading.enumerate():
            if isinstance(thread, _ChildProcessObserver):
                ours = lambda: self.lost(trainer)  # noqa: E731
                thread._terminate_all = ours  # type: ignore[method-assign]  # in place of its own

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.ending.set()

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.ending.set()

    def lost(self, trainer: pl.Trainer, leave: Callable[[int], Any] = os._exit) -> None:
        """In the observer's thread: the main one ends by itself, or hangs in an exchange."""
        if self.ending.wait(PATIENCE):
            return
        error = partner_lost(trainer.global_step, trainer.world_size)
        print(f"error: {error}", file=sys.stderr, flush=True)
        if launcher := trainer.strategy.launcher:
            launcher.kill(9)
        leave(2)
