"""The latent cache being written, by one process or by many on one file system.

Network file systems write whole pages of 4 kB back. Where two machines write to one file, the page
in which their rows meet has the bytes of one of them alone, and no error is raised. So each process
writes files that nobody else writes to, one after the other from their beginning; the first names
them all in about.json, and one rename ends it.
"""

import contextlib
import ctypes
import errno
import json
import os
import shutil
import uuid
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from ldm.errors import Refusal
from ldm.pictures.latents import (
    COLUMNS,
    VERSION,
    LatentCache,
    checksums,
    column_file,
    examine,
    header,
)
from ldm.system.files import atomic_write


def _allocate(file: Any, size: int) -> None:
    """Take room on the disk, so that it is known before the work to be there.

    Where that cannot be had, compare and hope. Not posix_fallocate: where the file system has no
    such call it writes to every page, over the network too.
    """
    take = (
        getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None) if os.name != "nt" else None
    )
    if take and not take(file.fileno(), 0, ctypes.c_int64(file.tell()), ctypes.c_int64(size)):
        return
    if take and ctypes.get_errno() in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if shutil.disk_usage(Path(file.name).parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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


def part_of(blocks: int, rank: int, world: int) -> range:
    """The consecutive blocks of one of `world` processes; none beyond them."""
    start, stop = (min(blocks, blocks * i // world) for i in (rank, rank + 1))
    return range(start, stop)


class Writer:
    """A cache being written, in a folder beside its final one: process `part` of `parts`.

    The first begins and ends it; each opens its own files, puts its rows and closes them.
    """

    def __init__(self, folder: Path, partial: Path, part: int = 0, parts: int = 1):
        self.folder, self.partial, self.lock = folder, partial, _lock(partial)
        self.part, self.parts = part, parts
        self.starts: dict[str, int] = {}
        self.files: dict[str, IO[bytes]] = {}

    @staticmethod
    def beside(folder: Path) -> str:
        """A name to write under that nobody else has."""
        return f"{folder}.{uuid.uuid4().hex[:8]}.partial"

    def begin(self) -> None:
        """Make the folder to write in, and take away what killed writers left."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            sweep(self.folder.parent)
            with contextlib.suppress(
                NotImplementedError, Timeout
            ):  # nobody has it: a file system without locks
                self.lock.acquire()
            self.partial.mkdir()
        except OSError as error:
            self.abandon()
            raise self._no_room(error, "the folder") from None

    def open(self, rows: range, shape: tuple[int, ...]) -> None:
        """Take the room for these consecutive rows before the work; Refusal if it is not there."""
        self.rows, self.sums = rows, np.zeros(len(rows), np.uint32)
        try:
            for name, kind in COLUMNS.items():
                sizes = (len(rows), *shape) if name == "moments" else (len(rows),)
                file = open(column_file(self.partial, name, self.part), "xb")  # noqa: SIM115
                self.files[name] = file
                about = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": sizes}
                np.lib.format.write_array_header_1_0(file, about)
                self.starts[name] = file.tell()
                _allocate(file, int(np.prod(sizes)) * np.dtype(kind).itemsize)
        except OSError as error:
            size = 2 * len(rows) * int(np.prod(shape)) / 1e9
            raise self._no_room(error, f"{size:.1f} GB") from None

    def _no_room(self, error: OSError, what: str) -> Refusal:
        return Refusal(
            f"latent cache: {what} for {self.folder} cannot be had "
            f"({error.strerror or error}); "
            "free the room, set output, or space.cache=false"
        )

    def put(self, rows: list[int], moments: Tensor, label: Tensor, index: Tensor) -> None:
        """The posterior of pictures `rows`, (B, orientations, 2 z, h, w).

        Refusal where it does not fit into 16 bits.
        """
        half = moments.half().cpu()
        if not half.chunk(2, 2)[0].isfinite().all():
            raise Refusal(
                f"latent cache: the latents of pictures {rows[:8]} are not finite in 16 bits; "
                "space.cache=false"
            )
        values = {"moments": half.numpy(), "label": label.numpy(), "index": index.numpy()}
        # the bytes of the file: its own kind, and each row in one piece (convolutions may leave
        # channels last)
        values = {n: np.ascontiguousarray(value, COLUMNS[n]) for n, value in values.items()}
        self.sums[np.array(rows) - self.rows.start] = values["sums"] = checksums(values)
        consecutive = rows == list(range(rows[0], rows[0] + len(rows)))  # as training's always are
        for name, part in values.items():
            for row, value in [(rows[0], part)] if consecutive else zip(rows, part, strict=True):
                place = self.starts[name] + (row - self.rows.start) * part[0].nbytes
                self.files[name].seek(place)
                self.files[name].write(value.tobytes())

    def close(self) -> None:
        """On every process, before it ends: its files are on the disk, and a line of what they are.

        That has the checksum of its checksums as they are here.
        """
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        with atomic_write(self._about(self.part)) as about:
            said = {"rows": len(self.rows), "sums": zlib.crc32(self.sums.data)}
            about.write(json.dumps(said) + "\n")

    def _about(self, part: int) -> Path:
        return self.partial / f"part.{part}.json"

    def end(self) -> None:
        """Give the folder its name; one that another run has made since is as good.

        Refusal where what another process wrote is not what can be read here.
        """
        parts = [self._written(part) for part in range(self.parts)]
        about = {"version": VERSION, "parts": parts[0]} | ({"more": parts[1:]} if parts[1:] else {})
        with atomic_write(self.partial / "about.json") as file:
            file.write(json.dumps(about) + "\n")
        for part in range(self.parts):
            self._about(part).unlink()
        if self.folder.exists() and not isinstance(examine(self.folder), LatentCache):
            shutil.rmtree(self.folder)
        with contextlib.suppress(OSError):  # it is there
            os.replace(self.partial, self.folder)
        self.abandon()

    def _written(self, part: int) -> dict[str, Any]:
        """The headers of one process' files, as this machine sees them."""
        try:
            said = json.loads(self._about(part).read_text())
            files = {n: np.load(column_file(self.partial, n, part), mmap_mode="r") for n in COLUMNS}
            seen = {"rows": len(files["label"]), "sums": zlib.crc32(files["sums"].data)}
            if said != seen:
                raise ValueError("its checksums are others")
            return {name: header(file) for name, file in files.items()}
        except (OSError, ValueError, EOFError) as error:
            raise Refusal(
                f"latent cache: what process {part} wrote to {self.partial} cannot be read here "
                f"({error}); put output on storage that all nodes share"
            ) from None

    def abandon(self) -> None:
        """Leave nothing under the name it was written under."""
        for file in self.files.values():
            with contextlib.suppress(OSError):  # what is still to be written has no room
                file.close()
        shutil.rmtree(self.partial, ignore_errors=True)
        self.lock.release()
        Path(self.lock.lock_file).unlink(missing_ok=True)
