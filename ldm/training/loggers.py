"""Weights & Biases and metrics.csv. The only room that knows wandb."""

import csv
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from ldm.config import Config, RunConfig
from ldm.errors import Refusal, one_of
from ldm.schema import to_dict
from ldm.training.stage import Stage, say


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


def build_loggers(run: Config, module: Stage, step: int | None) -> list[Logger]:
    """W&B, unless it is off, and metrics.csv, whose rows before `step` a resumed run keeps."""
    mode = wandb_mode(run)
    table = MetricsFile(run.folder, step)
    return [table] if mode == "disabled" else [wandb_logger(run, module.run_id, mode), table]


def wandb_logger(run: RunConfig, run_id: str | None, mode: str) -> WandbLogger:
    """The run's W&B logger. Online without a network would end the run after 90 s: it goes on offline instead."""
    os.environ["WANDB_MODE"] = mode  # not WandbLogger(offline=True), which refuses log_model
    os.environ.setdefault("WANDB_SILENT", "true")
    # a network lost in mid-run would keep the end of the run waiting for ever
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", "120")
    os.environ.setdefault("WANDB_FINISH_TIMEOUT_RAISES", "true")
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


def log_media(trainer: pl.Trainer, values: dict[str, Any]) -> None:
    """Send to W&B, if it is on. The step travels in the payload: `step=` would drop rows that come out of order."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.experiment.log(values | {"trainer/global_step": trainer.global_step})


def log_picture(trainer: pl.Trainer, name: str, picture: Image.Image, caption: str) -> None:
    """A panel `name` of the run in W&B."""
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        import wandb

        log_media(trainer, {name: wandb.Image(picture, caption=caption)})


def log_animation(trainer: pl.Trainer, name: str, path: Path, caption: str) -> None:
    """A GIF as a panel `name` of the run in W&B."""
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        import wandb

        log_media(trainer, {name: wandb.Video(str(path), format="gif", caption=caption)})


def alert(trainer: pl.Trainer, title: str, text: str) -> None:
    """Say it to the person who watches: here, and by W&B's alert where it is on."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.experiment.alert(title, text, wait_duration=3600)
    say(f"{title}: {text}")


def close_wandb(trainer: pl.Trainer) -> None:
    """End the run, so that a second stage in this process starts one of its own; what could not be sent stays on disk."""
    if not (any(isinstance(logger, WandbLogger) for logger in trainer.loggers) and trainer.is_global_zero):
        return
    import wandb

    folder = Path(wandb.run.dir).parent if wandb.run else None
    try:
        wandb.finish()
    except TimeoutError:
        say(f"W&B cannot be reached any more; nothing is lost, to upload the rest: wandb sync {folder}")


# -- metrics.csv ------------------------------------------------------------------------------------------------------------
def _before(row: dict[str, str | None], step: int) -> bool:
    """Whether a row is of the state at `step`: validation after step n is, the training row n is of the step to come.

    A row that a kill cut short lacks its last columns; such a row was written after the checkpoint.
    """
    if None in row.values() or None in row:
        return False
    validation = any(value for key, value in row.items() if key.startswith("val/"))
    return float(row["step"] or "inf") < step + validation


class _Writer(ExperimentWriter):
    """Lightning's, less the moments at which a kill would lose rows: it deletes an earlier file, and rewrites in place."""

    def _check_log_dir_exists(self) -> None:
        pass

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self.rewrite(self.read(), fieldnames)

    def read(self) -> list[dict[str, Any]]:
        with open(self.metrics_file_path, newline="") as file:
            return list(csv.DictReader(file))

    def rewrite(self, rows: list[dict[str, Any]], fieldnames: list[str]) -> None:
        """Beside it, then renamed."""
        beside = self.metrics_file_path + ".partial"
        with open(beside, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=fieldnames)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(beside, self.metrics_file_path)


class MetricsFile(CSVLogger):
    """metrics.csv in the run's folder, whole at any moment; a resumed run goes on after the rows before its step."""

    def __init__(self, folder: Path, step: int | None):
        super().__init__(folder, name="", version="")
        if rank_zero_only.rank == 0:
            self._experiment = self._open(step)

    def _open(self, step: int | None) -> _Writer:
        writer = _Writer(self.log_dir)
        if not os.path.exists(writer.metrics_file_path):
            return writer
        rows = [row for row in writer.read() if _before(row, step)] if step is not None else []
        writer.metrics_keys = sorted(rows[0]) if rows else ["step"]
        writer.rewrite(rows, writer.metrics_keys)
        return writer
