"""Weights & Biases. The only room that knows wandb."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from ldm.config import RunConfig
from ldm.config.schema import to_dict
from ldm.errors import Refusal, one_of
from ldm.training.boards.board import Board, TableRows, remove, surviving
from ldm.training.boards.wandb_legs import end_legs, sync_line
from ldm.training.ranks import announce, is_first

ANSWER = 10  # seconds that a table waits for the server
# of every panel; it travels in the payload: `step=` would drop rows that come out of order
AXIS = "trainer/global_step"
LOWER = ("loss", "fd", "kd", "fid", "kid", "rfd", "rfid", "lpips", "w1", "fpd")
HIGHER = (
    *("psnr", "ssim", "precision", "recall", "density", "coverage", "class_share"),
    *("images_per_second", "memory"),
)


def best(name: str) -> str | None:
    """min or max: which of a metric's values its run is judged by; None for neither."""
    section, _, rest = name.partition("/")
    floor = rest.endswith(("_floor", "/truth_vs_truth"))
    if floor or section not in ("train", "val", "evaluate", "speed"):
        return None
    return "min" if rest.startswith(LOWER) else "max" if rest.startswith(HIGHER) else None


def wandb_mode(run: RunConfig) -> str:
    """The config's mode, then WANDB_MODE, then online with a key, else offline: never a prompt."""
    if run.logger.kind not in ("wandb", "both"):
        return "disabled"
    if run.logger.mode != "auto":
        return run.logger.mode
    if mode := os.environ.get("WANDB_MODE"):
        if mode not in ("online", "offline", "disabled"):
            raise Refusal(one_of("WANDB_MODE", mode, ("online", "offline", "disabled")))
        return mode
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    key = os.environ.get("WANDB_API_KEY") or (
        netrc.exists() and "api.wandb.ai" in netrc.read_text(errors="ignore")
    )
    return "online" if key else "offline"


def wandb_board(run: RunConfig, run_id: str | None, mode: str) -> "WandbBoard":
    """The run in W&B; without a network, which would end it after 90 s, offline."""
    if is_first():
        end_legs(run.folder)
    os.environ["WANDB_MODE"] = mode  # not WandbLogger(offline=True), which refuses log_model
    os.environ.setdefault("WANDB_SILENT", "true")
    # a network lost in mid-run would keep the end of the run waiting for ever
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", "120")
    os.environ.setdefault("WANDB_FINISH_TIMEOUT_RAISES", "true")
    board = WandbBoard(run, run_id, mode)
    if mode != "online" or not is_first():
        return board
    import wandb

    os.environ.setdefault("WANDB_INIT_TIMEOUT", "30")
    try:
        board.start()
    except wandb.errors.Error as error:
        wandb.teardown()
        reason = str(error).splitlines()[0]
        why = f"W&B cannot be reached ({reason})"
        print(f"{why}; going on offline, to sync: {sync_line(run.folder)}", flush=True)
        return wandb_board(run, run_id, "offline")
    return board


