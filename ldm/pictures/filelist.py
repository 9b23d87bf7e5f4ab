"""The files of a folder as arrays: a million of them are 80 MB, which processes can share."""

import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ldm.errors import Refusal
from ldm.pictures.listing import Notes
from ldm.pictures.opening import Head
from ldm.pictures.transforms import Range
from ldm.system.arrays import Arrays, Words, drop

GREY, DEEP, FRAMES, BAD = 1, 2, 4, 8  # flags of a header
SPANS: tuple[Range | None, ...] = (None, (0.0, 65535.0), (0.0, 4095.0))  # of a type, by number


@dataclass
class Files:
    """The files of a folder, sorted by their paths; their numbers are those of the arrays.

    names and ends, folder (its number), shelf (listing.py), link, mark (CRC-32 of the path), size,
    mtime and ctime (ns), and of the header flags, side (the shorter) and span; `folder_time` is of
    every folder.
    """

    root: Path
    arrays: Arrays
    about: dict[str, Any]
    place: Path | None = None  # where it is kept
    check: "Future[str | None] | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.names = Words(self.arrays["names"], self.arrays["ends"])
        self.folders: list[str] = self.about["folders"]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, column: str) -> np.ndarray:
        return self.arrays[column]

    def relative(self, i: int) -> str:
        """The path of file i, from the root."""
        return os.path.join(self.folders[self.arrays["folder"][i]], self.names[i])

    def path(self, i: int) -> Path:
        return Path(self.root, self.relative(i))

    def on(self, shelf: int) -> np.ndarray:
        """The numbers of the files on a shelf."""
        return np.flatnonzero(self.arrays["shelf"] == shelf)

    def why(self, i: int) -> str:
        """Why a picture cannot be read."""
        return str(self.about["bad"][str(i)])

    def notes(self) -> Notes:
        """What of the folder was left out."""
        found = Notes(self.root)
        found.found = {(one, many): (n, first) for one, many, n, first in self.about["notes"]}
        return found

    def note(self, i: int, head: Head | str) -> None:
        """The header of a picture, or why it cannot be read."""
        if isinstance(head, str):
            self.arrays["flags"][i], self.about["bad"][str(i)] = BAD, head
            return
        self.about["bad"].pop(str(i), None)
        self.arrays["flags"][i] = GREY * head.grey | DEEP * head.deep | FRAMES * head.frames
        self.arrays["side"][i], self.arrays["span"][i] = head.shorter, SPANS.index(head.range)

    def runs(self, most: int) -> Iterator[tuple[int, int]]:
        """From and to of files of one folder, at most so many."""
        edges = (np.flatnonzero(np.diff(self.arrays["folder"])) + 1).tolist()
        for start, stop in zip([0, *edges], [*edges, len(self)], strict=True):
            yield from ((at, min(at + most, stop)) for at in range(start, stop, most))

    def expect_same(self) -> None:
        """Refusal where a file was written over while nothing of its folder changed."""
        if self.check is None or (name := self.check.result()) is None:
            return
        if self.place:
            with suppress(OSError):
                drop(self.place)
        raise Refusal(
            f"data.root: {self.root / name} has changed since this folder was first read; "
            "what was known of it is taken away: start again"
        )
