"""A run's folder: of one run at a time, and left as it was found where a run is refused."""

import errno
import json
import os
import re
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ldm.errors import Refusal
from ldm.training.ranks import is_first

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Inside, the folder is this process' alone; Refusal if another has it.

    The lock is the system's, on the file `lock`: it ends with its process, however that ends, and
    data workers do not inherit it. Where the file system knows no locks, the run goes on without.
    Empty folders that this made go again.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _lock(folder / "lock")
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                (folder / "lock").unlink()
            file.close()
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def _lock(path: Path) -> IO[str]:
    """The open file, which holds the lock until it is closed."""
    while True:
        file = open(path, "a+")  # noqa: SIM115  (open as long as the run is)
        try:
            _hold(file)
            if _same(file, path):
                return _signed(file)
        except OSError as error:
            if error.errno in HELD:
                held = f"{path.parent} is {_holder(file)}"
                way_out = "wait for it, or start another run with name=OTHER"
                raise Refusal(f"{held}; {way_out}") from None
            why = f"{path} cannot be locked ({error.strerror})"
            print(f"warning: {why}: nothing keeps a second run out", flush=True)
            return file
        file.close()  # whoever had it before has just taken the file away


def _hold(file: IO[str]) -> None:
    if sys.platform == "win32":
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _same(file: IO[str], path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _signed(file: IO[str]) -> IO[str]:
    with suppress(OSError):  # a full disk: the lock holds without a name on it
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    return file


def _holder(file: IO[str]) -> str:
    file.seek(0)
    with suppress(OSError, ValueError):
        if found := re.fullmatch(r"process \d+ on [\w.-]+\n", file.read(300)):
            return f"being trained by {found[0].strip()}"
    return "being trained by another process"


def wandb_id(folder: Path, known: str | None) -> str:
    """The W&B run's id, made once: run.json's, where that is damaged the checkpoint's, or new.

    The first process alone looks into run.json, which it alone writes, and whose id counts.
    """
    found = None
    if not is_first():
        return _plain(known) or uuid.uuid4().hex[:8]
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((folder / "run.json").read_text())["wandb_id"]
    return _plain(found) or _plain(known) or uuid.uuid4().hex[:8]


def _plain(found: object) -> str | None:
    """An id, if it is one: it becomes part of paths, and may come from a stranger's checkpoint."""
    fits = isinstance(found, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", found)
    return str(found) if fits else None
