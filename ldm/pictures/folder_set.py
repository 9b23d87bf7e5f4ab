"""Pictures read from files as they are needed."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ldm.errors import Refusal, printable, say
from ldm.pictures.filelist import Files
from ldm.pictures.opening import Unreadable, View
from ldm.system.arrays import Words
from ldm.system.batches import Batch
from ldm.system.files import atomic_write
from ldm.system.identity import (
    hash_of,
    hash_of_files,
    hash_of_names,
    hash_of_texts,
    looked_at,
)
from ldm.system.rows import row_file


@dataclass
class Picture:
    """One file and what is known of it."""

    path: Path
    label: int
    text: str


class Listed(Sequence[Picture]):
    """Pictures by their numbers in a folder's files, each made when it is asked for.

    rows, label: (N,); texts: the captions, None where there are none. `reopen(*source)` is it in
    another process, where it is kept.
    """

    def __init__(
        self,
        files: Files,
        rows: np.ndarray,
        label: np.ndarray,
        texts: Words | None,
        reopen: Callable[..., "Listed"],
        source: tuple[Any, ...] | None,
    ):
        self.files, self.rows, self.label, self.texts = files, rows, label, texts
        self.reopen, self.source = reopen, source

    def __reduce__(self) -> tuple[Any, ...]:
        assert self.source is not None, "what is not kept goes as a file of rows"
        return self.reopen, self.source

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> Picture: ...
    @overload
    def __getitem__(self, i: slice) -> list[Picture]: ...
    def __getitem__(self, i: int | slice) -> Picture | list[Picture]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        text = self.texts[i] if self.texts is not None else ""
        return Picture(self.files.path(self.rows[i]), int(self.label[i]), text)

    def captions(self) -> Sequence[str]:
        if self.texts is None:
            return [""] * len(self)
        return self.texts if self.source else [*self.texts]

    def names(self) -> Iterator[tuple[str, str, bool, int, int]]:
        """Folder and name, whether it is a link, size and time of each file."""
        columns = (self.files[name] for name in ("folder", "link", "size", "mtime"))
        folder, link, size, mtime = (column[self.rows] for column in columns)
        for start in range(0, len(self), 4096):
            part = slice(start, start + 4096)
            names = self.files.names.some(self.rows[part].tolist())
            rest = (column[part].tolist() for column in (folder, link, size, mtime))
            for name, at, linked, bytes_, time in zip(names, *rest, strict=True):
                yield self.files.folders[at], name, bool(linked), bytes_, time

    def resolved(self) -> Iterator[tuple[str, int, int]]:
        """Real path, size and time of each file."""
        real = cache(lambda folder: os.path.realpath(os.path.join(self.files.root, folder)))
        for folder, name, linked, size, time in self.names():
            path = os.path.join(real(folder), name)
            yield os.path.realpath(path) if linked else path, size, time

    def hash_of_files(self) -> str:
        """As identity.hash_of_files, of what is known of them."""
        inside = cache(lambda folder: os.path.join(os.path.abspath(self.files.root), folder))
        used = [self.files.folders[i] for i in np.unique(self.files["folder"][self.rows]).tolist()]
        top = os.path.commonpath(list(map(inside, used)))
        above = cache(lambda folder: os.path.relpath(os.path.join(inside(folder), "x"), top)[:-1])
        names = (f"{above(at)}{name} {size}" for at, name, _, size, _ in self.names())
        read = (self.files.path(self.rows[i]) for i in looked_at(len(self)))
        return hash_of_names(names, read)


class FolderSet(Dataset[Batch]):
    """Pictures read from files; an unreadable one is named once, and the next takes its place."""

    def __init__(self, pictures: Sequence[Picture], view: View, memory: Path | None = None):
        """`memory`: where hashes of it are kept for the next start."""
        self.pictures, self.view, self.memory = pictures, view, memory
        self.named = torch.zeros(len(pictures), dtype=torch.uint8)
        # where there is no room, each worker names what it meets
        with contextlib.suppress(RuntimeError, OSError):
            self.named.share_memory_()

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is not forked: the list of pictures as a file, not a copy for each."""
        if not isinstance(self.pictures, Listed) or self.pictures.source is None:
            self.pictures = row_file(self.pictures)
        return self.__dict__

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def captions(self) -> Sequence[str]:
        """Of every picture, empty where there is none."""
        if isinstance(self.pictures, Listed):
            return self.pictures.captions()
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
        return self._kept("fingerprint", lambda: {"all": self._fingerprint()})["all"]

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.view).encode())
        labels = self._labels()
        for (path, size, time), label in zip(self._resolved(), labels, strict=True):
            digest.update(repr((path, size, time, label)).encode())
        return digest.hexdigest()[:16]

    def identity(self) -> dict[str, str]:
        """Hashes of the pictures as they are read, and of their annotations (identity.py)."""
        return self._kept("identity", self._identity)

    def _identity(self) -> dict[str, str]:
        content = hash_of(repr(self.view), self._hash_of_files())
        labels, texts = map(repr, self._labels()), map(repr, self.captions)
        return {
            "content": content,
            "labels": hash_of_texts(labels),
            "captions": hash_of_texts(texts),
        }

    def _labels(self) -> Iterable[int]:
        if isinstance(self.pictures, Listed):
            return self.pictures.label.tolist()
        return (picture.label for picture in self.pictures)

    def _resolved(self) -> Iterator[tuple[str, int, int]]:
        if isinstance(self.pictures, Listed):
            yield from self.pictures.resolved()
            return
        for path in (picture.path.resolve() for picture in self.pictures):
            about = path.stat()
            yield str(path), about.st_size, about.st_mtime_ns

    def _hash_of_files(self) -> str:
        if isinstance(self.pictures, Listed):
            return self.pictures.hash_of_files()
        return hash_of_files([picture.path for picture in self.pictures])

    def _kept(self, name: str, compute: Callable[[], dict[str, str]]) -> dict[str, str]:
        """A hash of it, from memory where it is there; Refusal if a file has changed since."""
        if isinstance(self.pictures, Listed):
            self.pictures.files.expect_same()
        path = self.memory and self.memory.with_suffix(f"{self.memory.suffix}-{name}.json")
        if path is None:
            return compute()
        try:
            return dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            found = compute()
        with contextlib.suppress(OSError), atomic_write(path) as file:
            json.dump(found, file)
        return found


def skipped(path: Path, why: str) -> str:
    """The words for a picture that is left out."""
    return f"{path} cannot be read ({why}); skipped"
