"""`ImageFolder`: your own pictures, any size, mode and nesting, read as they are needed."""

import csv
import hashlib
import json
import zlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.batches import Batch
from ldm.data.images import ImageData, Images
from ldm.data.rows import row_file
from ldm.errors import Refusal, one_of, say

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
GREY_MODES = ("1", "L", "I", "I;16", "F")


@dataclass
class Picture:
    """One file and what is known of it."""

    path: Path
    label: int
    text: str


@dataclass
class ImageFolder(ImageData):
    """Pictures under `root`: the class is the folder's name, or the column `label` of metadata.jsonl / metadata.csv.

    Shorter side to `size`, centre crop; transparency on white; grey if all looked at are grey, else RGB. One in
    `holdout` of the files, chosen by a hash of the name, is held out, and so are all pictures of the captions in `hold`, to
    see what a model makes of what it never saw. Captions are the metadata's column `text`. `skip` leaves pictures out:
    {category: [Flags]} those whose metadata's column category says Flags.
    """

    root: str = "data"
    size: int = 64
    label: str = "folder"
    channels: int = 0  # 0: read from the first 200 pictures
    holdout: int = 10
    hold: list[str] = field(default_factory=list)
    skip: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1 or self.channels not in (0, 1, 3) or self.holdout < 2:
            raise ValueError("ImageFolder needs size >= 1, channels 0, 1 or 3, holdout >= 2")

    def load(self) -> Images:
        root = Path(self.root)
        paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
        if not root.is_dir() or not paths:
            why = "is not a folder" if not root.is_dir() else "holds no pictures"
            raise Refusal(f"data.root: '{root}' {why} (tried {' '.join(EXTENSIONS)}, also in folders inside)")
        rows = _metadata(root)
        paths = self._chosen(root, paths, rows)
        names, pictures = self.describe(root, paths, rows)
        if missing := sorted({*self.hold} - {p.text for p in pictures}):
            raise Refusal("data.hold: " + one_of("captions", missing[0], sorted({p.text for p in pictures})[:20]))
        channels = self.channels or _channels(paths[:200])
        held, kept = [], []
        for picture in pictures:
            name = picture.path.relative_to(root).as_posix()
            out = picture.text in self.hold or zlib.crc32(name.encode()) % self.holdout == 0
            (held if out else kept).append(picture)
        # too few pictures to hold any out: measure on the training ones
        sets = FolderSet(kept or pictures, self.size, channels), FolderSet(held or pictures, self.size, channels)
        return Images(*sets, names, (channels, self.size, self.size))

    def _chosen(self, root: Path, paths: list[Path], rows: dict[Path, dict[str, str]]) -> list[Path]:
        known = {key for row in rows.values() for key in row}
        for column in self.skip:
            if column not in known:
                raise Refusal(f"{root}/metadata.*: " + one_of("data.skip", column, sorted(known)))
        told = {path: rows.get(path.resolve(), {}) for path in paths}
        chosen = [p for p in paths if not any(str(told[p].get(key)) in values for key, values in self.skip.items())]
        if not chosen:
            raise Refusal(f"data.skip leaves none of the {len(paths)} pictures in '{root}'")
        return chosen

    def describe(self, root: Path, paths: list[Path], rows: dict[Path, dict[str, str]]) -> tuple[tuple[str, ...], list[Picture]]:
        """Class names, sorted, and a Picture for each path."""
        if self.label == "folder":
            classes = [p.parent.name if p.parent != root else "" for p in paths]
        else:
            lacking = [p for p in paths if self.label not in rows.get(p.resolve(), {})]
            if lacking:
                columns = ", ".join(sorted({key for row in rows.values() for key in row})) or "no metadata at all"
                raise Refusal(f"data.label: no column '{self.label}' for {lacking[0]} in {root}/metadata.* (there: {columns})")
            classes = [str(rows[p.resolve()][self.label]) for p in paths]
        names = tuple(sorted(set(classes)))
        if len(names) < 2:
            names = ()
        texts = [str(rows.get(p.resolve(), {}).get("text", "")) for p in paths]
        labels = [names.index(c) if names else 0 for c in classes]
        return names, [Picture(*fields) for fields in zip(paths, labels, texts, strict=True)]


