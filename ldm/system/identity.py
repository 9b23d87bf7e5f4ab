"""The identity of a data set: short hashes, kept in every checkpoint.

`content` is of the pictures or jets themselves, `labels` and `captions` of their annotations.
They check the data of a resumed run, and of a stage 1 found by its config.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path

from torch import Tensor

LOOKED_AT = 256  # files of a set whose bytes are read


def hash_of(*parts: Tensor | str) -> str:
    """A short hash of tensors and texts, the same on every machine."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(repr((tuple(part.shape), part.dtype)).encode())
            found.update(part.contiguous().cpu().numpy().data)
        else:
            found.update(part.encode(errors="surrogatepass") + b"\0")
    return found.hexdigest()[:16]


def hash_of_texts(texts: Iterable[str]) -> str:
    """The same of many texts, which are not held at once."""
    found, texts = hashlib.sha256(), iter(texts)
    while some := list(islice(texts, 4096)):
        found.update("\0".join(some).encode(errors="surrogatepass") + b"\0")
    return found.hexdigest()[:16]


def hash_of_files(paths: Sequence[Path]) -> str:
    """Of names within the folder that holds them all, sizes, and first bytes of some of the files.

    Not of that folder's own name and of times: it may be moved or copied. A large set is not read
    whole.
    """
    top = os.path.commonpath([path.absolute().parent for path in paths])
    names = (f"{os.path.relpath(path.absolute(), top)} {path.stat().st_size}" for path in paths)
    return hash_of_names(names, [paths[i] for i in looked_at(len(paths))])


def looked_at(count: int) -> range:
    """Which of so many files are read."""
    return range(0, count, -(-count // LOOKED_AT))


def hash_of_names(names: Iterable[str], read: Iterable[Path]) -> str:
    """Of `NAME SIZE` of each file, and of the first bytes of those to be read."""
    start = hashlib.sha256()
    for path in read:
        with open(path, "rb") as file:
            start.update(file.read(65536))
    return hash_of_texts(chain(names, [start.hexdigest()]))
