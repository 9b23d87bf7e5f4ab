"""The Trainer of a run: Lightning's, with our defaults, callbacks and loggers."""

import inspect
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from ldm.config import RunConfig, TrainerConfig
from ldm.errors import Refusal
from ldm.system.data import DataSet
from ldm.system.stops import Stops
from ldm.training.boards.loggers import build_loggers
from ldm.training.machine import machine_arguments, quicken
from ldm.training.panels.registry import figures_of, panel_of
from ldm.training.partners import Partners
from ldm.training.saving import AtomicIO, Checkpoints, RunFiles, Snapshots, StopSignals
from ldm.training.stage import Stage
from ldm.training.watching import DiscriminatorBalance, Throughput

# DDP's switch for it, by its name in this PyTorch
_KNOWN = inspect.signature(DistributedDataParallel).parameters
_EACH_STEP = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in _KNOWN)


def build_trainer(
    module: Stage,
    images: DataSet,
    step: int | None,
    stops: Stops | None = None,
    more: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """The Trainer of a stage that goes on from `step`, with the further callbacks `more`.

    Refusal for settings that Lightning will not take.
    """
    run, settings = module.config, module.config.trainer
    quicken(module.worked, settings)
    saving, panel = Checkpoints(module), panel_of(module, images)
    stopping = StopSignals(saving, stops or Stops())
    watching = [Partners(), *_extra(module, images), RunFiles(module), panel, Throughput(module)]
    arguments = dict(
        accumulate_grad_batches=settings.accumulate if module.automatic_optimization else 1,
        default_root_dir=run.folder,
        logger=build_loggers(run, module.run_id, step),
        callbacks=[saving, stopping, *more, *watching],
        plugins=_plugins(),
    )
    shown = dict(enable_progress_bar=any(isinstance(one, pl.callbacks.ProgressBar) for one in more))
    defaults = _defaults(settings) | shown
    return _lightning(machine_arguments(run) | arguments | defaults | settings.options)


def check_trainer(run: RunConfig) -> pl.Trainer:
    """A bare Trainer. Refusal for what Lightning will not take, before anything is written."""
    nothing = dict(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=_plugins(),
    )
    return _lightning(machine_arguments(run) | nothing | run.trainer.options)


def _defaults(settings: TrainerConfig) -> dict[str, Any]:
    """The Trainer arguments that trainer.options may replace."""
    return dict(
        max_epochs=-1,
        check_val_every_n_epoch=None,
        val_check_interval=min(settings.validate, settings.max_steps) * settings.accumulate,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=True,
    )


def _extra(module: Stage, images: DataSet) -> list[pl.Callback]:
    """What not every run has."""
    run, found = module.config, list[pl.Callback]()
    if run.optim.posthoc and module.ema:
        found.append(Snapshots(run, module.ema))
    if run.adversarial:
        found.append(DiscriminatorBalance(run.trainer.log))
    if figures := figures_of(module, images):
        figures.warn()
        found.append(figures)
    return found


def _lightning(arguments: dict[str, Any]) -> pl.Trainer:
    try:
        trainer = pl.Trainer(**arguments)
    except Exception as error:  # Lightning and what it asks raise whatever they like
        why = " ".join(str(error).split())
        raise Refusal(f"trainer: Lightning refuses these settings: {why}") from None
    if isinstance(trainer.strategy, DDPStrategy):
        # what buffers there are is measured by all ranks together: none is sent in every step
        trainer.strategy._ddp_kwargs.setdefault(_EACH_STEP, False)
    return trainer


def _plugins() -> list[Any]:
    """Atomic saves; under SLURM no requeueing by Lightning, which goes by other checkpoints."""
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return [AtomicIO(), *slurm]
