"""Captions' token states on the disk, so that a run encodes each once, in batches.

A folder for each text encoder, named by its hash; in it files of blocks of captions, named by the
hash of what they hold:

    keys     (n, 16) uint8: BLAKE2b of each caption, in rising order
    offsets  (n + 1,) int64: where each one's states begin
    states   (tokens, dim) float32
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ldm.errors import say

BLOCK = 4096  # captions of a file
WIDTH = 16  # bytes of a key


def plain(caption: str) -> str:
    """A caption as it is encoded: white space is no part of it."""
    return " ".join(caption.split())


def key_of(caption: str) -> bytes:
    return hashlib.blake2b(caption.encode(), digest_size=WIDTH).digest()


def blocks_of(captions: Iterable[str], known: "CaptionStore") -> list[list[str]]:
    """Captions that a store has not, each once, in an order that is their own; blocks of BLOCK."""
    wanted = {key_of(text): text for text in map(plain, captions) if text}
    missing = [wanted[key] for key in sorted(wanted) if key not in known]
    return [missing[i : i + BLOCK] for i in range(0, len(missing), BLOCK)]


def write_block(folder: Path, captions: Sequence[str], states: Sequence[Tensor]) -> Path:
    """A file of these captions and their states (tokens, dim), whole or not at all."""
    keys = [key_of(caption) for caption in captions]
    name = hashlib.blake2b(b"".join(keys), digest_size=8).hexdigest()
    lengths = torch.tensor([0, *(len(part) for part in states)])
    tensors = {
        "keys": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).reshape(-1, WIDTH),
        "offsets": lengths.cumsum(0),
        "states": torch.cat(list(states)).float().contiguous(),
    }
    path = folder / f"{name}.safetensors"
    beside = path.with_suffix(f".{os.getpid()}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        save_file(tensors, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


class CaptionStore:
    """The states in a folder, mapped: all processes of a machine share the pages that are read.

    48 bytes of memory a caption; nothing that a file says of itself is believed before it is held
    against the rest of it.
    """

    def __init__(self, folder: Path, dim: int):
        self.folder, self.dim = folder, dim
        self.look()

    def look(self) -> None:
        """Take in what lies there now."""
        self.files: list[Any] = []
        parts = [
            part for path in sorted(self.folder.glob("*.safetensors")) for part in self._of(path)
        ]
        keys, places = zip(*parts, strict=True) if parts else ((), ())
        whole = np.concatenate([np.zeros((0, WIDTH), np.uint8), *keys])
        heads = whole[:, :8].copy().view(">u8")[:, 0].astype(np.uint64)
        order = np.argsort(heads, kind="stable")
        self.heads, self.keys = heads[order], whole[order]
        # file, first and last row of each
        self.places = np.concatenate([np.zeros((0, 3), np.int64), *places])[order]

    def _of(self, path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
        """The keys (n, 16) and places (n, 3) of a file; of a damaged one none, and a warning."""
        try:
            file = safe_open(path, "pt").__enter__()  # open as long as this is
            keys, offsets = file.get_tensor("keys").numpy(), file.get_tensor("offsets").numpy()
            rows, dim = file.get_slice("states").get_shape()
            right = keys.dtype == np.uint8 and keys.shape == (len(offsets) - 1, WIDTH)
            right = right and offsets[0] == 0 and offsets[-1] == rows and dim == self.dim
            if not right or (np.diff(offsets) < 0).any():
                raise ValueError("its parts do not fit together")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            why = str(error).splitlines()[0]
            say(f"text: {path} is damaged ({why}); its captions are encoded again")
            return []
        self.files.append(file)
        number = np.full(len(keys), len(self.files) - 1)
        return [(keys, np.stack([number, offsets[:-1], offsets[1:]], 1))]

    def __len__(self) -> int:
        return len(self.keys)

    def _row(self, key: bytes) -> int | None:
        row = int(np.searchsorted(self.heads, np.uint64(int.from_bytes(key[:8], "big"))))
        return row if row < len(self) and self.keys[row].tobytes() == key else None

    def __contains__(self, key: bytes) -> bool:
        return self._row(key) is not None

    def get(self, caption: str) -> Tensor | None:
        """The states (tokens, dim) of a caption as it is encoded; None where they are not here."""
        row = self._row(key_of(caption))
        if row is None:
            return None
        file, first, last = map(int, self.places[row])
        return self.files[file].get_slice("states")[first:last]
