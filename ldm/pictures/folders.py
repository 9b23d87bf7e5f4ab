"""`ImageFolder`: your own pictures, any size, mode and nesting, read as they are needed."""

import os
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ldm.errors import Refusal, nearest, one_of, require
from ldm.pictures.folder_set import FolderSet, Picture
from ldm.pictures.images import ImageData, Images
from ldm.pictures.listing import Listing, Notes, announce_data, listing
from ldm.pictures.metadata import Metadata, captions_beside, read_metadata
from ldm.pictures.opening import Head, View, extensions
from ldm.pictures.survey import heads_of, measured_range
from ldm.pictures.transforms import Fit, Range, is_range

PLACES = ("folder", "path", "top")  # labels that are of where a picture lies
TYPO = 0.75  # likeness of a wrong name to a right one that makes it a slip of the pen
LISTED = 40  # classes that are listed with their counts


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
            raise Refusal(f"data.root: '{root}' is not a folder")
        notes = Notes(root)
        found = listing(root, notes)
        if not found.pictures:
            tried = f"tried {' '.join(extensions()[:12])} ..., also in folders inside"
            raise Refusal(
                f"data.root: '{root}' holds no pictures "
                f"({tried}{f'; there: {found.kinds()}' * bool(found.others)})"
            )
        rows = read_metadata(root, found.tables, found.pictures, notes)
        paths = self._chosen(root, found.pictures, rows)
        heads = heads_of(root, paths)
        paths = [*heads]
        texts = self._captions(root, paths, found, rows, notes)
        names, labels = self._labels(root, paths, rows, notes)
        pictures = [Picture(*fields) for fields in zip(paths, labels, texts, strict=True)]
        shape = self._channels(heads), self.size, self.size
        view = View(shape, self.fit, self.range, self._found_range(heads))
        sets = self._split(root, pictures, names, view)
        if found.others:
            announce_data(f"not read: {found.kinds()}, first: {notes.name(found.others[0])}")
        notes.say()
        return Images(*sets, names, view.shape, view)

    def _chosen(self, root: Path, paths: list[Path], rows: Metadata) -> list[Path]:
        for column in self.skip:
            if column not in rows.columns and nearest(column, rows.columns, TYPO):
                rows.expect(column, "data.skip", root)
            elif column not in rows.columns:
                announce_data(
                    f"no column '{column}' in the metadata of '{root}': data.skip leaves nothing "
                    "out by it"
                )
        chosen = [
            p
            for p in paths
            if not any(str(rows.of(p).word(key)) in out for key, out in self.skip.items())
        ]
        if not chosen:
            raise Refusal(f"data.skip leaves none of the {len(paths)} pictures in '{root}'")
        if len(chosen) < len(paths):
            announce_data(
                f"{len(paths) - len(chosen)} of {len(paths)} pictures are left out by data.skip"
            )
        return chosen

    # -- what is known of each picture
    def _captions(
        self, root: Path, paths: list[Path], found: Listing, rows: Metadata, notes: Notes
    ) -> list[str]:
        """Of every picture, empty where there is none; from the metadata first."""
        if self.caption:
            rows.expect(self.caption, "data.caption", root)
        beside, alone = captions_beside(found.pictures, found.texts, notes)
        found.others += alone
        texts = [rows.of(p).caption(self.caption) or beside.get(p, "") for p in paths]
        for path, text in zip(paths, texts, strict=True):
            if rows.columns and path not in rows.rows:
                notes.add(
                    ("picture has no row in the metadata", "pictures have no row in the metadata"),
                    path,
                )
            elif any(texts) and not text:
                notes.add(("picture has no caption", "pictures have no caption"), path)
        self._expect_held({*texts}, root)
        return texts

    def _expect_held(self, texts: set[str], root: Path) -> None:
        """Refusal unless captions of `hold` are there.

        Where none is, the config is used for other data, which is announced.
        """
        missing = sorted({*self.hold} - texts)
        if missing and (
            {*self.hold} & texts or any(nearest(text, texts, TYPO) for text in missing)
        ):
            raise Refusal("data.hold: " + one_of("captions", missing[0], sorted(texts)[:20]))
        if missing:
            announce_data(
                f"no picture in '{root}' has a caption of data.hold, first: '{missing[0]}'; "
                "nothing is held out by it"
            )

    def _labels(
        self, root: Path, paths: list[Path], rows: Metadata, notes: Notes
    ) -> tuple[tuple[str, ...], list[int]]:
        """The classes' names, sorted, none where there are not two, and each picture's index."""
        if self.label in PLACES:
            classes = [_place(path.relative_to(root), self.label) for path in paths]
        else:
            words = [rows.of(path).word(self.label) for path in paths]
            if lacking := [path for path, word in zip(paths, words, strict=True) if word is None]:
                there = ", ".join(sorted(rows.columns)) or "no metadata at all"
                more = f" and {len(lacking) - 1} more" * (len(lacking) > 1)
                where = f"in {root}/metadata.* (there: {there}; or label={'|'.join(PLACES)})"
                raise Refusal(
                    f"data.label: no column '{self.label}' for {lacking[0]}{more} {where}"
                )
            classes = list(map(str, words))
        if self.label == "folder":
            _merged(root, paths, notes)
        names = tuple(sorted(set(classes)))
        names = names if len(names) > 1 else ()
        place = {name: i for i, name in enumerate(names)}
        return names, [place.get(name, 0) for name in classes]

    # -- what the files say
    def _channels(self, heads: dict[Path, Head]) -> int:
        colour = [path for path, head in heads.items() if not head.grey]
        if self.channels == 1 and colour:
            announce_data(
                f"{len(colour)} pictures in colour are made grey (data.channels=1), first: "
                f"{colour[0]}"
            )
        elif colour and len(colour) < len(heads) and not self.channels:
            which = f"{len(colour)} of {len(heads)} pictures are in colour, first: {colour[0]}"
            announce_data(
                f"{which}; grey ones get three equal channels (data.channels=1 makes all grey)"
            )
        return self.channels or (3 if colour else 1)

    def _found_range(self, heads: dict[Path, Head]) -> Range | None:
        """The common range of pictures whose type has none, unless it is stated; prints a line."""
        deep = [path for path, head in heads.items() if head.deep]
        if small := [path for path, head in heads.items() if head.shorter < self.size]:
            announce_data(
                f"{len(small)} of {len(heads)} pictures are smaller than {self.size} pixels and "
                f"enlarged, first: {small[0]}"
            )
        if several := [path for path, head in heads.items() if head.frames]:
            announce_data(
                f"{len(several)} pictures are animated or stacks: the first frame of each, first: "
                f"{several[0]}"
            )
        if self.range is not None:
            unused = "" if deep else "; no picture has more, so it is not used"
            announce_data(
                f"data.range={list(self.range)} is that of {len(deep)} pictures of more than 8 "
                f"bits{unused}"
            )
            return None
        ranges = [span for path in deep if (span := heads[path].range) is not None]
        for (low, high), n in Counter(ranges).items():
            announce_data(
                f"{n} pictures of 16 bits are read from {low:g} to {high:g}; "
                "data.range=[BLACK,WHITE] states another range"
            )
        return measured_range([path for path in deep if heads[path].range is None])

    # -- what is held out
    def _split(
        self, root: Path, pictures: list[Picture], names: tuple[str, ...], view: View
    ) -> tuple["FolderSet", "FolderSet"]:
        out = self._held_out(root, pictures)
        kept = [picture for picture, held in zip(pictures, out, strict=True) if not held]
        held = [picture for picture, held in zip(pictures, out, strict=True) if held]
        counts = Counter(picture.label for picture in pictures)
        if names:
            listed = [f"{name or 'no folder'} {counts[i]}" for i, name in enumerate(names[:LISTED])]
            more = f", and {len(names) - LISTED} more" * (len(names) > LISTED)
            announce_data(f"{len(names)} classes: {', '.join(listed)}{more}")
            trained = {picture.label for picture in kept}
            lost = [name for i, name in enumerate(names) if i not in trained]
            if lost and self.hold:
                announce_data(
                    f"{len(lost)} classes are held out whole by data.hold, first: {lost[0]}"
                )
        if not kept:
            raise Refusal(
                f"data.hold takes all of the {len(pictures)} pictures in '{root}'; none is left to "
                "train on"
            )
        train, test = FolderSet(kept, view), FolderSet(held or kept, view)
        train.check()
        if held and not test.readable():
            announce_data(f"none of the {len(held)} held-out pictures can be read")
            held = []
        if not held:
            announce_data(
                "no picture is held out of so few: what is measured is measured on those that are "
                "trained on"
            )
            return train, train
        return train, test

    def _held_out(self, root: Path, pictures: list[Picture]) -> list[bool]:
        """By the hash of a file's name, so that more pictures move none.

        Never all of a class, and at least one of a large one.
        """
        marks = [
            zlib.crc32(os.fsencode(picture.path.relative_to(root).as_posix()))
            for picture in pictures
        ]
        asked = [picture.text in self.hold for picture in pictures]
        out = [hold or mark % self.holdout == 0 for hold, mark in zip(asked, marks, strict=True)]
        members: dict[int, list[int]] = {}
        for i, picture in enumerate(pictures):
            if not asked[i]:
                members.setdefault(picture.label, []).append(i)
        for rows in members.values():
            taken = sum(out[i] for i in rows)
            if taken == len(rows):
                out[max(rows, key=lambda i: marks[i])] = False
            elif not taken and len(rows) >= self.holdout:
                out[min(rows, key=lambda i: marks[i])] = True
        return out


def _place(path: Path, label: str) -> str:
    """The class that a picture's folder names; letters that are not UTF-8 are written out."""
    parts = path.parts[:-1]
    chosen = parts if label == "path" else parts[:1] if label == "top" else parts[-1:]
    return os.fsencode("/".join(chosen)).decode("utf-8", "backslashreplace")


def _merged(root: Path, paths: list[Path], notes: Notes) -> None:
    """Say which folders of one name are one class."""
    folders: dict[str, list[str]] = {}
    for folder in sorted({path.parent for path in paths} - {root}):
        folders.setdefault(folder.name, []).append(notes.name(folder))
    for name, several in folders.items():
        if len(several) > 1:
            announce_data(
                f"{len(several)} folders called '{name}' are one class ({', '.join(several[:3])}); "
                "data.label=path parts them"
            )
