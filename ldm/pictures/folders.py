"""`ImageFolder`: your own pictures, any size, mode and nesting, read as they are needed."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ldm.errors import Refusal, nearest, require
from ldm.pictures.chosen import SETS, Chosen, read_chosen
from ldm.pictures.filelist import DEEP, FRAMES, GREY, SPANS, Files
from ldm.pictures.folder_set import FolderSet
from ldm.pictures.holdout import TYPO, announce_classes, expect_held, held_out
from ldm.pictures.images import ImageData, Images
from ldm.pictures.index import Trust, files_of
from ldm.pictures.listing import OTHER, PICTURE, Notes, announce_data, kinds, recorded
from ldm.pictures.metadata import Metadata, captions_beside, read_metadata
from ldm.pictures.opening import View, extensions
from ldm.pictures.survey import measured_range, readable
from ldm.pictures.transforms import Fit, Range, is_range
from ldm.system.identity import hash_of

PLACES = ("folder", "path", "top")  # labels that are of where a picture lies


@dataclass
class ImageFolder(ImageData):
    """Pictures under `root`: the class is where they lie, or a column of metadata.jsonl or .csv.

    label: folder (the name of the folder that a picture lies in), path (the whole way to it from
    root), top (the first folder of that way), or a column. Captions are the metadata's column
    `caption` (by default text, or caption), or stand in NAME.txt beside NAME.png. `skip` leaves
    pictures out: {category: [Flags]} those whose metadata's column category says Flags.

    One in `holdout` of the files, chosen by a hash of the name, is held out, never the last picture
    of a class, and at least one of a class of `holdout` pictures; and so are all pictures of the
    captions in `hold`, to see what a model makes of what it never saw. How a file is read: `fit`,
    `range` and opening.py. Grey if all pictures are grey, else RGB.
    """

    root: str = "data"
    size: int = 64
    label: str = "folder"
    caption: str = ""
    channels: int = 0  # 0: grey if all pictures are
    fit: Fit = "crop"  # pad: nothing is cut, white around
    # what is black and white where there are more than 8 bits; null: of the type
    range: tuple[float, float] | None = None
    holdout: int = 10
    hold: list[str] = field(default_factory=list)
    skip: dict[str, list[str]] = field(default_factory=dict)
    # what says that a folder of many is as it was: all files, their folders alone, or nothing
    trust: Trust = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1 or self.channels not in (0, 1, 3) or self.holdout < 2:
            raise ValueError("ImageFolder needs size >= 1, channels 0, 1 or 3, holdout >= 2")
        known = self.range is None or is_range(self.range)
        require(known, f"range must be [BLACK, WHITE], got {self.range}")

    @property
    def side(self) -> int:
        return self.size

    def load(self) -> Images:
        root = Path(self.root)
        if not root.is_dir():
            raise Refusal(_no_folder(self.root, type(self).root))
        files = files_of(root, self.trust)
        for line in files.about.get("said", []):
            announce_data(line)
        key = hash_of(repr((str(root), str(root.absolute()), self._settings(), files.about["id"])))
        place = files.place and files.place.with_name("chosen") / key
        chosen = read_chosen(place) if place else None
        if chosen is None:
            chosen = self._choose(root, files)
            chosen = chosen.keep(place) if place else chosen
        else:
            for line in chosen.before:
                announce_data(line)
        chosen.view = replace(chosen.view, range=self.range)  # its text is part of what is hashed
        sets = _checked(chosen, files)
        for line in chosen.after:
            announce_data(line)
        return Images(*sets, chosen.classes, chosen.view.shape, chosen.view)

    def _settings(self) -> list[tuple[str, Any]]:
        """Those on which the two sets depend."""
        other = ("root", "batch_size", "workers", "flip", "trust")
        return [
            (each.name, getattr(self, each.name)) for each in fields(self) if each.name not in other
        ]

    def _choose(self, root: Path, files: Files) -> Chosen:
        """Both sets, of all files."""
        notes, others = files.notes(), [files.path(i) for i in files.on(OTHER).tolist()]
        pictures = files.on(PICTURE)
        if not len(pictures):
            tried = f"tried {' '.join(extensions()[:12])} ..., also in folders inside"
            there = f"; there: {kinds(others)}" * bool(others)
            raise Refusal(f"data.root: '{root}' holds no pictures ({tried}{there})")
        with recorded() as before:
            rows = read_metadata(files, notes)
            pictures = readable(files, self._chosen(root, pictures, rows))
            texts, alone = self._captions(files, pictures, rows, notes)
            classes, labels = self._labels(files, pictures, rows, notes)
            shape = self._channels(files, pictures), self.size, self.size
            found = self._found_range(files, pictures)
            chosen = Chosen(View(shape, self.fit, self.range, found), classes)
            out = held_out(files["mark"][pictures], labels, texts, self.hold, self.holdout)
            announce_classes(classes, labels, out)
            if out.all():
                raise Refusal(
                    f"data.hold takes all of the {len(pictures)} pictures in '{root}'; none is "
                    "left to train on"
                )
            for name, mask in zip(SETS, (~out, out), strict=True):
                own = [text for text, here in zip(texts, mask, strict=False) if here]
                chosen.add(name, pictures[mask], labels[mask], own)
        chosen.before = before
        if others := others + alone:
            chosen.after = [f"not read: {kinds(others)}, first: {notes.name(others[0])}"]
        chosen.after += notes.lines()
        return chosen

    def _chosen(self, root: Path, pictures: np.ndarray, rows: Metadata) -> np.ndarray:
        for column in self.skip:
            if column not in rows.columns and nearest(column, rows.columns, TYPO):
                rows.expect(column, "data.skip", root)
            elif column not in rows.columns:
                announce_data(
                    f"no column '{column}' in the metadata of '{root}': data.skip leaves nothing "
                    "out by it"
                )
        if not self.skip:
            return pictures
        out = [
            any(str(rows.of(i).word(key)) in words for key, words in self.skip.items())
            for i in pictures.tolist()
        ]
        chosen = pictures[~np.array(out)]
        if not len(chosen):
            raise Refusal(f"data.skip leaves none of the {len(pictures)} pictures in '{root}'")
        if len(chosen) < len(pictures):
            announce_data(
                f"{len(pictures) - len(chosen)} of {len(pictures)} pictures are left out by "
                "data.skip"
            )
        return chosen

    # -- what is known of each picture
    def _captions(
        self, files: Files, pictures: np.ndarray, rows: Metadata, notes: Notes
    ) -> tuple[list[str], list[Path]]:
        """Of every picture, empty where there is none; from the metadata first.

        And the files NAME.txt that are beside no picture.
        """
        if self.caption:
            rows.expect(self.caption, "data.caption", files.root)
        beside, alone = captions_beside(files, notes)
        if not rows.columns and not beside:
            expect_held(self.hold, {""}, files.root)
            return [], alone
        numbers = pictures.tolist()
        texts = [rows.of(i).caption(self.caption) or beside.get(i, "") for i in numbers]
        some = any(texts)
        for i, text in zip(numbers, texts, strict=True):
            if rows.columns and i not in rows.rows:
                notes.add(
                    ("picture has no row in the metadata", "pictures have no row in the metadata"),
                    files.path(i),
                )
            elif some and not text:
                notes.add(("picture has no caption", "pictures have no caption"), files.path(i))
        expect_held(self.hold, {*texts}, files.root)
        return texts, alone

    def _labels(
        self, files: Files, pictures: np.ndarray, rows: Metadata, notes: Notes
    ) -> tuple[tuple[str, ...], np.ndarray]:
        """The classes' names, sorted, none where there are not two, and each picture's index."""
        root, folder = files.root, files["folder"][pictures]
        if self.label in PLACES:
            used = np.unique(folder).tolist()
            named = {i: _place(Path(files.folders[i]), self.label) for i in used}
            classes: Iterable[str] = (named[i] for i in folder.tolist())
        else:
            words = [rows.of(i).word(self.label) for i in pictures.tolist()]
            lacking = [i for i, word in zip(pictures, words, strict=True) if word is None]
            if lacking:
                there = ", ".join(sorted(rows.columns)) or "no metadata at all"
                more = f" and {len(lacking) - 1} more" * (len(lacking) > 1)
                where = f"in {root}/metadata.* (there: {there}; or label={'|'.join(PLACES)})"
                first = files.path(lacking[0])
                raise Refusal(f"data.label: no column '{self.label}' for {first}{more} {where}")
            named = {i: str(word) for i, word in enumerate(words)}
            classes = named.values()
        if self.label == "folder":
            _merged(root, [root / files.folders[i] for i in np.unique(folder).tolist()], notes)
        names = tuple(sorted(set(named.values())))
        place = {name: i for i, name in enumerate(names)} if len(names) > 1 else {}
        labels = (place.get(name, 0) for name in classes)
        return tuple(place), np.fromiter(labels, np.int32, len(pictures))

    # -- what the files say
    def _channels(self, files: Files, pictures: np.ndarray) -> int:
        colour = pictures[(files["flags"][pictures] & GREY) == 0]
        first = files.path(colour[0]) if len(colour) else ""
        if self.channels == 1 and len(colour):
            announce_data(
                f"{len(colour)} pictures in colour are made grey (data.channels=1), first: {first}"
            )
        elif 0 < len(colour) < len(pictures) and not self.channels:
            which = f"{len(colour)} of {len(pictures)} pictures are in colour, first: {first}"
            announce_data(
                f"{which}; grey ones get three equal channels (data.channels=1 makes all grey)"
            )
        return self.channels or (3 if len(colour) else 1)

    def _found_range(self, files: Files, pictures: np.ndarray) -> Range | None:
        """The common range of pictures whose type has none, unless it is stated; prints a line."""
        flags, span = files["flags"][pictures], files["span"][pictures]
        deep, small = (flags & DEEP) != 0, files["side"][pictures] < self.size
        first = lambda which: files.path(pictures[which.argmax()])  # noqa: E731
        if small.any():
            announce_data(
                f"{small.sum()} of {len(pictures)} pictures are smaller than {self.size} pixels "
                f"and enlarged, first: {first(small)}"
            )
        if (several := (flags & FRAMES) != 0).any():
            announce_data(
                f"{several.sum()} pictures are animated or stacks: the first frame of each, first: "
                f"{first(several)}"
            )
        if self.range is not None:
            unused = "" if deep.any() else "; no picture has more, so it is not used"
            announce_data(
                f"data.range={list(self.range)} is that of {deep.sum()} pictures of more than 8 "
                f"bits{unused}"
            )
            return None
        ranges = [known for i in span[deep].tolist() if (known := SPANS[i]) is not None]
        for (low, high), n in Counter(ranges).items():
            announce_data(
                f"{n} pictures of 16 bits are read from {low:g} to {high:g}; "
                "data.range=[BLACK,WHITE] states another range"
            )
        return measured_range([files.path(i) for i in pictures[deep & (span == 0)]])


def _no_folder(root: str, usual: str) -> str:
    """Why there are no pictures where `data.root` points, or stands by default."""
    if root == usual:
        names = "data.root=DIR names the folder of pictures"
        return f"data.root is not given, and there is no folder '{usual}' here: {names}"
    hint = "; put your folder in the place of DIR" if Path(root).name == "DIR" else ""
    return f"data.root: '{root}' is not a folder{hint}"


def _checked(chosen: Chosen, files: Files) -> tuple[FolderSet, FolderSet]:
    """Both sets, of which pictures can be read; one twice where none can be held out."""
    train, test = (chosen.set(name, files) for name in SETS)
    train.check()
    if len(test) and test.readable():
        return train, test
    if len(test):
        announce_data(f"none of the {len(test)} held-out pictures can be read")
    announce_data(
        "no picture is held out of so few: what is measured is measured on those that are "
        "trained on"
    )
    return train, train


def _place(folder: Path, label: str) -> str:
    """The class that a picture's folder names; letters that are not UTF-8 are written out."""
    parts = folder.parts
    chosen = parts if label == "path" else parts[:1] if label == "top" else parts[-1:]
    return os.fsencode("/".join(chosen)).decode("utf-8", "backslashreplace")


def _merged(root: Path, places: list[Path], notes: Notes) -> None:
    """Say which folders of one name are one class."""
    folders: dict[str, list[str]] = {}
    for folder in sorted({*places} - {root}):
        folders.setdefault(folder.name, []).append(notes.name(folder))
    for name, several in folders.items():
        if len(several) > 1:
            announce_data(
                f"{len(several)} folders called '{name}' are one class ({', '.join(several[:3])}); "
                "data.label=path parts them"
            )
