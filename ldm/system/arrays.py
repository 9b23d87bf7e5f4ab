"""Arrays in a folder, with a few words about them: there whole or not at all, mapped when read.

Processes that map the same files share one copy in memory. Nothing is unpickled, and a file that is
not what was written is not used.
"""

import json
import os
import shutil
import uuid
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

Arrays = dict[str, np.ndarray]


def write_arrays(folder: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Put them into a new folder in place of the one of that name; OSError where it cannot be."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        beside.mkdir()
        for name, part in arrays.items():
            np.save(beside / f"{name}.npy", part, allow_pickle=False)
        sums = {name: zlib.crc32(np.ascontiguousarray(a).data) for name, a in arrays.items()}
        (beside / "about.json").write_text(json.dumps({"sums": sums, "about": about}))
        drop(folder)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_arrays(folder: Path) -> tuple[Arrays, dict[str, Any]] | None:
    """Mapped arrays and what is said of them; None where there are none, or they are damaged."""
    try:
        said = json.loads((folder / "about.json").read_text())
        arrays = {name: _mapped(folder / f"{name}.npy") for name in said["sums"]}
        if {name: zlib.crc32(part.data) for name, part in arrays.items()} != said["sums"]:
            return None
        return arrays, dict(said["about"])
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _mapped(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def drop(folder: Path) -> None:
    """Take a folder of arrays away, its name first."""
    if folder.exists():
        away = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
        os.replace(folder, away)
        shutil.rmtree(away, ignore_errors=True)


class Words(Sequence[str]):
    """Texts in one array of bytes, each ended by a zero byte, and decoded when it is asked for.

    `ends` (N + 1,): where each begins, and the last ends. `errors`: what UTF-8 does with letters
    that it has not, in file names or in texts (surrogatepass).
    """

    def __init__(self, raw: np.ndarray, ends: np.ndarray, errors: str = "surrogateescape"):
        self.raw, self.ends, self.errors = raw, ends, errors

    @classmethod
    def of(cls, texts: Iterable[str], errors: str = "surrogateescape") -> "Words":
        """Of texts of which there may be too many to be held at once."""
        blob, ends = bytearray(), array("q", [0])
        for text in texts:
            blob += text.encode("utf-8", errors) + b"\0"
            ends.append(len(blob))
        return cls(np.frombuffer(blob, np.uint8), np.frombuffer(ends, np.int64), errors)

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        start, end = self.ends[i % len(self)], self.ends[i % len(self) + 1] - 1
        return self.raw[start:end].tobytes().decode("utf-8", self.errors)

    def joined(self, start: int, stop: int) -> bytes:
        """The texts start ... stop - 1, cut by zeros."""
        return self.raw[self.ends[start] : max(self.ends[start], self.ends[stop] - 1)].tobytes()

    def some(self, rows: list[int]) -> list[str]:
        """File names by rising numbers, of which most follow each other: those are cut at once."""
        if not rows or rows[-1] - rows[0] > 4 * len(rows):
            return [self[i] for i in rows]
        names = self.joined(rows[0], rows[-1] + 1).decode("utf-8", self.errors).split("\0")
        return [names[i - rows[0]] for i in rows]

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))
