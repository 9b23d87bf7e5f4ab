"""Files that are there whole or not at all, whatever happens to the process or the disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: Path, mode: str = "w", **options: Any) -> Iterator[IO]:
    """A file that replaces `path` once it is complete and on the disk.

    What was there stays if anything goes wrong.
    """
    beside = path.with_name(f"{path.name}.partial")
    try:
        with open(beside, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def default_cache() -> Path:
    """$XDG_CACHE_HOME/ldm, else ~/.cache/ldm."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldm"
