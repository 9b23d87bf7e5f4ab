"""Batches as a pure function of (seed, k), so that a resumed run, or one on other devices, sees the same data.

The data order is one endless stream of permutations, one an epoch. Global step `i` takes `slots` batches of it
(slots = accumulate x processes); slot j = micro-batch * processes + rank. Two processes thus read what one process
reads with accumulate = 2.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ldm.randomness import permutation
from ldm.stops import ignore_stops, stops_held_back

Batch = dict[str, Any]


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return permutation(n, seed, "order", epoch)


def batch_indices(k: int, size: int, n: int, seed: int) -> list[int]:
    """Indices of batch k: places k size ... (k + 1) size - 1 of the stream. Small data simply comes round more often."""
    return [int(_order(n, seed, p // n)[p % n]) for p in places(k, 0, 1, size)]


def places(step: int, slot: int, slots: int, size: int) -> range:
    """Places in the stream of the rows that a slot of a step reads: the same rows have the same ones in any cut."""
    k = step * slots + slot
    return range(k * size, (k + 1) * size)


@dataclass
class Slots:
    """Which batches one process reads: for every micro-batch, its own of the step's `slots`."""

    n: int
    size: int
    seed: int
    steps: int  # optimiser steps of the whole run
    accumulate: int = 1
    rank: int = 0
    world: int = 1
    first_step: Callable[[], int] = lambda: 0  # asked when iteration starts: after a resume it is the restored step

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        for micro in range(self.first_step() * self.accumulate, len(self)):
            yield batch_indices(micro * self.world + self.rank, self.size, self.n, self.seed)


class Shard:
    """Fixed batches of rows rank, rank + world, ...: every row once over all ranks, none repeated to fill up."""

    def __init__(self, n: int, size: int, rank: int, world: int):
        self.rows, self.size = list(range(rank, n, world)), size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        return (self.rows[i : i + self.size] for i in range(0, len(self.rows), self.size))


class _Identity:
    def __call__(self, batch: Batch) -> Batch:
        return batch  # a class, not a lambda: workers pickle it


class ResumableLoader(DataLoader):
    """A loader whose place is the run's step: there is nothing to save, and Lightning need not warn of a lost place.

    Its workers outlive the signals that stop a run: it needs their batches until it has saved.
    """

    def _get_iterator(self) -> Any:
        with stops_held_back():
            return super()._get_iterator()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def loader(dataset: Dataset, batches: Iterable[list[int]], workers: int, pin: bool) -> DataLoader:
    """Load whole batches: `dataset.__getitems__(indices)` returns one, already stacked."""
    return ResumableLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_Identity(),
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=ignore_stops,
    )


def as_images(batch: Batch) -> Tensor:
    """uint8 (B, C, H, W) -> float in [-1, 1]. On the device: a quarter of the bytes travel."""
    return batch["image"].float() / 127.5 - 1


def as_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8 (B, C, H, W)."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
