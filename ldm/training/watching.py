"""How fast a run is, and whether its discriminator is well."""

import sys
import time
from typing import Any, ClassVar, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from ldm.training.boards.loggers import alert
from ldm.training.stage import Stage

if sys.platform != "win32":
    import resource


class DiscriminatorBalance(pl.Callback):
    """Alert once when the discriminator has won or given up.

    Its loss is 1 by chance and 0 once every logit is beyond its margin; then its gradient is 0 or
    of no use. Read every n steps, as a mean over the last `window` readings.
    """

    low, high = 0.025, 0.975
    kept: ClassVar = {"readings": (list,), "said": (bool,)}

    def __init__(self, every: int, window: int = 20):
        self.every, self.window, self.said = every, window, False
        self.readings: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        return {"readings": self.readings, "said": self.said}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.readings, self.said = state["readings"], state["said"]

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        stage = cast(Stage, module)
        value = stage.readings.get("discriminator/loss")
        if value is None or trainer.global_step % self.every or not stage.ends_step(batch_idx):
            return
        stage.settle()
        self.readings = [*self.readings[1 - self.window :], float(cast(Tensor, value))]
        mean = sum(self.readings) / len(self.readings)
        saturated = len(self.readings) == self.window and not self.low < mean < self.high
        stage.readings["discriminator/saturated"] = saturated
        if saturated and not self.said:
            self.said = True
            won = mean < self.low
            lower, higher = "lower discriminator.lr or weight", "raise discriminator.lr"
            steps = f"{self.window * self.every} steps (0: it has won, 1: chance)"
            advice = lower if won else f"{higher}, or start it later"
            said = f"its hinge loss is {mean:.3g} over {steps}; {advice}"
            alert(trainer, "discriminator saturated", said)


class Throughput(pl.Callback):
    """Pictures a second, share of time waiting for data, memory; waits at logging steps alone."""

    def __init__(self, stage: Stage):
        self.stage, self.every = stage, stage.config.trainer.log
        self.since, self.ended, self.waited = (0, 0.0), 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.ended = time.perf_counter()
        self.since = (self.stage.images_seen, self.ended)

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.waited += time.perf_counter() - self.ended

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.ended = now = time.perf_counter()
        if trainer.global_step % self.every or not self.stage.ends_step(batch_idx):
            return
        self.stage.settle()
        seen, span = self.stage.images_seen, now - self.since[1]
        self.stage.readings |= {
            "speed/images_per_second": (seen - self.since[0]) / span,
            "speed/images_seen": seen,
            "speed/waiting_share": self.waited / span,
        }
        self.since, self.waited = (seen, now), 0.0
        if (held := peak_memory(module.device)) is not None:
            self.stage.readings["speed/memory_gb"] = held


def peak_memory(device: torch.device) -> float | None:
    """The most memory held so far, in GB, of the GPU or else this process; None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
