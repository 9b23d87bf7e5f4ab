"""The Trainer of a run: Lightning's, with our defaults, callbacks and loggers."""

import csv
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ldm import checkpoint
from ldm.config import AutoencoderConfig, Config, TrainerConfig
from ldm.data.images import Images
from ldm.errors import Refusal, one_of
from ldm.training.callbacks import AtomicIO, Checkpoints, Reconstructions, Samples, StopSignals, Throughput, wandb_logger
from ldm.training.stage import Stage


def precision(settings: TrainerConfig) -> str:
    """auto: bf16-mixed on a GPU that has it. On a CPU without AMX bf16 is many times slower than float32."""
    if settings.precision != "auto":
        return settings.precision
    on_gpu = settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def strategy(run: Config) -> str:
    """auto: Lightning's choice; with a discriminator under several processes DDP must look for unused parameters."""
    settings = run.trainer
    gan = isinstance(run, AutoencoderConfig) and run.discriminator.weight > 0
    several = settings.num_nodes > 1 or settings.devices not in ("auto", 1, "1") or torch.cuda.device_count() > 1
    return "ddp_find_unused_parameters_true" if settings.strategy == "auto" and gan and several else settings.strategy


def build_trainer(run: Config, module: Stage, images: Images, start: str | None) -> pl.Trainer:
    settings, manual = run.trainer, not module.automatic_optimization
    pictures, every = run.folder / "samples", settings.validate
    if isinstance(run, AutoencoderConfig):
        count = min(12, len(images.test))
        panels = Reconstructions(pictures, every, images.test.__getitems__(list(range(count)))["image"])
        saving = Checkpoints(run.folder, settings.save, "val/psnr", "max")
    else:
        panels = Samples(pictures, run.sample.every)
        saving = Checkpoints(run.folder, settings.save, "val/loss", "min")
    # a log file is no terminal: one line a hundred steps is enough there
    bar = pl.callbacks.TQDMProgressBar(refresh_rate=10 if sys.stderr.isatty() else 100)
    defaults = dict(
        max_epochs=-1,
        check_val_every_n_epoch=None,
        val_check_interval=min(every, settings.max_steps) * settings.accumulate,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=True,
    )
    arguments = dict(
        max_steps=settings.max_steps,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=strategy(run),
        precision=precision(settings),
        accumulate_grad_batches=1 if manual else settings.accumulate,
        default_root_dir=run.folder,
        logger=_loggers(run, module, start),
        callbacks=[saving, StopSignals(saving), panels, Throughput(settings.log), bar],
        plugins=_plugins(),
    )
    try:
        return pl.Trainer(**arguments, **defaults | settings.options)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise Refusal(f"trainer: Lightning refuses these settings: {' '.join(str(error).split())}") from None


def _plugins() -> list[Any]:
    """Atomic saves; and no requeueing by Lightning under SLURM, which would go by checkpoints of another name."""
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return [AtomicIO(), *slurm]


def wandb_mode(run: Config) -> str:
    """The config's mode, then WANDB_MODE, then online where a key is at hand; else offline: never a prompt."""
    if run.logger.mode != "auto":
        return run.logger.mode
    if mode := os.environ.get("WANDB_MODE"):
        if mode not in ("online", "offline", "disabled"):
            raise Refusal(one_of("WANDB_MODE", mode, ("online", "offline", "disabled")))
        return mode
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    key = os.environ.get("WANDB_API_KEY") or (netrc.exists() and "api.wandb.ai" in netrc.read_text(errors="ignore"))
    return "online" if key else "offline"


def _loggers(run: Config, module: Stage, start: str | None) -> list[Logger]:
    mode = wandb_mode(run)
    table = _csv(run.folder, start)
    return [table] if mode == "disabled" else [wandb_logger(run, module.run_id, mode), table]


def _is_validation(row: dict[str, str]) -> bool:
    """Validation after step n is part of the state at n; the training row n is of the step to come."""
    return any(value for key, value in row.items() if key.startswith("val/"))


def _csv(folder: Path, start: str | None) -> CSVLogger:
    """metrics.csv. Lightning's logger deletes an earlier one: a resumed run hands its rows back, up to its step."""
    path, rows = folder / "metrics.csv", []
    if start is not None and rank_zero_only.rank == 0 and path.exists():
        step = checkpoint.read(Path(start))["global_step"]
        with open(path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if float(row["step"]) < step + bool(_is_validation(row))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger = CSVLogger(folder, name="", version="")
        if rank_zero_only.rank == 0:
            for row in rows:
                values = {k: float(v) for k, v in row.items() if v and k != "step"}
                logger.experiment.log_metrics(values, row["step"])
    return logger
