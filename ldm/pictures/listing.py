"""Which files under a folder are pictures, and what else lies there, counted and named.

The rule: names that begin with a dot, and those in SYSTEM, are left out, with all that is in them.
Links are followed, to files and to folders; each folder is entered once, by its own name rather
than by a link's, so links cannot lead round. A picture is known by the end of its name, or else
by its first bytes.
"""

import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ldm.errors import printable, say
from ldm.pictures.opening import extensions, looks_like

SYSTEM = frozenset(
    ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"]
)
SYSTEM |= frozenset(["Thumbs.db", "desktop.ini", "Icon\r"])
TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv")

Kind = tuple[str, str]  # of a note: singular and plural
HIDDEN = "hidden or system entry is left out", "hidden or system entries are left out"
ODD = "pipe, socket or device is left out", "pipes, sockets or devices are left out"
DEAD = "link leads nowhere", "links lead nowhere"
ROUND = "link or folder leads where we have been", "links or folders lead where we have been"
SHUT = "folder cannot be opened", "folders cannot be opened"


class Notes:
    """What of a user's data is not used as given: how often, and the first of each kind."""

    def __init__(self, root: Path):
        self.root = root
        self.found: dict[Kind, tuple[int, str]] = {}
        self.absent: list[str] = []  # what was not to be had, and may be there another time

    def add(self, kind: Kind, thing: Path | str) -> None:
        if kind in (DEAD, SHUT):
            self.absent.append(str(thing))
        count, first = self.found.get(kind, (0, self.name(thing)))
        self.found[kind] = count + 1, first

    def name(self, thing: Path | str) -> str:
        """A path as it is under the root."""
        if isinstance(thing, Path) and thing.is_relative_to(self.root):
            return str(thing.relative_to(self.root))
        return str(thing)

    def lines(self) -> list[str]:
        found = self.found.items()
        return [f"{n} {kind[n > 1]}, first: {first}" for kind, (n, first) in found]

    def say(self) -> None:
        """A line each, once and not once a process of one machine."""
        for line in self.lines():
            announce_data(line)


_heard: list[list[str]] = []


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Inside, what is announced is said and put on a list, to be said again at another start."""
    _heard.append([])
    try:
        yield _heard[-1]
    finally:
        _heard.pop()


def announce_data(line: str) -> None:
    """`data: ...`, by the first process of a machine."""
    for lines in _heard:
        lines.append(line)
    if os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0":
        say(f"data: {printable(line)}")


@dataclass
class Listing:
    """The files under a folder, sorted."""

    pictures: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def kinds(self) -> str:
        """What the others are."""
        return kinds(self.others)


def kinds(others: Iterable[Path]) -> str:
    """What files are by the ends of their names: 3 .svg, 1 without an extension."""
    ends = Counter(p.suffix.lower() or "without an extension" for p in others)
    return ", ".join(f"{n} {end}" for end, n in ends.most_common(12)) + (
        ", ..." if len(ends) > 12 else ""
    )


def listing(root: Path, notes: Notes, deep: bool = True) -> Listing:
    """All files under a folder, or in it alone; what is left out goes to `notes`."""
    found = Listing()
    shelves = found.pictures, found.tables, found.texts, found.others
    for path in sorted(walk(root, notes, deep)):
        shelves[shelf(str(path.parent), path.name)].append(path)
    return found


PICTURE, TABLE, TEXT, OTHER = range(4)  # shelves


def shelf(folder: str, name: str) -> int:
    """What a file is by its name, and where that does not say by its first bytes."""
    end = name[name.rfind(".") :].lower() if "." in name[1:] else ""
    if end in _ends():
        return PICTURE
    if name.lower() in TABLES:
        return TABLE
    if end == ".txt":
        return TEXT
    return PICTURE if looks_like(Path(folder, name)) else OTHER


@cache
def _ends() -> frozenset[str]:
    return frozenset(extensions())


def walk(root: Path, notes: Notes, deep: bool = True) -> Iterator[Path]:
    """Every file, by the rule above."""
    for folder, _, files in entered(root, notes, deep):
        yield from (folder / entry.name for entry in files)


Entered = tuple[Path, os.stat_result | None, list[os.DirEntry[str]]]


def entered(root: Path, notes: Notes, deep: bool = True) -> Iterator[Entered]:
    """Every folder, as it was before it was looked into, and its files by their names."""
    folders, links, been = deque([root]), deque[Path](), {_identity(_about(root))}
    above = {_identity(_about(path)) for path in root.resolve().parents}
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        about = _about(folder)
        here = _identity(about)
        if folder != root:
            if here in been or here in above:
                notes.add(ROUND, folder)
                continue
            been.add(here)
        files = []
        for entry in _entries(folder, notes):
            if _hidden(entry.name):
                notes.add(HIDDEN, folder / entry.name)
            elif (kind := _kind(entry)) == "file":
                files.append(entry)
            elif kind == "folder":
                more = [folder / entry.name] if deep else []
                (links if entry.is_symlink() else folders).extend(more)
            else:
                notes.add(DEAD if kind == "nothing" else ODD, folder / entry.name)
        yield folder, about, files


def _about(folder: Path) -> os.stat_result | None:
    try:
        return folder.stat()
    except OSError:
        return None


def _identity(about: os.stat_result | None) -> tuple[int, int] | None:
    """The folder itself, whatever it is called."""
    return (about.st_dev, about.st_ino) if about else None


def _kind(entry: os.DirEntry[str]) -> str:
    """What an entry is, or its link leads to: file, folder, nothing, other."""
    if not entry.is_symlink():  # the folder has said it, the file is not asked
        plain = entry.is_file(follow_symlinks=False)
        return "file" if plain else "folder" if entry.is_dir(follow_symlinks=False) else "other"
    try:
        mode = entry.stat().st_mode
    except OSError:  # also a link to itself
        return "nothing"
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM


def _entries(folder: Path, notes: Notes) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        notes.add(SHUT, folder)
        return []
