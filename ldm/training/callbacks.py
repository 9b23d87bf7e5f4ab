"""Callbacks: checkpoints, sample grids, reconstructions, throughput. The only room that knows wandb.

Every rank does its share of sampling and measuring; rank 0 alone writes and logs. Each panel is a PNG in the run's
folder and the same picture in Weights & Biases.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor

from ldm.checkpoint import write
from ldm.config import RunConfig
from ldm.data.batches import as_bytes, as_images
from ldm.errors import NotFinite, Stopped
from ldm.sampling import generate, to_picture
from ldm.schema import to_dict
from ldm.training.autoencoder import AutoencoderModule
from ldm.training.diffusion import DiffusionModule
from ldm.training.stage import Stage


def log_media(trainer: pl.Trainer, values: dict[str, Any]) -> None:
    """Send to W&B, if it is on. The step travels in the payload: `step=` would drop rows that come out of order."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.experiment.log(values | {"trainer/global_step": trainer.global_step})


def wandb_logger(run: RunConfig, run_id: str | None, mode: str) -> WandbLogger:
    """The run's W&B logger. Online without a network would end the run after 90 s: it goes on offline instead."""
    os.environ["WANDB_MODE"] = mode  # not WandbLogger(offline=True), which refuses log_model
    os.environ.setdefault("WANDB_SILENT", "true")
    settings = run.logger
    logger = WandbLogger(
        save_dir=run.folder,
        project=settings.project,
        entity=settings.entity,
        name=run.name,
        id=run_id or None,
        resume="allow" if mode == "online" else None,
        group=settings.group or run.name,
        tags=[*settings.tags, run.stage],
        job_type=run.stage,
        config=to_dict(run),
    )
    if mode != "online" or rank_zero_only.rank != 0:
        return logger
    import wandb

    os.environ.setdefault("WANDB_INIT_TIMEOUT", "30")
    try:
        logger.experiment  # noqa: B018  (the property starts the run)
    except wandb.errors.Error as error:
        wandb.teardown()
        reason = str(error).splitlines()[0]
        print(
            f"W&B cannot be reached ({reason}); going on offline, to sync: wandb sync {run.folder}/wandb/offline-run-*",
            flush=True,
        )
        return wandb_logger(run, run_id, "offline")
    return logger


def close_wandb(trainer: pl.Trainer) -> None:
    """End the run, so that a second stage in this process starts one of its own."""
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers) and trainer.is_global_zero:
        import wandb

        wandb.finish()


def panel(trainer: pl.Trainer, folder: Path, name: str, picture: Image.Image, caption: str) -> None:
    """Write samples/<name>-<step>.png, and log it."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{name}-{trainer.global_step:07d}.png")
    log_media(trainer, {f"{name}/grid": wandb.Image(picture, caption=caption)})


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


class Samples(EverySteps):
    """A grid of samples at seeds 0, 1, 2, ..., a column a class, by the averaged weights: comparable over time."""

    def show(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        settings, world = module.config.sample, trainer.world_size
        share = -(-settings.count // world)
        seeds = [trainer.global_rank + world * i for i in range(share)]
        training = module.training
        module.eval()
        with module.averaged():
            images = generate(module.model(), settings, seeds)
        module.train(training)
        images = torch.as_tensor(module.all_gather(images.to(module.device))).reshape(world, share, *images.shape[1:])
        images = images.transpose(0, 1).flatten(0, 1)[: settings.count].cpu()  # back into the order of the seeds
        if trainer.is_global_zero:
            solver = type(settings.solver).__name__
            caption = f"seeds 0-{settings.count - 1}, {solver}, {settings.steps} steps, guidance {settings.guidance}, ema"
            columns = len(module.classes) if 1 < len(module.classes) <= 16 else 0
            panel(trainer, self.folder, "samples", to_picture(images, columns), caption)


class Reconstructions(EverySteps):
    """The first held-out pictures above what the averaged autoencoder makes of them."""

    def __init__(self, folder: Path, every: int, images: Tensor):
        super().__init__(folder, every)
        self.images = images  # uint8 (N, C, H, W)

    @torch.no_grad()
    def show(self, trainer: pl.Trainer, module: AutoencoderModule) -> None:
        if not trainer.is_global_zero:
            return
        x = as_images({"image": self.images.to(module.device)})
        with module.averaged():
            x_hat = module.reconstruct(x, None)[0]
        pairs = torch.cat([self.images, as_bytes(x_hat).cpu()])
        panel(trainer, self.folder, "reconstructions", to_picture(pairs, len(self.images)), "above: held out; below: decoded")


class AtomicIO(TorchCheckpointIO):
    """Lightning's checkpoints through `checkpoint.write`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        write(checkpoint, Path(path))


