"""Which files under a folder are pictures, and what else lies there, counted and named.

The rule: names that begin with a dot, and those in SYSTEM, are left out, with all that is in them.
Links are followed, to files and to folders; each folder is entered once, by its own name rather
than by a link's, so links cannot lead round. A picture is known by the end of its name, or else
by its first bytes.
"""

import os
import stat
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
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

    def add(self, kind: Kind, thing: Path | str) -> None:
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


def announce_data(line: str) -> None:
    """`data: ...`, by the first process of a machine."""
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
        """What the others are: 3 .svg, 1 without an extension."""
        ends = Counter(p.suffix.lower() or "without an extension" for p in self.others)
        return ", ".join(f"{n} {end}" for end, n in ends.most_common(12)) + (
            ", ..." if len(ends) > 12 else ""
        )


def listing(root: Path, notes: Notes, deep: bool = True) -> Listing:
    """All files under a folder, or in it alone; what is left out goes to `notes`."""
    found = Listing()
    for path in sorted(walk(root, notes, deep)):
        _shelf(found, path).append(path)
    return found


def _shelf(found: Listing, path: Path) -> list[Path]:
    end = path.suffix.lower()
    if end in extensions():
        return found.pictures
    if path.name.lower() in TABLES:
        return found.tables
    if end == ".txt":
        return found.texts
    return found.pictures if looks_like(path) else found.others


def walk(root: Path, notes: Notes, deep: bool = True) -> Iterator[Path]:
    """Every file, by the rule above."""
    folders, links, been = deque([root]), deque[Path](), {_identity(root)}
    above = {_identity(path) for path in root.resolve().parents}
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        here = _identity(folder)
        if folder != root:
            if here in been or here in above:
                notes.add(ROUND, folder)
                continue
            been.add(here)
        for entry in _entries(folder, notes):
            path = folder / entry.name
            if _hidden(entry.name):
                notes.add(HIDDEN, path)
            elif (kind := _kind(entry)) == "file":
                yield path
            elif kind == "folder":
                (links if entry.is_symlink() else folders).extend([path] if deep else [])
            else:
                notes.add(DEAD if kind == "nothing" else ODD, path)


def _identity(folder: Path) -> tuple[int, int] | None:
    """The folder itself, whatever it is called."""
    try:
        about = folder.stat()
        return about.st_dev, about.st_ino
    except OSError:
        return None


def _kind(entry: os.DirEntry[str]) -> str:
    """What an entry is, or its link leads to: file, folder, nothing, other."""
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
