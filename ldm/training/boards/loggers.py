"""Where a run is shown: metrics.csv always, W&B or TensorBoard or both as logger.kind says."""

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from PIL import Image

from ldm.config import RunConfig
from ldm.errors import Stopped, ending
from ldm.training.boards.board import Board, TableRows
from ldm.training.boards.metrics_file import MetricsFile
from ldm.training.boards.wandb_legs import sync_line
from ldm.training.boards.weights_and_biases import wandb_board, wandb_mode
from ldm.training.ranks import announce


def check_loggers(run: RunConfig) -> None:
    """Refusal if what the config asks for cannot be had; before anything is built."""
    wandb_mode(run)
    if run.logger.kind in ("tensorboard", "both"):
        from ldm.training.boards.tensorboard import check_installed

        check_installed()


def build_loggers(run: RunConfig, run_id: str | None, step: int | None) -> list[Logger]:
    """The boards of logger.kind, and metrics.csv, whose rows before `step` a resumed run keeps.

    `run_id`: W&B's.
    """
    loggers: list[Logger] = []
    if (mode := wandb_mode(run)) != "disabled":
        loggers.append(wandb_board(run, run_id, mode))
    if run.logger.kind in ("tensorboard", "both"):
        from ldm.training.boards.tensorboard import TensorBoard

        loggers.append(TensorBoard(run, step))
    return [*loggers, MetricsFile(run.folder, step)]


def where_shown(run: RunConfig) -> list[str]:
    """Lines for the person who watches: where the run can be looked at, and how to sync."""
    mode = wandb_mode(run)
    sync = f"; to sync: {sync_line(run.folder)}" if mode == "offline" else ""
    lines = [f"W&B        {mode}{sync}"]
    if run.logger.kind in ("tensorboard", "both"):
        lines.append(f"board      tensorboard --logdir {run.folder}/tensorboard")
    return lines


def _boards(trainer: pl.Trainer) -> list[Board]:
    """Rank 0 shows."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger for logger in loggers if isinstance(logger, Board)]


def log_picture(trainer: pl.Trainer, name: str, picture: Image.Image, caption: str) -> None:
    """A panel `name` of the run, on every board; boards step through it by the training step."""
    for board in _boards(trainer):
        board.picture(name, picture, caption, trainer.global_step)


def log_animation(trainer: pl.Trainer, name: str, path: Path, caption: str) -> None:
    """A GIF as a panel `name` of the run, on every board."""
    for board in _boards(trainer):
        board.animation(name, path, caption, trainer.global_step)


def log_table(trainer: pl.Trainer, name: str, rows: TableRows) -> None:
    """Rows with the same columns as a panel `name` of the run, on every board."""
    for board in _boards(trainer):
        board.table(name, rows, trainer.global_step)


def alert(trainer: pl.Trainer, title: str, text: str) -> None:
    """Alert the person who watches: here, and by W&B's alert where it is on."""
    for board in _boards(trainer):
        board.alert(title, text)
    announce(f"{title}: {text}")


def close_loggers(trainer: pl.Trainer, run: RunConfig, error: BaseException | None) -> None:
    """End the run on every board with the script's exit status; an alert unless that is 0.

    Its checkpoints go with it if logger.log_model says so.
    """
    status, line = ending(error) if error else (0, "")
    for board in _boards(trainer):
        if status:
            title = "run stopped" if isinstance(error, Stopped) else "run died"
            board.alert(title, f"{line} (status {status})")
        if run.logger.log_model:
            board.checkpoints(run.folder, trainer.global_step)
        board.close(status)


def discard_loggers(trainer: pl.Trainer) -> None:
    """A run that was refused before its first step leaves nothing on the disk."""
    for board in _boards(trainer):
        board.discard()
    for logger in trainer.loggers if trainer.is_global_zero else []:
        if isinstance(logger, MetricsFile):
            logger.discard()
