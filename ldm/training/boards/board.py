"""What a place that shows a run can take: pictures, animations, tables, checkpoints, alerts.

Whatever fails there is one line and no end to the training: metrics.csv and the run's folder have
it all.
"""

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.training.ranks import announce

TableRows = list[dict[str, Any]]  # column -> text, number or picture


def surviving(method: Callable[..., Any]) -> Callable[..., Any]:
    """Report what a board's method raises once, and go on."""

    @wraps(method)
    def call(self: "Board", *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # a lost socket, a full disk, a bug of its own
            self.complain(error)
            return None

    return call


class Board:
    """A logger that shows more than numbers, and never stops a run. Called on rank 0 alone."""

    title: str
    complained = False

    def complain(self, error: Exception) -> None:
        if not self.complained:
            self.complained = True
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            announce(
                f"warning: {self.title} fails ({reason}); training goes on, "
                "metrics.csv and the run's folder have it all"
            )

    def picture(self, name: str, picture: Image.Image, caption: str, step: int) -> None:
        raise NotImplementedError

    def animation(self, name: str, path: Path, caption: str, step: int) -> None:
        raise NotImplementedError

    def table(self, name: str, rows: TableRows, step: int) -> None:
        raise NotImplementedError

    def checkpoints(self, folder: Path, step: int) -> None:
        """Keep best.ckpt and last.ckpt, where the board can."""

    def alert(self, title: str, text: str) -> None:
        """Alert the person who watches, where the board can."""

    def close(self, status: int) -> None:
        """End the run, with the status of the script."""

    def discard(self) -> None:
        """Take away what this run, refused before its first step, has put on the disk."""


def remove(paths: Iterable[Path], parent: Path) -> None:
    """Files, links and folders that a board has made, and their folder if nothing else is there."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        parent.rmdir()
