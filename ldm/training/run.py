"""A run: its plan, then each stage of it; where things go."""

import logging
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import lightning.pytorch as pl

from ldm.config import Config, RunConfig
from ldm.errors import Refusal, ending
from ldm.system import threads
from ldm.system.data import DataSet
from ldm.system.stops import Stops, catch_stops
from ldm.training.boards.loggers import check_loggers, close_loggers, discard_loggers
from ldm.training.data import RunData
from ldm.training.estimate import TimeLeft
from ldm.training.folder import hold_folder, wandb_id
from ldm.training.legs import Leg
from ldm.training.machine import compiles, on_gpu
from ldm.training.partners import lost_partner, partner_lost
from ldm.training.plan import make_plan
from ldm.training.progress import Progress
from ldm.training.ranks import announce, is_first
from ldm.training.stage import Stage
from ldm.training.trainer import build_trainer
from ldm.training.words import describe_plan

RESUME = "go on with --resume"


def train_run(
    run: Config,
    resume: bool = False,
    dry_run: bool = False,
    images: DataSet | None = None,
    for_cpu: str | None = None,
) -> Path:
    """Train a config to its end and return the run's folder.

    Stage 1 comes first where it is named and missing. `images`: the data, where the config names
    none that can be loaded (`Given`). `for_cpu`: the config that does the same on a CPU.
    """
    with catch_stops() as stops, ExitStack() as held:
        _quiet()
        check_loggers(run)
        if run.trainer.threads:
            threads.fixed(run.trainer.threads)
        # with another number of threads a compiled step would be compiled anew
        elif not (on_gpu(run.trainer) or compiles(run.trainer)):
            threads.auto()

        def hold(folder: Path) -> None:
            if is_first() and not dry_run:
                held.enter_context(hold_folder(folder))

        legs = make_plan(run, resume, dry_run, hold, images)
        announce(describe_plan(legs, dry_run, for_cpu))
        if not dry_run:
            _train_legs(legs, stops)
    return run.folder


def _train_legs(legs: list[Leg], stops: Stops) -> None:
    for number, leg in enumerate(legs, 1):
        if len(legs) > 1:
            stops.check("between the stages", RESUME)
            announce(f"\nstage {number} of {len(legs)}: {leg.run.name}")
        name = f"stage {number} of {len(legs)}" if len(legs) > 1 else "training"
        if not _train_leg(leg, legs[number:], name, stops):
            break  # trainer.options.max_time


def _train_leg(leg: Leg, later: Sequence[Leg], name: str, stops: Stops) -> bool:
    """One stage, from its checkpoint if it has one; whether it came to its end."""
    run, images, state = leg.run, leg.images, leg.state
    module = leg.ready()
    module.run_id = wandb_id(run.folder, state["ldm"].get("wandb_id") if state else None)
    worth, shown = leg.worth(later), run.trainer.options.get("enable_progress_bar", True)
    watching = [*([Progress(name, sum(worth.values()))] if shown else []), TimeLeft(worth)]
    trainer = build_trainer(module, images, state.get("global_step"), stops, watching)
    _fit(trainer, module, RunData(run, images), leg.start, stops)
    # trainer.options.max_time may have ended it before
    done = trainer.global_step >= run.trainer.max_steps
    stopped = f"stopped at step {trainer.global_step}; --resume goes on"
    finished = f"finished: {run.folder}/last.ckpt" if later else module.farewell()
    announce(finished if done else stopped)
    del leg.module
    return done


def _fit(
    trainer: pl.Trainer, module: Stage, data: RunData, start: Path | None, stops: Stops
) -> None:
    """Train, and end the run on every board with what ended it."""
    run = module.config
    try:
        trainer.fit(module, datamodule=data, ckpt_path=start and str(start), weights_only=True)
    except BaseException as error:
        shown, began = _explained(error, trainer, run, stops), stops.training
        stops.rest("at its end", RESUME)
        close_loggers(trainer, run, shown)
        if not began and ending(shown)[0] != 1:
            discard_loggers(trainer)
        if shown is error:
            raise
        raise shown from None
    stops.rest("after the last step", "all is saved")
    close_loggers(trainer, run, None)


def _explained(
    error: BaseException, trainer: pl.Trainer, run: RunConfig, stops: Stops
) -> BaseException:
    """A dead worker's or process' error as one line; any other error unchanged."""
    # it died while it was handing over a batch
    reset = isinstance(error, ConnectionResetError) and run.data.workers > 0
    worker = reset or (isinstance(error, RuntimeError) and "DataLoader worker" in str(error))
    step, world = trainer.global_step, trainer.world_size
    partner = not worker and lost_partner(error, world)
    if not (worker or partner):
        return error
    if stops.received:  # the signal went to all of them
        return stops.stopped(f"at step {step}", "go on from the last checkpoint with --resume")
    if partner:
        return partner_lost(step, world)
    # PyTorch raises it from a signal handler, in the middle of whatever was going on: the state is
    # not to be trusted
    why = str(error).splitlines()[0].strip()
    return Refusal(
        f"a data worker died at step {step} ({why}): out of memory, or killed; --resume goes on "
        "from the last checkpoint, with data.workers=0 or fewer if it was memory"
    )


def _quiet() -> None:
    """Lightning's tips and warnings about choices that were made on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        "does not have many workers",
        "Checkpoint directory",
        "litlogger",
        "tensorboardX",
        "in eval mode",
        "LeafSpec",
        "logs directory",
        "sync_dist",
        "attribute of a Tensor that is not a leaf",  # of PyTorch to itself, while it compiles
    ):
        warnings.filterwarnings("ignore", f".*{text}.*")
    for category in (FutureWarning, DeprecationWarning):  # of torch's, to Lightning
        warnings.filterwarnings("ignore", category=category, module=r"lightning\.")
