"""What the settings of a data set make of a folder's files, kept beside what is known of them."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ldm.errors import Refusal
from ldm.pictures.filelist import Files
from ldm.pictures.folder_set import FolderSet, Listed
from ldm.pictures.opening import View
from ldm.system.arrays import Arrays, Words, read_arrays, write_arrays

SETS = ("train", "test")
ERRORS = "surrogatepass"  # captions may hold what UTF-8 has no letters for


@dataclass
class Chosen:
    """Two sets of pictures: for each rows of the files and labels, and captions if there are any.

    before, after: what is said of the data, around the reading of the first picture.
    """

    view: View
    classes: tuple[str, ...] = ()
    arrays: Arrays = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    folder: Path | None = None  # where it is kept

    def add(self, name: str, rows: np.ndarray, label: np.ndarray, texts: list[str]) -> None:
        """One of SETS."""
        self.arrays |= {name: rows.astype(np.int32), f"{name}_label": label.astype(np.int32)}
        if any(texts):
            words = Words.of(texts, ERRORS)
            self.arrays |= {f"{name}_text": words.raw, f"{name}_ends": words.ends}

    def listed(self, name: str, files: Files) -> Listed:
        texts = None
        if f"{name}_text" in self.arrays:
            texts = Words(self.arrays[f"{name}_text"], self.arrays[f"{name}_ends"], ERRORS)
        source = (files.root, files.place, self.folder, name) if self.folder else None
        return Listed(files, self.arrays[name], self.arrays[f"{name}_label"], texts, reopen, source)

    def set(self, name: str, files: Files) -> FolderSet:
        return FolderSet(
            self.listed(name, files), self.view, self.folder and self.folder.with_suffix(f".{name}")
        )

    def keep(self, folder: Path) -> "Chosen":
        """Keep it and use what was kept, where that can be."""
        about: dict[str, Any] = self.view.to_dict() | {"shape": list(self.view.shape)}
        about |= {"classes": list(self.classes), "before": self.before, "after": self.after}
        with suppress(OSError):
            write_arrays(folder, self.arrays, about)
        return read_chosen(folder) or self


def read_chosen(folder: Path) -> Chosen | None:
    """What was kept; None where nothing was."""
    read = read_arrays(folder)
    if read is None:
        return None
    arrays, about = read
    try:
        stated, found = (tuple(about[key]) if about[key] else None for key in ("range", "found"))
        channels, height, width = about["shape"]
        view = View((channels, height, width), about["fit"], stated, found)
        lines = list(about["before"]), list(about["after"])
        return Chosen(view, tuple(about["classes"]), arrays, *lines, folder)
    except (KeyError, TypeError, ValueError):
        return None


def reopen(root: Path, place: Path, folder: Path, name: str) -> Any:
    """A set of pictures as another process finds it."""
    files, chosen = read_arrays(place), read_chosen(folder)
    if files is None or chosen is None:
        raise Refusal(f"data.root: what was known of '{root}' has been taken away: start again")
    return chosen.listed(name, Files(root, *files, place))
