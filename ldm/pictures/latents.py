"""The latent cache: posterior moments of a training set, computed once, in mapped files.

A folder is named by a fingerprint of autoencoder x data x orientations, so a stale one is never
met, and gets its name when it is whole, so neither is half of one. Each process that writes it has
files of its own (latent_writer.py), which hold consecutive rows. They are float16: its rounding is
below a thousandth of a latent's spread. Each row has a checksum. Up to CHECKED bytes of rows a
process, spread over the files, are compared when a cache is opened, and each row whenever it is
read: a damaged cache is computed again, and its numbers are never trained on.
"""

import contextlib
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ldm.errors import Refusal, say
from ldm.system.batches import Batch, Columns, rows_of
from ldm.system.rows import row_file

VERSION = 1  # of what a row holds, in the folder's name
COLUMNS = {"moments": np.float16, "label": np.int64, "index": np.int64, "sums": np.uint32}
CHECKED = 2 << 30  # bytes: 2 to 4 seconds of one core, if the disk keeps up
CHUNK = 64 << 20  # bytes that are in this process' own memory at once

Rows = Mapping[str, np.ndarray]


def cache_folder(root: Path, autoencoder: str, data: str, orientations: int) -> Path:
    """Where the latents of this autoencoder on this data lie."""
    key = hashlib.sha256(repr((VERSION, autoencoder, data, orientations)).encode()).hexdigest()[:16]
    return root / "latents" / key


def checksums(rows: Rows) -> np.ndarray:
    """CRC-32 of each row's moments, label and index: (N,)."""
    columns = (rows[name] for name in ("moments", "label", "index"))
    return np.array(
        [zlib.crc32(i, zlib.crc32(c, zlib.crc32(m))) for m, c, i in zip(*columns, strict=True)],
        np.uint32,
    )


def column_file(folder: Path, name: str, part: int) -> Path:
    """One column of one part: moments.npy of the first, moments.3.npy of the fourth."""
    return folder / (f"{name}.{part}.npy" if part else f"{name}.npy")


def header(part: np.ndarray) -> dict[str, Any]:
    """What a file of numbers says of itself before the first of them."""
    return {"dtype": part.dtype.str, "shape": list(part.shape), "fortran": bool(np.isfortran(part))}


