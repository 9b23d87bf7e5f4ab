"""The real side of every figure: features of a whole data set, computed once and kept on disk.

A file is named by a fingerprint of data x features (the pictures' bytes, or the files' names, sizes
and times; the network's weights and how it resizes), so a stale one is never met.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ldm.errors import say
from ldm.metrics.distances import Moments
from ldm.metrics.features import Features
from ldm.system.batches import Shard, as_bytes, loader
from ldm.system.data import Rows
from ldm.system.files import default_cache
from ldm.system.names import file_name
from ldm.system.processes import ALONE, Ranks
from ldm.system.progress import Bar
from ldm.system.randomness import permutation

VERSION = 2  # of what a file holds and how it was computed
BATCH = 256  # pictures at once
KEPT = 50_000  # rows kept for kernels and neighbours, drawn by chance; the moments are of all


@dataclass
class Reference:
    """Moments of all real pictures and the features of some, in random order."""

    moments: Moments
    rows: Tensor  # (at most KEPT, d)
    hash: str
    what: str  # the data set and its split, in words

    def apart(self, n: int) -> tuple[Tensor, "Reference"]:
        """Real rows in the place of n samples, at most half, and the rest as their reference."""
        n = min(n, self.moments.n // 2, len(self.rows) // 2)
        taken, left = self.rows[:n], self.rows[n:]
        return taken, Reference(self.moments - Moments.of(taken), left, self.hash, self.what)


def reference_key(dataset: Rows, features: Features) -> str:
    """A hash of data x features."""
    key = (VERSION, dataset.fingerprint(), features.hash, features.resize)
    return hashlib.sha256(repr(key).encode()).hexdigest()[:16]


def cached_reference(
    dataset: Rows,
    features: Features,
    what: str,
    cache: Path | None = None,
    workers: int = 0,
    quiet: bool = False,
    ranks: Ranks = ALONE,
) -> Reference | None:
    """The reference of a data set, from `cache` where it is there, else computed and put there.

    Computed by all ranks together, each its share of the batches, which are the same for any number
    of them. The first has it, and looks into the cache; the others have None.
    """
    key = reference_key(dataset, features)
    path = (cache or default_cache()) / f"{file_name(features.name)}-{key}.safetensors"
    found = _read(path, key, what) if ranks.rank == 0 else None
    if ranks.says(found is not None):
        return found
    quiet = quiet or ranks.rank > 0
    moments, rows, places = _compute(dataset, features, what, workers, quiet, ranks)
    if ranks.world > 1:
        sums = (
            ranks.summed(torch.tensor([moments.n])),
            *map(ranks.summed, (moments.total, moments.outer)),
        )
        moments = Moments(int(sums[0]), *sums[1:])
        rows, places = ranks.joined(rows), ranks.joined(places)
    if ranks.rank > 0:
        return None
    computed = Reference(moments, rows[places.argsort()].contiguous(), key, what)
    try:
        _write(computed, path)
    except (OSError, SafetensorError) as error:
        say(f"the reference is not kept: {path} cannot be written ({str(error).splitlines()[0]})")
    return computed


def _compute(
    dataset: Rows, features: Features, what: str, workers: int, quiet: bool, ranks: Ranks
) -> tuple[Moments, Tensor, Tensor]:
    """This rank's share: moments, the rows that are kept, and their places among these."""
    shard = [*Shard(len(dataset), BATCH, 0, 1)][ranks.rank :: ranks.world]
    kept = torch.full((len(dataset),), -1)
    kept[permutation(len(dataset), "reference")[:KEPT]] = torch.arange(min(KEPT, len(dataset)))
    parts = [Moments.of(torch.zeros(0, features.dim))]
    rows: list[Tensor] = [torch.zeros(0, features.dim)]
    places: list[Tensor] = [torch.zeros(0, dtype=torch.long)]
    with Bar(f"features of {what}", sum(map(len, shard)), "images", disable=quiet) as bar:
        for wanted, batch in zip(shard, loader(dataset, shard, workers, pin=False), strict=True):
            # where a file cannot be read, the next is handed out: it is not counted twice
            own = batch["index"] == torch.tensor(wanted)
            found = features(as_bytes(batch["image"][own]))
            parts = [parts[0] + Moments.of(found)]
            chosen = kept[batch["index"][own]]
            rows.append(found[chosen >= 0])
            places.append(chosen[chosen >= 0])
            bar.update(len(wanted))
    return parts[0], torch.cat(rows), torch.cat(places)


def _write(found: Reference, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.partial")
    tensors = {"total": found.moments.total, "outer": found.moments.outer, "rows": found.rows}
    try:
        save_file(
            tensors,
            beside,
            {"key": found.hash, "facts": json.dumps({"n": found.moments.n, "what": found.what})},
        )
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _read(path: Path, key: str, what: str) -> Reference | None:
    """What a file holds; None where there is none, or where it is damaged or of other data."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            meta: dict[str, Any] = file.metadata() or {}
            if meta.get("key") != key:
                return None
            moments = Moments(
                json.loads(meta["facts"])["n"], file.get_tensor("total"), file.get_tensor("outer")
            )
            return Reference(moments, file.get_tensor("rows"), key, what)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        say(f"{path} is damaged ({str(error).splitlines()[0]}); computed again")
        return None
