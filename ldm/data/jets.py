"""Jets as sets of particles: JetNet's gluon, light-quark, top, W and Z jets, held in memory."""

import hashlib
import json
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.request import urlopen

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ldm.data.batches import Batch
from ldm.data.jet_files import read_jets
from ldm.errors import Refusal, one_of, require, say

TYPES = ("g", "q", "t", "w", "z")
NAMES = {"g": "gluon", "q": "light quark", "t": "top", "w": "W", "z": "Z"}
RECORDS = {30: 6975118, 150: 6975117}  # Zenodo's, as the `jetnet` package has them


class JetSet(Dataset):
    """Jets in memory.

    features (N, P, 3) = eta_rel, phi_rel, pt_rel, in the file's order; mask (N, P) bool; jet (N, 4) = pt [GeV], eta,
    mass [GeV], number of constituents; types (N,) into the data set's classes.
    """

    def __init__(self, features: Tensor, mask: Tensor, jet: Tensor, types: Tensor):
        self.features, self.mask, self.jet, self.types = features, mask, jet, types.long()

    def __len__(self) -> int:
        return len(self.features)

    @property
    def counts(self) -> Tensor:
        """Number of constituents of each jet, (N,) int64."""
        return self.mask.sum(1)

    def first(self, count: int) -> "JetSet":
        """The first so many, or all if there are fewer."""
        return JetSet(self.features[:count], self.mask[:count], self.jet[:count], self.types[:count])

    def __getitem__(self, i: int) -> Batch:
        return self.__getitems__([i])

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.tensor(indices)
        mask = self.mask[rows]
        batch = {"particles": self.features[rows], "mask": mask, "count": mask.sum(1), "jet": self.jet[rows]}
        return batch | {"label": self.types[rows], "index": rows}


@dataclass
class Jets:
    """What a data set of jets is to the rest: three sets, the classes' names, and the shape (P, 3)."""

    train: JetSet
    valid: JetSet
    test: JetSet
    classes: tuple[str, ...]
    shape: tuple[int, int]

    def about(self) -> dict[str, Any]:
        """What a checkpoint keeps of it beside the config: nothing."""
        return {}

    @property
    def held_out(self) -> JetSet:
        """What training measures itself on: never the test jets, unless there are no others."""
        return self.valid if len(self.valid) else self.test


@dataclass
class JetNet:
    """JetNet's files (Kansal et al. 2021): `root` is one HDF5 file, or the folder of g.hdf5, q150.hdf5, ...

    `split`: "jetnet" permutes with numpy's default_rng(42) as the jetnet package does, "order" cuts the file in its own
    order. `parts` are train, valid, test: shares of the jets, or, when they add up to more than 1, numbers of jets.
    """

    batch_size: int = 256  # per device
    workers: int = 0
    flip: bool = True  # mirror half of the training jets in eta, and half in phi
    root: str = "data"
    types: tuple[str, ...] = ("g",)
    constituents: int = 30
    truncate: bool = False  # keep the hardest constituents where a jet has more, instead of refusing it
    split: Literal["jetnet", "order"] = "jetnet"
    parts: tuple[float, float, float] = (0.7, 0.15, 0.15)
    download: bool = True

    seed: ClassVar[int] = 42  # of the split, the jetnet package's

    def __post_init__(self) -> None:
        require(self.batch_size >= 1 and self.workers >= 0, "batch_size must be at least 1 and workers at least 0")
        require(1 <= self.constituents <= 150, f"constituents must be in 1 ... 150, got {self.constituents}")
        for kind in self.types:
            require(kind in TYPES, one_of("types", kind, TYPES))
        require(bool(self.types) and len(set(self.types)) == len(self.types), "types must name each type once")
        require(min(self.parts) >= 0 and self.parts[0] > 0 and self.parts[2] > 0, "parts: train and test must be above 0")

    def load(self) -> Jets:
        """Read the files and split them; Refusal where they cannot be had or are not JetNet's layout."""
        kinds = [kind for kind in TYPES if kind in self.types]  # JetNet's order of types
        files = [read_jets(self.find(kind), self.constituents, self.truncate) for kind in kinds]
        features, mask, jet = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*files, strict=True))
        types = torch.cat([torch.full((len(file[0]),), i) for i, file in enumerate(files)])
        sets = [JetSet(features[rows], mask[rows], jet[rows], types[rows]) for rows in self.rows(len(types))]
        classes = tuple(NAMES[kind] for kind in kinds) if len(kinds) > 1 else ()
        return Jets(*sets, classes, (self.constituents, 3))

    def rows(self, n: int) -> list[Tensor]:
        """Indices of train, valid and test."""
        order = np.random.default_rng(self.seed).permutation(n) if self.split == "jetnet" else np.arange(n)
        shares = sum(self.parts) <= 1 + 1e-9
        cuts = np.cumsum([0, *self.parts])
        cuts = (np.minimum(cuts, 1) * n).astype(int) if shares else cuts.astype(int)  # truncated, as jetnet does
        if cuts[-1] > n or cuts[1] < 1 or cuts[3] <= cuts[2]:
            raise Refusal(f"data.parts: {tuple(self.parts)} cannot be cut from the {n} jets of '{self.root}'")
        return [torch.from_numpy(order[a:b].copy()) for a, b in pairwise(cuts)]

    def find(self, kind: str) -> Path:
        """The file of one type; downloaded into `root` if it is not there."""
        root = Path(self.root)
        if root.is_file() or root.suffix in (".hdf5", ".h5"):
            if len(self.types) > 1:
                raise Refusal(f"data.root: '{root}' is one file, and data.types names {len(self.types)} types; give their folder")
            return root
        few, many = root / f"{kind}.hdf5", root / f"{kind}150.hdf5"
        for path in (few, many) if self.constituents <= 30 else (many, few):
            if path.is_file():
                return path
        size = 30 if self.constituents <= 30 else 150
        wanted = few if size == 30 else many
        if not self.download:
            raise Refusal(f"data.root: no {wanted.name} in '{root}'; set data.root=FILE or DIR, or data.download=true")
        return download(wanted, RECORDS[size])


def download(path: Path, record: int) -> Path:
    """Get a file of a Zenodo record, as the jetnet package does, and hold it against Zenodo's MD5."""
    say(f"data: downloading {path.name} from zenodo.org/records/{record} into {path.parent}")
    part = path.with_name(path.name + ".part")
    try:
        with urlopen(f"https://zenodo.org/api/records/{record}", timeout=20) as answer:
            entry = next(f for f in json.load(answer)["files"] if f.get("key", f.get("filename")) == path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        url = entry["links"].get("self") or entry["links"]["download"]
        digest = _fetch(url, part, entry.get("size"))
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise Refusal(f"data: {path.name} is not in '{path.parent}' and cannot be downloaded ({error}); set data.root") from None
    if digest != entry["checksum"].removeprefix("md5:"):
        part.unlink()
        raise Refusal(f"data: {path.name} came with another checksum than Zenodo's ({digest}); try again")
    os.replace(part, path)
    return path


def _fetch(url: str, part: Path, size: int | None) -> str:
    """Stream a URL into a file; its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    with urlopen(url, timeout=60) as answer, open(part, "wb") as file, tqdm(total=size, unit="B", unit_scale=True) as bar:
        while block := answer.read(1 << 20):
            file.write(block)
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