class Joined:
    """Mapped files, one behind the other, as one array; `rows` are read from where they lie."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts, self.dtype = parts, parts[0].dtype
        self.ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self.ends[-1]), *parts[0].shape[1:])
        self.nbytes = sum(part.nbytes for part in parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Sequence[int] | slice) -> np.ndarray:
        """Copies of these rows, by number or by a slice."""
        if len(self.parts) == 1:
            return np.array(self.parts[0][rows])
        wanted = np.arange(len(self))[rows]
        found = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        which = np.searchsorted(self.ends, wanted, "right")
        for part in np.unique(which):
            here = which == part
            found[here] = self.parts[part][wanted[here] - self.ends[part] + len(self.parts[part])]
        return found


class LatentCache(Dataset):
    """Moments (N, orientations, 2 z, h, w): mean and log-variance of q(z | picture).

    Orientation 1 is the mirror image. A batch has the keys moments (not without `read`), label and
    index. Further keys (`columns` of the data set, as captions) are not in the files: whoever opens
    them gives the data set's own. Pickled, for a worker that is not forked, it is the files' names.
    All processes of a machine that map the files share one copy in its memory.
    """

    def __init__(self, folder: Path, read: bool = True, columns: Columns | None = None):
        self.folder, self.read, self.columns = folder, read, columns or {}
        count = len(json.loads((folder / "about.json").read_text()).get("more", [])) + 1
        mapped = lambda name, i: np.load(column_file(folder, name, i), mmap_mode="r")  # noqa: E731
        self.parts = {name: Joined([mapped(name, i) for i in range(count)]) for name in COLUMNS}

    def __reduce__(self) -> tuple[Any, ...]:
        self.columns = {
            key: column if isinstance(column, Tensor) else row_file(column)
            for key, column in self.columns.items()
        }
        return LatentCache, (self.folder, self.read, self.columns)

    def __len__(self) -> int:
        return len(self.parts["label"])

    def __getitem__(self, i: int) -> Batch:
        return self.__getitems__([i])

    def __getitems__(self, indices: list[int]) -> Batch:
        names = [name for name in COLUMNS if self.read or name not in ("moments", "sums")]
        rows = {name: self.parts[name][indices] for name in names}
        if self.read and not np.array_equal(checksums(rows), rows.pop("sums")):
            self.refuse()
        batch: Batch = {name: torch.from_numpy(part) for name, part in rows.items()}
        # by the picture's own index: an unreadable one has another in its place
        return batch | rows_of(self.columns, batch["index"].tolist())

    @property
    def size(self) -> int:
        """Of the moments, bytes."""
        return self.parts["moments"].nbytes

    def is_whole(self, rows: slice = slice(None)) -> bool:
        """Whether these rows are what was written."""
        parts = {name: part[rows] for name, part in self.parts.items()}
        return np.array_equal(checksums(parts), parts["sums"])

    def chunks(self, step: int = 1, first: int = 0) -> Iterator[slice]:
        """Every `step`-th row from `first` on, in pieces of at most CHUNK bytes."""
        length = max(1, CHUNK * len(self) // max(1, self.size)) * step
        starts = range(first, len(self), length)
        return (slice(start, min(start + length, len(self)), step) for start in starts)

    def discard(self) -> None:
        """Take away its mark of being whole: whoever opens it next computes a new one."""
        with contextlib.suppress(OSError):
            (self.folder / "about.json").unlink()

    def refuse(self) -> NoReturn:
        """Discard the cache once a damaged row is in use."""
        self.discard()
        raise Refusal(
            f"latent cache: {self.folder} has changed since it was written (a bad disk, or another "
            "program); it is left "
            "alone from now on: run again, with --resume if there is a checkpoint, and it is "
            "computed again"
        )

    def table(self, device: torch.device) -> Tensor | None:
        """All moments, on a device, a chunk at a time; None, and discarded, if a row is damaged."""
        found = torch.empty(self.parts["moments"].shape, dtype=torch.float16, device=device)
        for rows in self.chunks():
            parts = {name: part[rows] for name, part in self.parts.items()}
            if not np.array_equal(checksums(parts), parts["sums"]):
                self.discard()
                return None
            found[rows] = torch.from_numpy(parts["moments"]).to(device)
        return found


def examine(folder: Path, rank: int = 0, world: int = 1) -> LatentCache | str | None:
    """The cache in a folder, what is wrong with it, or None where there is none.

    `world` processes each look at other rows.
    """
    if not folder.is_dir():
        return None
    if not (folder / "about.json").exists():  # taken away by `discard`
        return f"{folder} was found damaged; computed again"
    try:
        about = json.loads((folder / "about.json").read_text())
        found = LatentCache(folder)
        _expect_headers(about, found.parts)
        step = max(1, -(-found.size // CHECKED // world)) * world
        if not all(found.is_whole(rows) for rows in found.chunks(step, rank % max(1, step))):
            raise ValueError("a row is not what was written")
        return found
    except (OSError, ValueError, KeyError, AttributeError, TypeError, EOFError) as error:
        return f"{folder} is damaged ({_first_line(error)}); computed again"


def open_cache(folder: Path) -> LatentCache | None:
    """The cache in a folder; None where there is none, or where it is damaged."""
    found = examine(folder)
    if isinstance(found, str):
        say(f"latent cache: {found}")
        return None
    return found


def _expect_headers(about: Mapping[str, Any], columns: Mapping[str, Joined]) -> None:
    """ValueError where files are not those that about.json is of."""
    for i, part in enumerate([about.get("parts"), *about.get("more", [])]):
        if {name: header(column.parts[i]) for name, column in columns.items()} != part:
            raise ValueError("its parts are not those that were written")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
