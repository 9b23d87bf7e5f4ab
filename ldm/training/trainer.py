"""The Trainer of a run: Lightning's, with our defaults, callbacks and loggers."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch import nn

from ldm.config import AutoencoderConfig, Config, DiffusionConfig, TrainerConfig
from ldm.errors import Refusal
from ldm.system.data import DataSet
from ldm.system.stops import Stops
from ldm.training.boards.loggers import build_loggers
from ldm.training.panels.pictures import Reconstructions, Samples
from ldm.training.partners import Partners
from ldm.training.saving import AtomicIO, Checkpoints, RunFiles, Snapshots, StopSignals
from ldm.training.stage import Stage
from ldm.training.watching import DiscriminatorBalance, Throughput

SHOWN = 8  # held-out pictures in the panel of a trained task


def on_gpu(settings: TrainerConfig) -> bool:
    """Whether a run will be on CUDA."""
    return settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def quicken(net: nn.Module, settings: TrainerConfig) -> None:
    """Memory format and compilation as the settings say; in place, so that the weights keep their names."""
    chosen = {
        key: on_gpu(settings) if (v := getattr(settings, key)) == "auto" else v
        for key in ("compile", "channels_last")
    }
    if chosen["channels_last"]:
        net.to(memory_format=torch.channels_last)
    if chosen["compile"]:
        net.compile()


def precision(settings: TrainerConfig) -> str:
    """auto: bf16-mixed on a GPU that has it. On a CPU without AMX bf16 is many times slower than float32."""
    if settings.precision != "auto":
        return settings.precision
    return (
        "bf16-mixed"
        if on_gpu(settings) and torch.cuda.is_bf16_supported(including_emulation=False)
        else "32-true"
    )


def strategy(run: Config) -> str:
    """auto: Lightning's choice; with a discriminator under several processes DDP must look for unused parameters."""
    settings = run.trainer
    gan = isinstance(run, AutoencoderConfig) and run.discriminator.weight > 0
    several = (
        settings.num_nodes > 1
        or settings.devices not in ("auto", 1, "1")
        or torch.cuda.device_count() > 1
    )
    return (
        "ddp_find_unused_parameters_true"
        if settings.strategy == "auto" and gan and several
        else settings.strategy
    )


def world_size(settings: TrainerConfig) -> int:
    """Processes of a run, over all nodes."""
    devices = settings.devices
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if devices in ("auto", -1, "-1"):
        count = max(1, torch.cuda.device_count()) if settings.accelerator != "cpu" else 1
    else:
        count = (
            len(devices)
            if isinstance(devices, list)
            else len(str(devices).split(","))
            if "," in str(devices)
            else int(devices)
        )
    return count * settings.num_nodes


def build_trainer(
    run: Config,
    module: Stage,
    images: DataSet,
    step: int | None,
    stops: Stops | None = None,
    more: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """The Trainer of a stage, with `more` callbacks besides its own; Refusal for settings that Lightning will not take."""
    settings, manual = run.trainer, not module.automatic_optimization
    quicken(module.net, settings)
    pictures, every = run.folder / "samples", settings.validate
    if isinstance(run, AutoencoderConfig):
        panels = Reconstructions(pictures, every, images.shown(12))
        saving = Checkpoints(run.folder, settings.save, "val/psnr", "max")
    else:
        panels = _sample_panels(run, images)
        saving = Checkpoints(run.folder, settings.save, "val/loss", "min")
    extra = [Snapshots(run.folder, run.optim.posthoc)] if run.optim.posthoc else []
    if isinstance(run, AutoencoderConfig) and run.discriminator.weight:
        extra.append(DiscriminatorBalance(settings.log))
    if run.evaluate.every:
        from ldm.training.panels.evaluation import Evaluation  # slow to import

        extra.append(Evaluation(run, images))
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
        **_machine(run),
        accumulate_grad_batches=1 if manual else settings.accumulate,
        default_root_dir=run.folder,
        logger=build_loggers(run, module, step),
        callbacks=[
            saving,
            StopSignals(saving, stops or Stops()),
            Partners(),
            *extra,
            *more,
            RunFiles(),
            panels,
            Throughput(settings.log),
            bar,
        ],
        plugins=_plugins(),
    )
    return _lightning(**arguments, **defaults | settings.options)


def check_trainer(run: Config) -> None:
    """Refusal for what Lightning will not take, before anything is written."""
    nothing = dict(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    _lightning(**_machine(run), plugins=_plugins(), **nothing | run.trainer.options)


def _machine(run: Config) -> dict[str, Any]:
    settings = run.trainer
    return dict(
        max_steps=settings.max_steps,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=strategy(run),
        precision=precision(settings),
    )


def _lightning(**arguments: Any) -> pl.Trainer:
    try:
        return pl.Trainer(**arguments)
    except Exception as error:  # Lightning and what it asks raise whatever they like
        raise Refusal(
            f"trainer: Lightning refuses these settings: {' '.join(str(error).split())}"
        ) from None


def _sample_panels(run: DiffusionConfig, images: DataSet) -> pl.Callback:
    if run.task.use is not None:
        from ldm.training.panels.tasks import TaskPanel

        return TaskPanel(run.folder / "samples", run.sample.every, images.shown(SHOWN))
    if run.data.modality == "pictures":
        return Samples(run.folder / "samples", run.sample.every)
    from ldm.training.panels.jets import JetPanels  # matplotlib is slow to import

    return JetPanels(run.folder / "samples", run.sample.every, run.sample.count, images.held_out)


def _plugins() -> list[Any]:
    """Atomic saves; and no requeueing by Lightning under SLURM, which would go by checkpoints of another name."""
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return [AtomicIO(), *slurm]
