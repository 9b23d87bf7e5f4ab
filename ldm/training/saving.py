"""Callbacks that keep what a run has learnt: checkpoints, snapshots for post-hoc EMA, stops."""

import json
from pathlib import Path
from types import EllipsisType, NoneType
from typing import Any, ClassVar, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ldm.checkpoints.averaging import write_snapshot
from ldm.checkpoints.checkpoint import write_checkpoint
from ldm.config import RunConfig, save_config
from ldm.errors import NotFinite, Refusal
from ldm.system.device import Later
from ldm.system.files import atomic_write
from ldm.system.stops import Stops
from ldm.training.ema import EMA
from ldm.training.ranks import announce
from ldm.training.stage import Stage


class AtomicIO(TorchCheckpointIO):
    """Lightning's checkpoints through `write_checkpoint`; read as mapped files.

    The processes of a machine share the pages, where each would have read the whole into memory.
    """

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        write_checkpoint(checkpoint, Path(path))


class Checkpoints(pl.callbacks.Checkpoint):
    """last.ckpt every n steps, at the end and when asked to stop; best.ckpt by `Stage.monitor`.

    Saved between steps, at the start of the next: what belongs to the step before (its log row, its
    validation) is done. best.ckpt first: last.ckpt remembers that it was written. Lightning's
    ModelCheckpoint counts both optimisers' steps under manual optimisation and does not save at
    the end. The first save is announced, and every validation's figure.
    """

    # what state_dict has, by kind; an Ellipsis: older ones have it not
    kept: ClassVar = {"best": (float, NoneType), "best_step": (int, NoneType, EllipsisType)}

    def __init__(self, module: Stage):
        settings, (self.monitor, mode) = module.config.trainer, module.monitor
        self.stage, self.folder, self.every = module, module.config.folder, settings.save
        self.accumulate = settings.accumulate
        self.sign = 1.0 if mode == "max" else -1.0
        self.best: float | None = None
        self.best_step: int | None = None
        self.better, self.saved, self.said = False, -1, False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_step = state["best"], state.get("best_step")

    def save_best(self, trainer: pl.Trainer) -> None:
        if self.better:
            self.stage.settle()
            self.better = False
            self._save(trainer, "best")

    def save_last(self, trainer: pl.Trainer) -> None:
        self.stage.settle()
        self.save_best(trainer)
        if trainer.global_step != self.saved:
            self.saved = trainer.global_step
            self._save(trainer, "last")
            self._say_saved(trainer)

    def _say_saved(self, trainer: pl.Trainer) -> None:
        """Once: from here on a stop loses little."""
        if not self.said and trainer.global_step < trainer.max_steps:
            self.said = True
            often = f"again every {self.every} steps"
            announce(f"step {trainer.global_step}: saved {self.folder}/last.ckpt, {often}")

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger) and trainer.is_global_zero:
                logger.save()  # rows up to this step survive whatever comes
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.saved = trainer.global_step  # what a run starts from need not be written again
        expect_one_start(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % self.accumulate:
            return
        self.save_best(trainer)
        if trainer.global_step % self.every == 0:
            self.save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        found = trainer.callback_metrics.get(self.monitor)
        if found is None:
            return
        step, value = trainer.global_step, float(found)
        if self.best is None or self.sign * value > self.sign * self.best:
            self.best, self.best_step, self.better = value, step, True
            compared = "the best so far"
        else:
            when = "" if self.best_step is None else f" at step {self.best_step}"
            compared = f"the best is {self.best:.4g}{when}"
        announce(f"step {step}: {self.monitor} {value:.4g}, {compared}")

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        # raised on every rank before the step changed anything; no other error leaves a sound state
        if isinstance(exception, NotFinite) and trainer.global_step > 0:
            self.save_last(trainer)


def expect_one_start(trainer: pl.Trainer) -> None:
    """Refusal where processes go on from different steps: one has met a damaged checkpoint."""
    mine = torch.tensor(float(trainer.global_step), device=trainer.strategy.root_device)
    least, most = (
        int(trainer.strategy.reduce(mine.clone(), reduce_op=kind)) for kind in ("min", "max")
    )
    if least != most:
        raise Refusal(
            f"--resume: one process goes on from step {least}, another from step {most}: a "
            "checkpoint is damaged, or not the same on all machines; take it away and --resume"
        )


class RunFiles(pl.Callback):
    """config.yaml and run.json, once the run has begun: a refused one leaves nothing behind."""

    def __init__(self, module: Stage):
        self.run, self.run_id = module.config, module.run_id

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        save_config(self.run, self.run.folder / "config.yaml")
        with atomic_write(self.run.folder / "run.json") as file:
            file.write(json.dumps({"wandb_id": self.run_id}) + "\n")


class Snapshots(pl.Callback):
    """The two power averages every n steps, for post-hoc EMA: `sample.py --weights ema:0.05`.

    The latest are in last.ckpt.
    """

    def __init__(self, run: RunConfig, ema: EMA):
        self.folder, self.every, self.ema = run.folder / "snapshots", run.optim.posthoc, ema

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        stage = cast(Stage, module)
        if trainer.global_step % self.every or not stage.ends_step(batch_idx):
            return
        stage.settle()
        if trainer.is_global_zero:
            write_snapshot(self.folder, trainer.global_step, self.ema.powers)


class StopSignals(pl.Callback):
    """SIGTERM, SIGUSR1 (SLURM's warning), Ctrl-C and their like let the step finish and save.

    The exit status is 128 + their number. Lightning's own handlers raise in the middle of a step,
    or broadcast inside the handler: ours take their place. Processes agree on the step by a
    reduction every `every` steps, which is read one step later; one process needs none.
    """

    def __init__(self, saving: Checkpoints, stops: Stops, every: int = 10):
        self.saving, self.stops, self.every = saving, stops, every
        self.asked: Later | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stops.install()
        # Lightning's own agreement on SIGTERM: a broadcast and a wait for the device in each batch
        loop = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.stops.training = True
        if batch_idx % self.saving.accumulate:
            return
        if number := self.received(trainer, module.device):
            self.saving.save_last(trainer)
            where = f"at step {trainer.global_step}"
            raise self.stops.stopped(where, "go on with --resume", number)

    def received(self, trainer: pl.Trainer, device: torch.device) -> int:
        """The signal that some process has had, the same on all of them; 0: none."""
        if trainer.world_size == 1:
            return self.stops.received
        asked, self.asked = self.asked, None
        if trainer.global_step % self.every == 0:
            mine = torch.full((), float(self.stops.received), device=device)
            self.asked = Later(trainer.strategy.reduce(mine, reduce_op="max"))
        return int(asked.read()) if asked else 0

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # before the last panels and figures, which may take longer than a job is left
        self.saving.save_last(trainer)
