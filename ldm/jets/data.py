"""Jets as sets of particles: JetNet's gluon, light-quark, top, W and Z jets, held in memory."""

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ldm.errors import Refusal, one_of, require, say
from ldm.jets.download import download
from ldm.jets.files import constituent_capacity, read_jets
from ldm.system.batches import Batch
from ldm.system.data import DataConfig, PlainRows
from ldm.system.identity import hash_of

TYPES = ("g", "q", "t", "w", "z")
NAMES = {"g": "gluon", "q": "light quark", "t": "top", "w": "W", "z": "Z"}
RECORDS = {30: 6975118, 150: 6975117}  # Zenodo's, as the `jetnet` package has them
USUAL = 30  # constituents, where no one has asked for a number


def kind_of(path: Path) -> str | None:
    """The jet type in a file's name (g.hdf5, gluon30_mini.hdf5, light-quark.hdf5), or None."""
    words = re.findall(r"[a-z]+", path.stem.lower())
    first = words[0].removesuffix("s") if words else ""
    short = {
        kind: {kind, name.lower(), name.lower().split()[-1], name.lower().split()[0]}
        for kind, name in NAMES.items()
    }
    return next((kind for kind, names in short.items() if first in names), None)


def interleave_types(types: Tensor) -> Tensor:
    """Rows (N,) of types (N,), reordered so that every stretch has the same share of each type.

    Each type keeps its own order.
    """
    place = torch.zeros(len(types), dtype=torch.float64)
    for kind in types.unique():
        rows = (types == kind).nonzero()[:, 0]
        place[rows] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / len(rows)
    return place.argsort(stable=True)


class JetSet(PlainRows):
    """Jets in memory.

    features (N, P, 3) = eta_rel, phi_rel, pt_rel, in the file's order; mask (N, P) bool; jet (N, 4)
    = pt [GeV], eta, mass [GeV], number of constituents; types (N,) into the data set's classes.
    """

    def __init__(self, features: Tensor, mask: Tensor, jet: Tensor, types: Tensor):
        self.features, self.mask, self.jet, self.types = features, mask, jet, types.long()

    def __len__(self) -> int:
        return len(self.features)

    @property
    def counts(self) -> Tensor:
        """Number of constituents of each jet, (N,) int64."""
        return self.mask.sum(1)

    def rows(self, rows: Tensor | slice) -> "JetSet":
        """Some of the jets."""
        return JetSet(self.features[rows], self.mask[rows], self.jet[rows], self.types[rows])

    def first(self, count: int) -> "JetSet":
        """The first so many, each type by its share in the whole; at most all."""
        return self.rows(interleave_types(self.types)[:count]) if count < len(self) else self

    def like(self, other: "JetSet") -> "JetSet":
        """As many jets of each type as `other` has; fewer of all where one type has not enough."""
        wanted = torch.bincount(other.types)
        here = torch.bincount(self.types, minlength=len(wanted))[: len(wanted)]
        share = min(1.0, (here[wanted > 0] / wanted[wanted > 0]).min().item())
        rows = [
            (self.types == kind).nonzero()[: int(n * share), 0]
            for kind, n in enumerate(wanted.tolist())
        ]
        return self.rows(torch.cat(rows).sort().values)

    def identity(self) -> dict[str, str]:
        """Hashes of the jets and of their types, for the checkpoint."""
        content = hash_of(self.features, self.mask, self.jet)
        return {"content": content, "labels": hash_of(self.types)}

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.tensor(indices)
        mask = self.mask[rows]
        batch = {
            "particles": self.features[rows],
            "mask": mask,
            "count": mask.sum(1),
            "jet": self.jet[rows],
        }
        return batch | {"label": self.types[rows], "index": rows}


@dataclass
class Jets:
    """A data set of jets: three sets, the classes' names, and the shape (P, 3)."""

    train: JetSet
    valid: JetSet
    test: JetSet
    classes: tuple[str, ...]
    shape: tuple[int, int]
    kinds: tuple[str, ...] = ("g",)  # JetNet's letter of each type, in the order of `types`

    def about(self) -> dict[str, Any]:
        """What a checkpoint keeps of it beside the config: nothing."""
        return {}

    def shown(self, count: int) -> Tensor:
        """The first held-out jets, (N, P, 3)."""
        return self.held_out.features[:count]

    @property
    def held_out(self) -> JetSet:
        """What training measures itself on: never the test jets, unless there are no others."""
        return self.valid if len(self.valid) else self.test