class WandbBoard(Board, WandbLogger):
    """Lightning's logger, which names the axis of all panels, and what else a run shows.

    Both stages of one call are of one group, each a run of its own kind of job; a resumed run is
    the same run again.
    """

    title = "W&B"
    deaf = False  # whether the server did not answer

    def __init__(self, run: RunConfig, run_id: str | None, mode: str):
        settings = run.logger
        super().__init__(
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
        del self._wandb_init["anonymous"]  # None, and yet wandb warns of it
        self.stage, self.defined = run.stage, set[str]()
        self.place, self.found = run.folder / "wandb", {*(run.folder / "wandb").glob("*")}
        self.links = {path: path.readlink() for path in self.found if path.is_symlink()}
        # tables and artifacts wait there to be synced: with the run, and not in the home folder
        self.staging = None if "WANDB_DATA_DIR" in os.environ else str(run.folder / "wandb")
        if self.staging:
            os.environ["WANDB_DATA_DIR"] = self.staging

    def start(self) -> Any:
        """Begin the run, or get the one that has begun."""
        return super().experiment

    @property
    def experiment(self) -> Any:
        """The run; a deaf one if W&B could not begin it."""
        try:
            return self.start()
        except Exception as error:
            import wandb

            self.complain(error)
            self._experiment = wandb.init(mode="disabled")
            return self._experiment

    @rank_zero_only
    @surviving
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name in sorted(metrics.keys() - self.defined):
            self.defined.add(name)
            if goal := best(name):
                self.experiment.define_metric(name, step_metric=AXIS, summary=f"{goal},last")
        super().log_metrics(metrics, step)

    @surviving
    def picture(self, name: str, picture: Image.Image, caption: str, step: int) -> None:
        import wandb

        self.experiment.log({name: wandb.Image(picture, caption=caption), AXIS: step})

    @surviving
    def animation(self, name: str, path: Path, caption: str, step: int) -> None:
        import wandb

        video = wandb.Video(str(path), format="gif", caption=caption)
        self.experiment.log({name: video, AXIS: step})

    @surviving
    def table(self, name: str, rows: TableRows, step: int) -> None:
        import wandb

        if self.deaf:
            return
        data = [
            [wandb.Image(cell) if isinstance(cell, Image.Image) else cell for cell in row.values()]
            for row in rows
        ]
        payload = {name: wandb.Table(columns=list(rows[0]), data=data), AXIS: step}
        self.patiently(lambda: self.experiment.log(payload))

    def patiently(self, log: Callable[[], None]) -> None:
        """A table asks W&B's server before it returns, for minutes where the network is lost."""
        errors: list[Exception] = []

        def work() -> None:
            try:
                log()
            except Exception as error:
                errors.append(error)

        thread = Thread(target=work, daemon=True)
        thread.start()
        thread.join(ANSWER)
        if thread.is_alive():
            self.deaf = True
            raise TimeoutError(f"no answer for {ANSWER} s, no more tables are sent")
        if errors:
            raise errors[0]

    @surviving
    def checkpoints(self, folder: Path, step: int) -> None:
        """Versions of the artifact model-<run's id>, called best and last."""
        import wandb

        for alias in ("best", "last"):
            path = folder / f"{alias}.ckpt"
            if path.exists():
                about = {"stage": self.stage, "logged_at_step": step}
                artifact = wandb.Artifact(f"model-{self.version}", type="model", metadata=about)
                artifact.add_file(str(path), name=path.name)
                self.experiment.log_artifact(artifact, aliases=[alias])

    @surviving
    def alert(self, title: str, text: str) -> None:
        if self._experiment is not None:  # or there is no run yet, and nobody who watches one
            self.experiment.alert(title, text, wait_duration=3600)

    def discard(self) -> None:
        remove({*self.place.glob("*")} - self.found, self.place)
        # latest-run and the like lead to the leg before again
        for link, target in self.links.items():
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    def close(self, status: int) -> None:
        if self.staging:  # another stage has a folder of its own
            os.environ.pop("WANDB_DATA_DIR", None)
        self.finish(status)

    def finish(self, status: int) -> None:
        """End the run, so that a second stage in this process starts one of its own.

        What could not be sent stays on disk.
        """
        import wandb

        folder = Path(wandb.run.dir).parent if wandb.run else None
        try:
            wandb.finish(exit_code=status)
        except TimeoutError:
            sync = f"wandb sync --include-online {folder}"
            announce(f"W&B cannot be reached any more; nothing is lost, to upload the rest: {sync}")
        except Exception as error:
            self.complain(error)
            # or it would be tried again, and print why it fails, when Python ends
            with suppress(Exception):
                wandb.teardown()
        # its service died: the next stage would be logged to this run, and lost
        if wandb.run is not None:
            from wandb.sdk.lib import module

            module.unset_globals()
            with suppress(Exception):
                wandb.teardown()