def _metadata(root: Path) -> dict[Path, dict[str, str]]:
    """Rows of every metadata.jsonl and metadata.csv under root, keyed by the file that `file_name` names."""
    rows = {}
    for path in sorted([*root.rglob("metadata.jsonl"), *root.rglob("metadata.csv")]):
        try:
            with open(path, encoding="utf-8", newline="") as file:
                records = list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(x) for x in file if x.strip()]
            rows |= {(path.parent / record["file_name"]).resolve(): record for record in records}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Refusal(f"{path}: every row needs a file_name, as Hugging Face's imagefolder has it ({error!r})") from None
    return rows


def _channels(paths: list[Path]) -> int:
    modes = set()
    for path in paths:
        try:
            with Image.open(path) as image:
                modes.add(image.mode)
        except (OSError, UnidentifiedImageError):
            continue  # named when its turn comes to be read
    return 1 if modes and modes <= set(GREY_MODES) else 3


def read_image(path: Path, size: int, channels: int) -> Tensor:
    """A picture as uint8 (C, size, size): transparency on white, shorter side to `size`, centre crop."""
    with Image.open(path) as image:
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if image.mode.startswith(("I", "F")):  # 16 and 32 bit: scaled to the range they use, convert() would clip
            array = np.asarray(image, dtype=np.float64)
            image = Image.fromarray((255 * (array - array.min()) / max(np.ptp(array), 1e-12)).astype(np.uint8))
        image = image.convert("L" if channels == 1 else "RGB")
        scale = size / min(image.size)
        image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC, reducing_gap=3)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        pixels = np.array(image.crop((left, top, left + size, top + size)))
    return torch.from_numpy(pixels).reshape(size, size, channels).permute(2, 0, 1)


@cache
def _name_once(path: Path, why: str) -> None:
    say(f"data: {path} cannot be read ({why}); skipped")


class FolderSet(Dataset):
    """Pictures read from files. One that cannot be read is named once, and the next that can takes its place."""

    def __init__(self, pictures: list[Picture], size: int, channels: int):
        self.pictures, self.size, self.channels = pictures, size, channels

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is not forked: the list of pictures as a file, not as a copy for each."""
        self.pictures = row_file(self.pictures)
        return self.__dict__

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def captions(self) -> list[str]:
        """Of every picture, empty where there is none."""
        return [picture.text for picture in self.pictures]

    def __getitem__(self, i: int) -> Batch:
        return self.__getitems__([i])

    def read(self, i: int) -> tuple[int, Tensor]:
        for j in range(i, i + len(self)):
            picture = self.pictures[j % len(self)]
            try:
                return j % len(self), read_image(picture.path, self.size, self.channels)
            except UnidentifiedImageError:
                _name_once(picture.path, "not a picture")
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                _name_once(picture.path, str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise Refusal(f"data.root: none of the {len(self)} pictures can be read")

    def __getitems__(self, indices: list[int]) -> Batch:
        rows, images = zip(*map(self.read, indices), strict=True)
        chosen = [self.pictures[i] for i in rows]
        labels = torch.tensor([p.label for p in chosen])
        return {"image": torch.stack(images), "label": labels, "index": torch.tensor(rows), "text": [p.text for p in chosen]}

    def fingerprint(self) -> str:
        """Of the files' names, sizes and times, their labels, and what is made of them."""
        digest = hashlib.sha256(repr((self.size, self.channels)).encode())
        for picture in self.pictures:
            path = picture.path.resolve()
            stat = path.stat()
            digest.update(repr((str(path), stat.st_size, stat.st_mtime_ns, picture.label)).encode())
        return digest.hexdigest()[:16]