@dataclass
class JetNet(DataConfig):
    """JetNet's files (Kansal et al. 2021).

    `root` is one HDF5 file, or the folder of g.hdf5, q150.hdf5, ...
    `split`: "jetnet" permutes with numpy's default_rng(42) as the jetnet package does, "order" cuts
    each type's file in its own order. `parts` are train, valid, test: shares of the jets, or, when
    they add up to more than 1, numbers of jets, of which each type has its share. `bad`: jets with
    values that cannot be are refused, or left out and counted.
    """

    batch_size: int = 256  # per device
    workers: int = 0
    flip: bool = True  # mirror half of the training jets in eta, and half in phi
    modality: ClassVar[str] = "jets"
    axes: ClassVar[int] = 2
    root: str = "data"
    types: tuple[str, ...] = ("g",)
    constituents: int = 30
    truncate: bool = False  # keep the hardest constituents where a jet has more; else refuse it
    split: Literal["jetnet", "order"] = "jetnet"
    parts: tuple[float, float, float] = (0.7, 0.15, 0.15)
    download: bool = True
    bad: Literal["refuse", "skip"] = "refuse"

    seed: ClassVar[int] = 42  # of the split, the jetnet package's

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            1 <= self.constituents <= 150,
            f"constituents must be in 1 ... 150, got {self.constituents}",
        )
        for kind in self.types:
            require(kind in TYPES, one_of("types", kind, TYPES))
        require(
            bool(self.types) and len(set(self.types)) == len(self.types),
            "types must name each type once",
        )
        whole = (
            all(0 <= part < math.inf for part in self.parts)
            and self.parts[0] > 0
            and self.parts[2] > 0
        )
        require(whole, "parts: train and test must be above 0, all finite")

    def load(self) -> Jets:
        """Read the files and split them; Refusal where they are missing or of another layout."""
        kinds = [kind for kind in TYPES if kind in self.types]  # JetNet's order of types
        paths = [self.find(kind) for kind in kinds]
        for kind, path in zip(kinds, paths, strict=True):
            self.check(kind, path)
        files = [read_jets(path, self.constituents, self.truncate, self.bad) for path in paths]
        features, mask, jet = (
            torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*files, strict=True)
        )
        types = torch.cat([torch.full((len(file[0]),), i) for i, file in enumerate(files)])
        whole = JetSet(features, mask, jet, types)
        train, valid, test = sets = [whole.rows(rows) for rows in self.cut(whole.types)]
        classes = tuple(NAMES[kind] for kind in kinds) if len(kinds) > 1 else ()
        if classes:
            self.count(sets, classes)
        return Jets(train, valid, test, classes, (self.constituents, 3), tuple(kinds))

    def cut(self, types: Tensor) -> list[Tensor]:
        """Indices of train, valid and test."""
        n = len(types)
        order = (
            np.random.default_rng(self.seed).permutation(n)
            if self.split == "jetnet"
            else interleave_types(types).numpy()
        )
        shares = sum(self.parts) <= 1 + 1e-9
        cuts = np.cumsum([0, *self.parts])
        cuts = (
            (np.minimum(cuts, 1) * n).astype(int) if shares else cuts.astype(int)
        )  # truncated, as jetnet does
        if cuts[-1] > n or cuts[1] < 1 or cuts[3] <= cuts[2]:
            raise Refusal(
                f"data.parts: {tuple(self.parts)} cannot be cut from the {n} jets of '{self.root}'"
            )
        return [torch.from_numpy(order[a:b].copy()) for a, b in pairwise(cuts)]

    def count(self, sets: list[JetSet], classes: tuple[str, ...]) -> None:
        """Say how many jets of each type there are; Refusal where one has none to train on."""
        table = torch.stack(
            [torch.bincount(part.types, minlength=len(classes)) for part in sets], 1
        ).tolist()
        rows = [
            f"{name} {', '.join(map(str, row))}" for name, row in zip(classes, table, strict=True)
        ]
        say(f"data: jets to train on, held out, to test on: {'; '.join(rows)}")
        if empty := [name for name, row in zip(classes, table, strict=True) if not row[0]]:
            raise Refusal(
                f"data.parts: {tuple(self.parts)} leaves no {empty[0]} jet to train on; leave the "
                "type out"
            )

    def check(self, kind: str, path: Path) -> None:
        """Refusal, before reading, of a file too narrow or of jets of another type by its name."""
        room = constituent_capacity(path)
        if self.constituents > USUAL and 0 < room < self.constituents:
            where = f"{path} has room for {room} constituents a jet"
            raise Refusal(
                f"data.constituents: {self.constituents} asked for, {where}; set "
                f"data.constituents={room}"
            )
        if (said := kind_of(path)) not in (kind, None):
            say(
                f"data: the name of {path} says {NAMES[said]} jets, data.types says {NAMES[kind]}; "
                f"if so, set data.types=[{said}]"
            )

    def find(self, kind: str) -> Path:
        """The file of one type, downloaded into `root` if missing; Refusal if it is too narrow."""
        root = Path(self.root)
        if root.is_file() or root.suffix in (".hdf5", ".h5"):
            if len(self.types) > 1:
                raise Refusal(
                    f"data.root: '{root}' is one file, and data.types names {len(self.types)} "
                    "types; give their folder"
                )
            return root
        few, many = root / f"{kind}.hdf5", root / f"{kind}150.hdf5"
        wanted, other = (few, many) if self.constituents <= USUAL else (many, few)
        # of 150, whose hardest are taken or missed
        if wanted.is_file() or (other == many and other.is_file()):
            return wanted if wanted.is_file() else other
        if other.is_file():
            asked = f"{self.constituents} asked for, '{root}' holds {few.name} of {USUAL} alone"
            raise Refusal(
                f"data.constituents: {asked}; set data.constituents={USUAL}, "
                f"or put {many.name} there"
            )
        if not self.download:
            hint = "set data.root=FILE or DIR (evaluate.py: --data-root), "
            hint += "or data.download=true to train"
            raise Refusal(f"data.root: no {wanted.name} in '{root}'; {hint}")
        return download(wanted, RECORDS[USUAL if wanted == few else 150])
