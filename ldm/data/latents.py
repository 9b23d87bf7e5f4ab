"""The latent cache: posterior moments of a whole training set, computed once, kept in one mapped file.

A folder is named by a fingerprint of autoencoder x data x orientations, so a stale one is never met, and gets its name when
it is whole, so neither is half of one. The file is float16: its rounding is below a thousandth of a latent's spread.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.batches import Batch
from ldm.errors import Refusal, say

VERSION = 1  # of what the files hold
PARTS = {"moments": np.float16, "label": np.int64, "index": np.int64}


def cache_folder(root: Path, autoencoder: str, data: str, orientations: int) -> Path:
    """Where the latents of this autoencoder on this data lie."""
    key = hashlib.sha256(repr((VERSION, autoencoder, data, orientations)).encode()).hexdigest()[:16]
    return root / "latents" / key


class LatentCache(Dataset):
    """moments (N, orientations, 2 z, h, w): mean and log-variance of q(z | picture), and of q(z | its mirror image).

    A batch has the keys moments, label and index of pictures; without `read`, label and index alone. Captions, which change
    nothing about latents, are not in the files: whoever opens them gives the data set's own, and a batch has them as text.
    """

    def __init__(self, folder: Path, read: bool = True):
        self.folder, self.read = folder, read
        self.captions: list[str] | None = None
        self.parts = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in PARTS}

    def __len__(self) -> int:
        return len(self.parts["label"])

    def __getitem__(self, i: int) -> Batch:
        return self.__getitems__([i])

    def __getitems__(self, indices: list[int]) -> Batch:
        names = [name for name in self.parts if self.read or name != "moments"]
        batch: Batch = {name: torch.from_numpy(np.ascontiguousarray(self.parts[name][indices])) for name in names}
        # by the picture's own index: an unreadable one has another in its place
        return batch | ({"text": [self.captions[i] for i in batch["index"].tolist()]} if self.captions else {})

    @property
    def size(self) -> int:
        """Of the moments, bytes."""
        return self.parts["moments"].nbytes

    def table(self, device: torch.device) -> Tensor:
        """All moments, on a device."""
        return torch.from_numpy(np.array(self.parts["moments"])).to(device)


def open_cache(folder: Path) -> LatentCache | None:
    """The cache in a folder; None where there is none, or where it is damaged."""
    if not folder.is_dir():
        return None
    try:
        sizes = json.loads((folder / "about.json").read_text())["bytes"]
        if any((folder / f"{name}.npy").stat().st_size != sizes[name] for name in PARTS):
            raise ValueError("a file was cut short")
        return LatentCache(folder)
    except (OSError, ValueError, KeyError) as error:
        say(f"latent cache: {folder} is damaged ({str(error).splitlines()[0]}); computed again")
        return None


class Writer:
    """A cache in the making, in a folder beside: every rank writes its rows, rank 0 begins and ends it."""

    def __init__(self, folder: Path, partial: Path):
        self.folder, self.partial = folder, partial

    def begin(self, count: int, shape: tuple[int, ...]) -> None:
        """Take the room on the disk before the work; Refusal if it is not there."""
        try:
            self.partial.mkdir(parents=True)
            for name, kind in PARTS.items():
                sizes = (count, *shape) if name == "moments" else (count,)
                with open(self.partial / f"{name}.npy", "wb") as file:
                    header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": sizes}
                    np.lib.format.write_array_header_1_0(file, header)
                    # a mapped file that finds the disk full later would kill the process by a signal
                    os.posix_fallocate(file.fileno(), file.tell(), int(np.prod(sizes)) * np.dtype(kind).itemsize)
        except OSError as error:
            shutil.rmtree(self.partial, ignore_errors=True)
            size = 2 * count * int(np.prod(shape)) / 1e9
            raise Refusal(
                f"latent cache: {size:.1f} GB for {self.folder} cannot be had ({error.strerror}); "
                "free the room, set output, or space.cache=false"
            ) from None

    def open(self) -> None:
        """On every rank, once it has begun."""
        self.parts = {name: np.load(self.partial / f"{name}.npy", mmap_mode="r+") for name in PARTS}

    def put(self, rows: list[int], moments: Tensor, label: Tensor, index: Tensor) -> None:
        """The posterior of pictures `rows`, (B, orientations, 2 z, h, w); Refusal where it does not fit into 16 bits."""
        half = moments.half().cpu()
        if not torch.isfinite(half.chunk(2, 2)[0]).all():
            raise Refusal(f"latent cache: the latents of pictures {rows[:8]} are not finite in 16 bits; space.cache=false")
        for name, value in (("moments", half), ("label", label), ("index", index)):
            self.parts[name][rows] = value.numpy()

    def close(self) -> None:
        """On every rank, before it ends."""
        for part in self.parts.values():
            part.flush()

    def end(self) -> None:
        """Give the folder its name; one that another run has made since is as good."""
        sizes = {name: (self.partial / f"{name}.npy").stat().st_size for name in PARTS}
        (self.partial / "about.json").write_text(json.dumps({"version": VERSION, "bytes": sizes}) + "\n")
        if self.folder.exists() and open_cache(self.folder) is None:
            shutil.rmtree(self.folder)
        try:
            os.replace(self.partial, self.folder)
        except OSError:
            shutil.rmtree(self.partial)
