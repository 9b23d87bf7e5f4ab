"""Lightning's own counters of steps and batches, where they are not what has happened."""

from typing import Any

import lightning.pytorch as pl


def take_back(trainer: pl.Trainer, automatic: bool, steps: int) -> None:
    """Uncount optimiser steps that the device has left out."""
    loop = trainer.fit_loop.epoch_loop
    by_hand = loop.manual_optimization.optim_step_progress
    by_itself = loop.automatic_optimization.optim_progress.optimizer.step
    counted = by_itself if automatic else by_hand
    for counters in (counted.current, counted.total):
        counters.completed -= steps


def place_batches(state: dict[str, Any], accumulate: int) -> None:
    """Set a checkpoint's batch counters to its step.

    Its own are one behind when training was stopped between a step and the batch's last hook, and
    count other micro-batches when the run goes on with another `accumulate`.
    """
    micro = state["global_step"] * accumulate
    progress = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counters in (progress["current"], progress["total"]):
        counters.update(dict.fromkeys(("ready", "started", "processed", "completed"), micro))
