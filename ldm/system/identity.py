"""The identity of a data set: short hashes, kept in every checkpoint.

`content` is of the pictures or jets themselves, `labels` and `captions` of their annotations.
They check the data of a resumed run, and of a stage 1 found by its config.
"""

import hashlib
import os
from collections.abc import Sequence
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


def hash_of_files(paths: Sequence[Path]) -> str:
    """Of names within the folder that holds them all, sizes, and first bytes of some of the files.

    Not of that folder's own name and of times: it may be moved or copied. A large set is not read
    whole.
    """
    top = os.path.commonpath([path.absolute().parent for path in paths])
    names = (f"{os.path.relpath(path.absolute(), top)} {path.stat().st_size}" for path in paths)
    looked_at = hashlib.sha256()
    for path in paths[:: -(-len(paths) // LOOKED_AT)]:
        with open(path, "rb") as file:
            looked_at.update(file.read(65536))
    return hash_of(*names, looked_at.hexdigest())
