"""A run: its plan, then each stage of it; where things go."""

import logging
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only

from ldm.config import AutoencoderConfig, Config
from ldm.errors import Refusal, command, ending
from ldm.system import threads
from ldm.system.data import DataSet
from ldm.system.stops import Stops, heard_stops
from ldm.training.boards.loggers import check_loggers, close_loggers, discard_loggers
from ldm.training.data import RunData
from ldm.training.estimate import TimeLeft
from ldm.training.folder import taken, wandb_id
from ldm.training.partners import lost_partner, partner_lost
from ldm.training.plan import Leg, in_words, make_plan, worth
from ldm.training.stage import Stage, say
from ldm.training.trainer import build_trainer, on_gpu


def train(
    run: Config, resume: bool = False, dry_run: bool = False, images: DataSet | None = None
) -> Path:
    """Train a config to its end and return the run's folder; stage 1 comes first where it is named and missing.

    `images`: the data, where the config names none that can be loaded (`Given`).
    """
    with heard_stops() as stops:
        return _train(run, resume, dry_run, stops, images)


def _train(
    run: Config, resume: bool, dry_run: bool, stops: Stops, images: DataSet | None = None
) -> Path:
    _quiet()
    check_loggers(run)
    if run.trainer.threads:
        threads.fixed(run.trainer.threads)
    elif not on_gpu(run.trainer):
        threads.auto()
    with ExitStack() as held:
        hold = (
            _nothing
            if dry_run or rank_zero_only.rank
            else lambda folder: held.enter_context(taken(folder))
        )
        legs = make_plan(run, resume, dry_run, hold, images)
        say(in_words(legs))
        if not dry_run:
            _train_legs(legs, stops)
    return run.folder


def _nothing(folder: Path) -> None:
    """The folder is not taken: in a dry run, or where another process of this run has it."""


def _train_legs(legs: list[Leg], stops: Stops) -> None:
    for number, leg in enumerate(legs, 1):
        if len(legs) > 1:
            stops.check("between the stages", "go on with --resume")
            say(f"stage {number} of {len(legs)}: {leg.run.name}")
        if not _train_leg(leg, legs[number:], stops):
            break  # trainer.options.max_time


def _train_leg(leg: Leg, later: Sequence[Leg], stops: Stops) -> bool:
    """One stage, from its checkpoint if it has one, others being to come later; whether it came to its end."""
    run, images, state = leg.run, leg.images, leg.state
    module = leg.ready()
    module.run_id = wandb_id(run.folder, state["ldm"].get("wandb_id") if state else None)
    estimate = TimeLeft(worth(leg, later))
    trainer = build_trainer(run, module, images, state.get("global_step"), stops, [estimate])
    _fit(run, trainer, module, RunData(run, images), leg.start, stops)
    done = (
        trainer.global_step >= run.trainer.max_steps
    )  # trainer.options.max_time may have ended it before
    say(_farewell(run) if done else f"stopped at step {trainer.global_step}; --resume goes on")
    leg.module = None
    return done


def _fit(
    run: Config, trainer: pl.Trainer, module: Stage, data: RunData, start: Path | None, stops: Stops
) -> None:
    """Train, and end the run on every board with what ended it."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=start and str(start), weights_only=True)
    except BaseException as error:
        told, began = _explained(error, trainer, run, stops), stops.training
        stops.rest("at its end", "go on with --resume")
        close_loggers(trainer, run, told)
        if not began and ending(told)[0] != 1:
            discard_loggers(trainer)
        if told is error:
            raise
        raise told from None
    stops.rest("after the last step", "all is saved")
    close_loggers(trainer, run, None)


def _explained(
    error: BaseException, trainer: pl.Trainer, run: Config, stops: Stops
) -> BaseException:
    """What a dead worker or process of the run raises in this one as the one line that it is; anything else as it came."""
    reset = (
        isinstance(error, ConnectionResetError) and run.data.workers > 0
    )  # it died while it was handing over a batch
    worker = reset or (isinstance(error, RuntimeError) and "DataLoader worker" in str(error))
    partner = not worker and lost_partner(error, trainer.world_size)
    if not (worker or partner):
        return error
    if stops.received:  # the signal went to all of them
        return stops.stopped(
            f"at step {trainer.global_step}", "go on from the last checkpoint with --resume"
        )
    if partner:
        return partner_lost(trainer.global_step, trainer.world_size)
    # PyTorch raises it from a signal handler, in the middle of whatever was going on: the state is not to be trusted
    return Refusal(
        f"a data worker died at step {trainer.global_step} ({_first(error)}): out of memory, or killed; "
        "--resume goes on from the last checkpoint, with data.workers=0 or fewer if it was memory"
    )


def _first(error: BaseException) -> str:
    return str(error).splitlines()[0].strip()


def _farewell(run: Config) -> str:
    if isinstance(run, AutoencoderConfig):
        return f"finished: {run.folder}/last.ckpt; a latent config names it as space.autoencoder={run.folder}"
    return f"finished. To sample: {command('sample')} --checkpoint {run.folder} --output samples/{run.name}"


def _quiet() -> None:
    """Lightning's tips and warnings about choices that were made on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        ".*Checkpoint directory.*",
        ".*litlogger.*",
        ".*tensorboardX.*",
        ".*in eval mode.*",
        ".*LeafSpec.*",
        ".*logs directory.*",
    ):
        warnings.filterwarnings("ignore", text)