class Checkpoints(pl.callbacks.Checkpoint):
    """last.ckpt every n steps, at the end and when asked to stop; best.ckpt by one validation metric.

    Saved between steps, at the start of the next: what belongs to the step before (its log row, its validation) is done.
    Lightning's ModelCheckpoint counts both optimisers' steps under manual optimisation and does not save at the end.
    """

    def __init__(self, folder: Path, every: int, monitor: str, mode: str):
        self.folder, self.every, self.monitor = folder, every, monitor
        self.sign = 1.0 if mode == "max" else -1.0
        self.best: float | None = None
        self.saved = -1

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def save_last(self, trainer: pl.Trainer) -> None:
        if trainer.global_step == self.saved:
            return
        self.saved = trainer.global_step
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger) and trainer.is_global_zero:
                logger.save()  # rows up to this step survive whatever comes
        trainer.save_checkpoint(self.folder / "last.ckpt")

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.saved = trainer.global_step  # what a run starts from need not be written again

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % module.config.trainer.accumulate == 0 and trainer.global_step % self.every == 0:
            self.save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None and (self.best is None or self.sign * float(value) > self.sign * self.best):
            self.best = float(value)
            trainer.save_checkpoint(self.folder / "best.ckpt")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.save_last(trainer)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        # raised on every rank before the step changed anything; after any other error the state is not to be trusted
        if isinstance(exception, NotFinite) and trainer.global_step > 0:
            self.save_last(trainer)


class StopSignals(pl.Callback):
    """SIGTERM, SIGUSR1 (SLURM's warning) and Ctrl-C let the step finish, save, and end with 128 + the signal's number.

    Lightning's own handlers raise in the middle of a step, or broadcast inside the handler. A second Ctrl-C stops at once.
    Processes agree on the step by a reduction every `every` steps; one process needs none.
    """

    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self, saving: Checkpoints, every: int = 10):
        self.saving, self.every, self.received = saving, every, 0
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for number in self.signals:
            self.before[number] = signal.signal(number, self.note)

    def note(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % module.config.trainer.accumulate:
            return
        number = self.received
        if trainer.world_size > 1:
            if trainer.global_step % self.every:
                return
            number = int(trainer.strategy.reduce(torch.tensor(float(number), device=module.device), reduce_op="max"))
        if number:
            self.saving.save_last(trainer)
            raise Stopped(number, f"stopped at step {trainer.global_step} by {signal.Signals(number).name}; go on with --resume")

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}


class Throughput(pl.Callback):
    """Pictures a second over all processes, the share of time spent waiting for data, memory. Never waits for the device."""

    def __init__(self, every: int):
        self.every, self.since, self.ended, self.waited = every, (0, 0.0), 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, module: Stage) -> None:
        self.ended = time.perf_counter()
        self.since = (module.images_seen, self.ended)

    def on_train_batch_start(self, trainer: pl.Trainer, module: Stage, batch: Any, batch_idx: int) -> None:
        self.waited += time.perf_counter() - self.ended

    def on_train_batch_end(self, trainer: pl.Trainer, module: Stage, *_: Any) -> None:
        self.ended = now = time.perf_counter()
        seen, span = module.images_seen, now - self.since[1]
        if trainer.global_step % self.every or seen == self.since[0]:
            return
        module.log("train/images_per_second", (seen - self.since[0]) / span, prog_bar=True)
        module.log("train/images_seen", float(seen))
        module.log("train/waiting_share", self.waited / span)
        self.since, self.waited = (seen, now), 0.0
        if module.device.type == "cuda":
            module.log("train/memory_gb", torch.cuda.max_memory_allocated() / 1e9)
