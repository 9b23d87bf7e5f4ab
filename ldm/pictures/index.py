"""What is known of a folder's files, kept for the next start where they are many.

Of KEPT files and more it lies in the user's cache, one folder a data set, mapped by all processes
of a machine: the first that needs it looks at the files, the others wait for it. It is used as long
as

- no folder has changed (its own change time: a file added, removed, renamed or put in another's
  place), and no link that led nowhere leads somewhere now;
- no file has changed (its size and change time: a picture written over). Of more than ASKED files
  that is found out while the run begins, and waited for where the data's identity is needed.

Only a change within one tick of the file system's clock could pass, so what changed in the last
SETTLED seconds is looked at again before the index is kept.
"""

import hashlib
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from ldm.pictures.filelist import Files
from ldm.pictures.looking import changed, look
from ldm.pictures.names import Named
from ldm.system.arrays import drop, read_arrays, write_arrays
from ldm.system.files import default_cache

VERSION = 1
KEPT = 20_000  # files; fewer are looked at at every start
ASKED = 200_000  # files of which each is asked before the start goes on
SETTLED = 2.0  # seconds

Trust = Literal["auto", "folders", "never"]


def files_of(root: Path, trust: Trust = "auto") -> Files:
    """The files of a folder, as they were kept if nothing has changed, else looked at now.

    trust: what says that nothing has changed, all files (auto) or their folders alone; never: look
    at them again.
    """
    place = _place(root)
    if trust != "never" and (found := _kept(root, place, trust)):
        return found
    named, settled = _settled(root)
    if len(named) < KEPT:
        return _looked_at(root, named)[0]
    with _alone(place):
        if trust != "never" and (found := _kept(root, place, trust)):  # by another, meanwhile
            return found
        found, calm = _looked_at(root, named)
        return _keep(found, place) if settled and calm else found


def _place(root: Path) -> Path:
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return default_cache() / "folders" / key / "files"


def _alone(place: Path) -> AbstractContextManager[Any]:
    """Held by one process of all that share the cache; by none where it cannot be."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place.parent / "lock")
        with lock:
            return lock
    except (OSError, NotImplementedError):
        return nullcontext()


# -- kept ------------------------------------------------------------------------------------------
def _kept(root: Path, place: Path, trust: Trust) -> Files | None:
    """What was kept of a folder, if it is as it was."""
    read = read_arrays(place)
    if read is None or read[1].get("version") != VERSION:
        return None
    found = Files(root, *read, place)
    if not _same_folders(found):
        return None
    if trust == "folders":
        return found
    asking = ThreadPoolExecutor(1)
    found.check = asking.submit(changed, found)
    asking.shutdown(wait=False)
    return None if len(found) <= ASKED and found.check.result() is not None else found


def _same_folders(found: Files) -> bool:
    times = found["folder_time"].tolist()
    paths = (os.path.join(found.root, folder) for folder in found.folders)
    same = all(_time(path) == kept for path, kept in zip(paths, times, strict=True))
    return same and not any(map(_there, found.about["absent"]))


def _time(folder: str) -> int:
    try:
        return os.stat(folder).st_ctime_ns
    except OSError:
        return -1


def _there(path: str) -> bool:
    """Whether a link leads somewhere by now, or a folder can be opened."""
    try:
        if os.path.isdir(path):
            os.scandir(path).close()
        else:
            os.stat(path)
        return True
    except OSError:
        return False


def _keep(found: Files, place: Path) -> Files:
    """Keep it, and use what was kept; where that cannot be, use what is here."""
    try:
        drop(place.with_name("chosen"))
        write_arrays(place, found.arrays, found.about)
    except OSError as error:
        found.about["said"] = [
            f"what is known of the {len(found)} files is not kept for the next start: "
            f"{place} cannot be written ({error.strerror or error}); "
            "XDG_CACHE_HOME names another place"
        ]
        return found
    read = read_arrays(place)  # mapped, and so shared
    return Files(found.root, *read, place) if read else found


# -- looked at -------------------------------------------------------------------------------------
def _settled(root: Path) -> tuple[Named, bool]:
    """The names under a folder, and whether none of its folders had just changed."""
    for _ in range(3):
        began = time.time()
        named = Named(root)
        newest = max(named.times) / 1e9
        if len(named) < KEPT or newest < began - SETTLED:
            return named, True
        _wait(newest)
    return named, False


def _wait(newest: float) -> None:
    time.sleep(min(SETTLED, max(0.0, newest + SETTLED - time.time())) + 0.01)


def _looked_at(root: Path, named: Named) -> tuple[Files, bool]:
    """All of the files, and whether none had just changed."""
    about: dict[str, Any] = {"version": VERSION, "id": uuid.uuid4().hex, "bad": {}}
    about |= {"folders": named.folders}
    about["notes"] = [[*kind, *what] for kind, what in named.notes.found.items()]
    found = Files(root, named.arrays(), about | {"absent": named.notes.absent})
    began = time.time()
    look(found)
    for _ in range(2):
        young = found["ctime"] > (began - SETTLED) * 1e9
        if len(found) < KEPT or not young.any():
            return found, True
        _wait(found["ctime"].max() / 1e9)
        began = time.time()
        look(found, young)
    return found, not (found["ctime"] > (began - SETTLED) * 1e9).any()
