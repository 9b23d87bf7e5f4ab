"""Asking a folder's files for their sizes, times and headers; of many, by a few processes."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import TracebackType

import numpy as np

from ldm.pictures import headers
from ldm.pictures.filelist import GREY, Files
from ldm.pictures.listing import PICTURE
from ldm.pictures.opening import Head, Unreadable
from ldm.system.progress import Bar

MANY = 20_000  # files for which processes are started
HELPERS = 8  # at most; a network's disk answers many as fast as one
MOST = 2048  # files that are asked for at once
BLOCK = 64 * MOST


class Looking:
    """Inside, helpers that are asked for what is on the disk."""

    def __init__(self, count: int):
        self.threads = min(HELPERS, max(2, os.cpu_count() or 1)) if count >= MANY else 0
        self.own, self.helpers = threading.local(), list[subprocess.Popen[bytes]]()

    def __enter__(self) -> "Looking":
        self.pool = ThreadPoolExecutor(max(1, self.threads))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pool.shutdown(cancel_futures=True)
        for helper in self.helpers:
            helper.communicate()

    def at(
        self, files: Files, opens: bool, where: np.ndarray | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The number of the first of some files, and their answers (n, headers.COLUMNS).

        where: of which files, with those beside them.
        """
        runs = (run for run in files.runs(MOST) if where is None or where[slice(*run)].any())
        while some := list(islice(runs, BLOCK // MOST)):
            asked = self.pool.map(lambda run: self._ask(files, opens, *run), some)
            yield from ((start, found) for (start, _), found in zip(some, asked, strict=True))

    def _ask(self, files: Files, opens: bool, start: int, stop: int) -> np.ndarray:
        folder = os.fsencode(os.path.join(files.root, files.folders[files["folder"][start]]))
        names = files.names.joined(start, stop)
        raw = self._helped(opens, folder, names, stop - start) if self.threads else b""
        if not raw:
            raw = headers.answer(opens, folder, names.split(b"\0")).tobytes()
        return np.frombuffer(raw, np.int64).reshape(-1, headers.COLUMNS)

    def _helped(self, opens: bool, folder: bytes, names: bytes, count: int) -> bytes:
        """A helper's answer; nothing where it has none."""
        try:
            helper: subprocess.Popen[bytes] = getattr(self.own, "helper", None) or self._start()
            assert helper.stdin and helper.stdout
            asked = b"\0".join([b"1" if opens else b"0", folder, names])
            helper.stdin.write(len(asked).to_bytes(8, "little") + asked)
            helper.stdin.flush()
            size = 8 * headers.COLUMNS * count
            raw = helper.stdout.read(size)
            return raw if len(raw) == size else b""
        except (OSError, ValueError):
            return b""

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-I", "-S", headers.__file__]
        pipe = subprocess.PIPE
        # in a session of its own: a signal to the run's group is not for it
        self.own.helper = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.helpers.append(self.own.helper)
        return self.own.helper


def look(files: Files, where: np.ndarray | None = None) -> None:
    """Sizes, times and pictures' headers into the arrays, of all files or of some."""
    odd: list[int] = []
    with Looking(len(files)) as looking, _bar(len(files), "looking at") as bar:
        for start, found in looking.at(files, opens=True, where=where):
            rows = slice(start, start + len(found))
            for i, column in enumerate(("size", "mtime", "ctime")):
                files[column][rows] = found[:, i]
            plain = (found[:, 3] & headers.PLAIN) != 0
            files["flags"][rows] = np.where(plain & ((found[:, 3] & headers.GREY) != 0), GREY, 0)
            files["side"][rows], files["span"][rows] = found[:, 4], 0
            unknown = ~plain & (files["shelf"][rows] == PICTURE)
            odd += (np.flatnonzero(unknown) + start).tolist()
            bar.update(len(found))
    _ask_pillow(files, odd)


def _ask_pillow(files: Files, odd: list[int]) -> None:
    """The headers that need Pillow, and what it says of those that it cannot read."""
    with ThreadPoolExecutor(8) as threads, _bar(len(odd), "looking into") as bar:
        for at in range(0, len(odd), 4096):
            some = odd[at : at + 4096]
            for i, head in zip(some, threads.map(lambda i: _head(files, i), some), strict=True):
                files.note(i, head)
            bar.update(len(some))


def _head(files: Files, i: int) -> Head | str:
    try:
        return Head.of(files.path(i))
    except Unreadable as why:
        return str(why)


def _bar(count: int, what: str) -> Bar:
    return Bar(f"data: {what}", count, "pictures", delay=3)


def changed(files: Files) -> str | None:
    """A file whose size or change time is not what it was."""
    with Looking(len(files)) as looking:
        for start, found in looking.at(files, opens=False):
            rows = slice(start, start + len(found))
            same = (found[:, 0] == files["size"][rows]) & (found[:, 2] == files["ctime"][rows])
            if not same.all():
                return files.relative(start + int(np.argmin(same)))
    return None
