"""A list that data workers read from a file, where they would else each be sent all of it."""

import contextlib
import os
import pickle
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np


class RowFile(Sequence[Any]):
    """The rows of a list in a temporary file of ours.

    Pickled it is the file's name; the file goes with its maker. A worker that is not forked (macOS,
    Windows) is given its data set pickled: of a million pictures, or their captions, this is a
    hundred bytes instead of as many megabytes, and each row is read when it is asked for.
    """

    def __init__(self, rows: Sequence[Any]):
        blobs = [pickle.dumps(row, pickle.HIGHEST_PROTOCOL) for row in rows]
        # readable by us alone: what is read back is what we wrote
        handle, path = tempfile.mkstemp(prefix="ldm-rows-")
        with open(handle, "wb") as file:
            np.cumsum([0, *map(len, blobs)], dtype=np.int64).tofile(file)
            file.writelines(blobs)
        weakref.finalize(self, _remove, path, os.getpid())
        self._open(path, len(blobs))

    def _open(self, path: str, size: int) -> None:
        self.path, self.size = path, size
        self.ends = np.memmap(path, np.int64, "r", shape=(size + 1,))
        self.bytes = np.memmap(path, np.uint8, "r")

    def __getstate__(self) -> tuple[str, int]:
        return self.path, self.size

    def __setstate__(self, state: tuple[str, int]) -> None:
        self._open(*state)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: Any) -> Any:
        if not -self.size <= i < self.size:
            raise IndexError(i)
        start, end = (8 * (self.size + 1) + int(at) for at in self.ends[i % self.size :][:2])
        return pickle.loads(self.bytes[start:end].data)


def _remove(path: str, maker: int) -> None:
    if os.getpid() == maker:  # a forked worker has a copy of the object, not the file
        # Windows, while a worker has it open: the system's own cleaning takes it
        with contextlib.suppress(OSError):
            os.unlink(path)


def row_file(rows: Sequence[Any]) -> RowFile:
    """The rows as a RowFile, if they are none yet."""
    return rows if isinstance(rows, RowFile) else RowFile(rows)
