"""LeCun's idx files."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ldm.errors import Refusal

LARGEST = 2_000_000_000  # bytes of an idx file, which is held in memory


def read_idx(path: Path) -> Tensor:
    """An idx file, gz or not, as uint8: 2 zero bytes, type 8, rank, sizes, data (LeCun)."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            start = file.read(4)
            if start[:3] != b"\0\0\x08":
                raise ValueError("the first bytes are not those of an idx file of bytes")
            shape = struct.unpack(f">{start[3]}I", file.read(4 * start[3]))
            room = path.stat().st_size * (
                1032 if path.suffix == ".gz" else 1
            )  # the most that gzip can pack
            if (size := math.prod(shape)) > min(room, LARGEST):
                raise ValueError(f"it claims {size / 1e6:.1f} MB")
            raw = bytearray(file.read(size))
            if file.read(1):
                raise ValueError("it holds more than its header says")
        return torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(shape))
    except (OSError, EOFError, ValueError, IndexError, struct.error, zlib.error) as error:
        raise Refusal(f"{path} cannot be read as an idx file ({error}); get it again") from None
