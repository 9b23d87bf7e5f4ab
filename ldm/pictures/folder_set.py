"""Pictures read from files as they are needed."""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ldm.errors import Refusal, printable, say
from ldm.pictures.opening import Unreadable, View
from ldm.system.batches import Batch
from ldm.system.identity import hash_of, hash_of_files
from ldm.system.rows import row_file


@dataclass
class Picture:
    """One file and what is known of it."""

    path: Path
    label: int
    text: str


class FolderSet(Dataset[Batch]):
    """Pictures read from files; an unreadable one is named once, and the next takes its place."""

    def __init__(self, pictures: Sequence[Picture], view: View):
        self.pictures, self.view = pictures, view
        self.named = torch.zeros(len(pictures), dtype=torch.uint8)
        # where there is no room, each worker names what it meets
        with contextlib.suppress(RuntimeError, OSError):
            self.named.share_memory_()

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is not forked: the list of pictures as a file, not a copy for each."""
        self.pictures = row_file(self.pictures)
        return self.__dict__

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def captions(self) -> list[str]:
        """Of every picture, empty where there is none."""
        return [picture.text for picture in self.pictures]

    @property
    def columns(self) -> dict[str, Sequence[str]]:
        return {"text": self.captions}

    def __getitem__(self, i: int) -> Batch:
        return self.__getitems__([i])

    def read(self, i: int) -> tuple[int, Tensor]:
        for j in range(i, i + len(self)):
            k = j % len(self)
            try:
                return k, self.view.read(self.pictures[k].path)
            except Unreadable as why:
                if not self.named[k]:
                    self.named[k] = 1
                    say(f"data: {printable(skipped(self.pictures[k].path, str(why)))}")
        raise Refusal(
            f"data.root: none of the {len(self)} pictures can be read, first: "
            f"{self.pictures[i % len(self)].path}"
        )

    def check(self) -> None:
        """Refusal where not one picture can be read."""
        self.read(0)

    def readable(self) -> bool:
        try:
            self.check()
        except Refusal:
            return False
        return True

    def __getitems__(self, indices: list[int]) -> Batch:
        rows, images = zip(*map(self.read, indices), strict=True)
        chosen = [self.pictures[i] for i in rows]
        labels = torch.tensor([p.label for p in chosen])
        return {
            "image": torch.stack(images),
            "label": labels,
            "index": torch.tensor(rows),
            "text": [p.text for p in chosen],
        }

    def shown(self, count: int) -> list[int]:
        """Rows for a panel: spread over the set, which lies class by class."""
        count = min(count, len(self))
        return [i * len(self) // count for i in range(count)]

    def fingerprint(self) -> str:
        """Of the files' names, sizes and times, their labels, and what is made of them."""
        digest = hashlib.sha256(repr(self.view).encode())
        for picture in self.pictures:
            path = picture.path.resolve()
            stat = path.stat()
            digest.update(repr((str(path), stat.st_size, stat.st_mtime_ns, picture.label)).encode())
        return digest.hexdigest()[:16]

    def identity(self) -> dict[str, str]:
        """Hashes of the pictures as they are read, and of their annotations (identity.py)."""
        content = hash_of(
            repr(self.view), hash_of_files([picture.path for picture in self.pictures])
        )
        labels, texts = (
            [repr(getattr(picture, key)) for picture in self.pictures] for key in ("label", "text")
        )
        return {"content": content, "labels": hash_of(*labels), "captions": hash_of(*texts)}


def skipped(path: Path, why: str) -> str:
    """The words for a picture that is left out."""
    return f"{path} cannot be read ({why}); skipped"
