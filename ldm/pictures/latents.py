"""The latent cache: posterior moments of a training set, computed once, in one mapped file.

A folder is named by a fingerprint of autoencoder x data x orientations, so a stale one is never
met, and gets its name when it is whole, so neither is half of one. The file is float16: its
rounding is below a thousandth of a latent's spread. Each row has a checksum. Up to CHECKED bytes of
rows, spread over the file, are compared when it is opened, and each row whenever it is read: a
damaged file is computed again, and its numbers are never trained on.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import Dataset

from ldm.errors import Refusal
from ldm.system.batches import Batch, Columns, rows_of
from ldm.system.rows import row_file

VERSION = 1  # of the parts, in the folder's name
PARTS = {"moments": np.float16, "label": np.int64, "index": np.int64, "sums": np.uint32}
CHECKED = 2 << 30  # bytes: 2 to 4 seconds of one core, if the disk keeps up

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


class LatentCache(Dataset):
    """Moments (N, orientations, 2 z, h, w): mean and log-variance of q(z | picture).

    Orientation 1 is the mirror image. A batch has the keys moments (not without `read`), label and
    index. Further keys (`columns` of the data set, as captions) are not in the files: whoever opens
    them gives the data set's own. Pickled, for a worker that is not forked, it is the files' names.
    """

    def __init__(self, folder: Path, read: bool = True, columns: Columns | None = None):
        self.folder, self.read, self.columns = folder, read, columns or {}
        self.parts = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in PARTS}

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
        names = [name for name in PARTS if self.read or name not in ("moments", "sums")]
        rows = {name: np.ascontiguousarray(self.parts[name][indices]) for name in names}
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
        parts = {name: np.asarray(part[rows]) for name, part in self.parts.items()}
        return np.array_equal(checksums(parts), parts["sums"])

    def refuse(self) -> NoReturn:
        """Discard the cache once a damaged row is in use: the next run computes a new one."""
        with contextlib.suppress(OSError):
            (self.folder / "about.json").unlink()
        raise Refusal(
            f"latent cache: {self.folder} has changed since it was written (a bad disk, or another "
            "program); it is left "
            "alone from now on: run again, with --resume if there is a checkpoint, and it is "
            "computed again"
        )

    def table(self, device: torch.device) -> Tensor:
        """All moments, on a device."""
        if not self.is_whole():
            self.refuse()
        return torch.from_numpy(np.array(self.parts["moments"])).to(device)


def open_cache(folder: Path) -> LatentCache | None:
    """The cache in a folder; None where there is none, or where it is damaged."""
    if not folder.is_dir():
        return None
    try:
        about = json.loads((folder / "about.json").read_text())
        found = LatentCache(folder)
        if {name: _header(part) for name, part in found.parts.items()} != about.get("parts"):
            raise ValueError("its parts are not those that were written")
        if not found.is_whole(slice(None, None, max(1, -(-found.size // CHECKED)))):
            raise ValueError("a row is not what was written")
        return found
    except (OSError, ValueError, KeyError, AttributeError, TypeError, EOFError) as error:
        print(
            f"latent cache: {folder} is damaged ({_first_line(error)}); computed again", flush=True
        )
        return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _header(part: np.ndarray) -> dict[str, Any]:
    return {"dtype": part.dtype.str, "shape": list(part.shape), "fortran": bool(np.isfortran(part))}


def _allocate(file: Any, size: int) -> None:
    """Take room on the disk, so that it is known before the work to be there.

    Where that cannot be had, compare and hope.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), file.tell(), size)
        return
    if shutil.disk_usage(Path(file.name).parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    file.truncate(file.tell() + size)


def _lock(partial: Path) -> FileLock:
    """Held while a folder is written; the system lets go of a dead process' locks."""
    return FileLock(f"{partial}.lock", timeout=0)


def sweep(root: Path) -> None:
    """Take away what killed writers left: `*.partial` of which no process has the lock."""
    for partial in root.glob("*.partial"):
        lock = _lock(partial)
        with (
            contextlib.suppress(OSError, NotImplementedError),
            lock,
        ):  # a Timeout is an OSError: it is being written
            shutil.rmtree(partial, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)


class Writer:
    """A cache being written, in a folder beside its final one.

    Every rank writes its rows; rank 0 begins and ends it.
    """

    def __init__(self, folder: Path, partial: Path):
        self.folder, self.partial, self.lock = folder, partial, _lock(partial)

    @staticmethod
    def beside(folder: Path) -> str:
        """A name to write under that nobody else has."""
        return f"{folder}.{uuid.uuid4().hex[:8]}.partial"

    def begin(self, count: int, shape: tuple[int, ...]) -> None:
        """Take the room on the disk before the work; Refusal if it is not there."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            sweep(self.folder.parent)
            with contextlib.suppress(
                NotImplementedError, Timeout
            ):  # nobody has it: a file system without locks
                self.lock.acquire()
            self.partial.mkdir()
            for name, kind in PARTS.items():
                sizes = (count, *shape) if name == "moments" else (count,)
                with open(self.partial / f"{name}.npy", "wb") as file:
                    header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": sizes}
                    np.lib.format.write_array_header_1_0(file, header)
                    _allocate(file, int(np.prod(sizes)) * np.dtype(kind).itemsize)
        except OSError as error:
            self.abandon()
            size = 2 * count * int(np.prod(shape)) / 1e9
            raise Refusal(
                f"latent cache: {size:.1f} GB for {self.folder} cannot be had "
                f"({error.strerror or error}); "
                "free the room, set output, or space.cache=false"
            ) from None

    def open(self) -> None:
        """On every rank, once it has begun."""
        paths = {name: self.partial / f"{name}.npy" for name in PARTS}
        self.starts = {name: np.load(path, mmap_mode="r").offset for name, path in paths.items()}
        # written, not mapped: a full disk is an error then and no signal, and ranks share no pages
        self.files = {name: open(path, "r+b") for name, path in paths.items()}  # noqa: SIM115

    def put(self, rows: list[int], moments: Tensor, label: Tensor, index: Tensor) -> None:
        """The posterior of pictures `rows`, (B, orientations, 2 z, h, w).

        Refusal where it does not fit into 16 bits.
        """
        half = moments.half().cpu()
        if not torch.isfinite(half.chunk(2, 2)[0]).all():
            raise Refusal(
                f"latent cache: the latents of pictures {rows[:8]} are not finite in 16 bits; "
                "space.cache=false"
            )
        values = {"moments": half.numpy(), "label": label.numpy(), "index": index.numpy()}
        # the bytes of the file: its own kind, and each row in one piece (convolutions may leave
        # channels last)
        values = {name: np.ascontiguousarray(value, PARTS[name]) for name, value in values.items()}
        values["sums"] = checksums(values)
        consecutive = rows == list(range(rows[0], rows[0] + len(rows)))  # as training's always are
        for name, part in values.items():
            for row, value in [(rows[0], part)] if consecutive else zip(rows, part, strict=True):
                self.files[name].seek(self.starts[name] + row * part[0].nbytes)
                self.files[name].write(value.tobytes())

    def close(self) -> None:
        """On every rank, before it ends."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def end(self) -> None:
        """Give the folder its name; one that another run has made since is as good."""
        parts = {
            name: _header(np.load(self.partial / f"{name}.npy", mmap_mode="r")) for name in PARTS
        }
        (self.partial / "about.json").write_text(
            json.dumps({"version": VERSION, "parts": parts}) + "\n"
        )
        if self.folder.exists() and open_cache(self.folder) is None:
            shutil.rmtree(self.folder)
        with contextlib.suppress(OSError):  # it is there
            os.replace(self.partial, self.folder)
        self.abandon()

    def abandon(self) -> None:
        """Leave nothing under the name it was written under."""
        shutil.rmtree(self.partial, ignore_errors=True)
        self.lock.release()
        Path(self.lock.lock_file).unlink(missing_ok=True)
