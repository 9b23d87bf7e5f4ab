"""The training pictures nearest to samples, against those nearest to held-out pictures.

Every rank looks through its share of the training set, in batches, for all samples at once; the
first measures the distances to what was found, and draws the closest pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.errors import Refusal
from ldm.metrics.copies import Closeness, Nearest, small
from ldm.metrics.features import Features
from ldm.metrics.reference import BATCH
from ldm.pictures.labels import Labels, labelled
from ldm.sampling.generate import Job
from ldm.system.batches import Shard, as_bytes, loader
from ldm.system.data import DataSet, Rows
from ldm.system.processes import ALONE, Ranks
from ldm.system.progress import Bar
from ldm.system.randomness import permutation

FEWEST, MOST = 10, 5000  # held-out pictures
PAIRS = 8  # drawn of each view
WORDS = {"pixels": "RMS of pixels"}


@dataclass(frozen=True)
class Views:
    """What pictures are compared by: a network's features, and their pixels beside them."""

    features: Features

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> (B, dim + D) on the CPU."""
        return torch.cat([self.features(images), small(images).cpu()], 1)

    def split(self, table: Tensor) -> dict[str, Tensor]:
        """The columns of each."""
        dim = self.features.dim
        return {"pixels": table[:, dim:], self.features.name: table[:, :dim]}


@dataclass(frozen=True)
class Copies:
    """The two sides of a data set, `flip`: trained on mirrored too, and what they are compared by.

    Refusal where too few pictures are held out.
    """

    data: DataSet
    views: Views
    flip: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        held, n = self.data.test, len(self.data.test)
        if held is self.data.train or n < FEWEST:
            there = "none" if held is self.data.train else str(n)
            raise Refusal(
                f"copies: {there} of the pictures are held out, at least {FEWEST} are needed to "
                "tell what is close by chance; hold more out (data.holdout), or leave it"
            )

    def of(self, table: Tensor, ranks: Ranks = ALONE, *, quiet: bool = False) -> list[Closeness]:
        """Of samples, rows (N, dim + D) of the views on every rank; rank 0 has the answer."""
        held = permutation(len(self.data.test), "copies")[:MOST].tolist()
        rows = [held[i : i + BATCH] for i in range(0, len(held), BATCH)]
        both = torch.cat([table, *(self.views(_images(self.data.test, part)) for part in rows)])
        found = self._search(both, ranks, quiet)
        if ranks.rank > 0:
            return []
        queries, n = self.views.split(both), len(table)
        closeness = []
        for view, index in found.items():
            apart = self._apart(view, queries[view], index)
            closeness.append(Closeness(view, apart[:n], apart[n:], index[:n].numpy()))
        return closeness

    def picture(self, index: Sequence[int]) -> Tensor:
        """Training pictures by index, as bytes; from the set's length on they are mirrored."""
        n = len(self.data.train)
        images = _images(self.data.train, [i % n for i in index])
        mirrored = torch.tensor([i >= n for i in index])
        return torch.where(mirrored[:, None, None, None], images.flip(-1), images)

    def _search(self, queries: Tensor, ranks: Ranks, quiet: bool) -> dict[str, Tensor]:
        """The index of the training picture nearest to each query, by each view, (Q,)."""
        train, device = self.data.train, next(self.views.features.net.parameters()).device
        near = {view: Nearest(part.to(device)) for view, part in self.views.split(queries).items()}
        shard = [*Shard(len(train), BATCH, 0, 1)][ranks.rank :: ranks.world]
        off = quiet or ranks.rank > 0
        with Bar("training pictures", sum(map(len, shard)), "images", disable=off) as bar:
            for batch in loader(train, shard, self.workers, pin=False):
                images, index = as_bytes(batch["image"]), batch["index"]
                for turned in range(1 + self.flip):
                    table = self.views(images.flip(-1) if turned else images)
                    for view, rows in self.views.split(table).items():
                        near[view].see(rows, index + turned * len(train))
                bar.update(len(index))
        return {view: _over_ranks(one, ranks) for view, one in near.items()}

    def _apart(self, view: str, queries: Tensor, index: Tensor) -> np.ndarray:
        """Distances of queries (Q, d) to the training pictures of an index (Q,)."""
        parts = []
        for i in range(0, len(index), BATCH):
            found = self.views.split(self.views(self.picture(index[i : i + BATCH].tolist())))
            parts.append((queries[i : i + BATCH] - found[view]).double().norm(dim=1))
        return torch.cat(parts).numpy()


def _images(rows: Rows, index: list[int]) -> Tensor:
    return as_bytes(rows.__getitems__(index)["image"])


def _over_ranks(near: Nearest, ranks: Ranks) -> Tensor:
    """The index of the nearest that any rank saw, (Q,): of two as near the lower."""
    mine = torch.stack([near.square.double(), near.index.double()])
    square, index = ranks.gather(mine).reshape(-1, *mine.shape).cpu().unbind(1)
    return index.masked_fill(square > square.min(0).values, torch.inf).min(0).values.long()


def pairs(job: Job, copies: Copies, found: Sequence[Closeness], title: str) -> Image.Image:
    """The closest samples of a job by each view, made again, above their nearest training pictures.

    In words: each sample's seed and distance, and the distance that one held-out picture in a
    hundred is below.
    """
    images, captions, names = [], [], []
    for one in found:
        order = one.samples.argsort(kind="stable")[:PAIRS].tolist()
        images += [as_bytes(job.rows(order).run()), copies.picture(one.nearest[order].tolist())]
        captions += [[f"seed {job.seeds[i]}: {one.samples[i]:.2g}" for i in order], []]
        what = WORDS.get(one.view, f"{one.view} features")
        names += [f"closest by {what}", f"nearest trained on; {one.close:.2g} is close"]
    columns = min(PAIRS, len(job.seeds))
    return labelled(torch.cat(images), columns, Labels(title, captions, names))


def said(found: Sequence[Closeness], name: str) -> str:
    """What was found, in words: a title."""
    parts = [
        f"{one.share:.1%} by {one.view} (chance {one.chance[0]:.1%} +- {one.chance[1]:.1%})"
        for one in found
    ]
    verdict = "copies" if any(one.copied for one in found) else "no more copies than by chance"
    share = " and ".join(parts)
    return f"{name}: {verdict}. Closer to a training picture than 1 in 100 held-out ones: {share}"
