"""Batches as a pure function of (seed, k), on any devices and after any resume.

The data order is one endless stream of permutations, one an epoch. Global step `i` takes `slots`
batches of it (slots = accumulate x processes); slot j = micro-batch * processes + rank. Two
processes thus read what one process reads with accumulate = 2.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ldm.errors import Refusal, say
from ldm.system.randomness import permutation
from ldm.system.stops import end_workers_at_exit, ignore_stops, stops_held_back

Batch = dict[str, Any]
Columns = Mapping[str, Tensor | Sequence[Any]]  # what else there is of every row, by a batch's key


class RowSet(Protocol):
    """A data set whose batches come already stacked."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Batch: ...


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return permutation(n, seed, "order", epoch)


def batch_indices(k: int, size: int, n: int, seed: int) -> list[int]:
    """Indices of batch k: places k size ... (k + 1) size - 1 of the stream.

    Small data simply comes round more often.
    """
    return [int(_order(n, seed, p // n)[p % n]) for p in stream_places(k, 0, 1, size)]


def stream_places(step: int, slot: int, slots: int, size: int) -> range:
    """Places in the stream of one slot's rows of a step: the same rows in any cut."""
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
    first_step: Callable[[], int] = lambda: (
        0
    )  # asked when iteration starts: after a resume it is the restored step

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        for micro in range(self.first_step() * self.accumulate, len(self)):
            yield batch_indices(micro * self.world + self.rank, self.size, self.n, self.seed)


class Shard:
    """Fixed batches of rows rank, rank + world, ...: every row once over all ranks."""

    def __init__(self, n: int, size: int, rank: int, world: int):
        self.rows, self.size = list(range(rank, n, world)), size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        return (self.rows[i : i + self.size] for i in range(0, len(self.rows), self.size))


class ByValue(dict):
    """A batch of arrays, which travel through a worker's pipe; tensors travel as shared memory."""


class _HandOver:
    """A worker's last work on a batch. A class, not a lambda: workers pickle it.

    Shared memory is taken here, where it can be seen to fail: PyTorch takes it in a thread of the
    worker's, prints that it could not, and the run waits for the batch for ever.
    """

    def __call__(self, batch: Any) -> Batch:
        if get_worker_info() is None:
            return batch
        try:
            return {
                key: part.share_memory_() if isinstance(part, Tensor) else part
                for key, part in batch.items()
            }
        except RuntimeError:
            return ByValue(
                {
                    key: part.numpy() if isinstance(part, Tensor) else part
                    for key, part in batch.items()
                }
            )


@cache
def _say_small(size: int, workers: int) -> None:
    say(
        f"data: shared memory (/dev/shm) has no room for batches of {size / 1e6:.3g} MB from "
        f"{workers} workers: they go "
        "through pipes, which is slower; give it more (docker run --shm-size=2g), or set "
        "data.workers=0"
    )


class ResumableLoader(DataLoader):
    """A loader whose place is the run's step: no state of its own to save.

    Its workers outlive the signals that stop a run: it needs their batches until it has saved.
    """

    def _get_iterator(self) -> Any:
        if self.num_workers:
            self._expect_room()
        with stops_held_back():
            return super()._get_iterator()

    def _expect_room(self) -> None:
        """Make the workers' queues once, to test: PyTorch's half-made iterator cannot be freed."""
        context = self.multiprocessing_context or torch.multiprocessing
        try:
            [context.Queue() for _ in range(self.num_workers + 3)]
        except OSError as error:  # semaphores lie in shared memory too
            raise Refusal(
                f"data.workers: {self.num_workers} workers cannot be started "
                f"({error.strerror or error}); /dev/shm may be "
                "full or missing: give it more (docker run --shm-size=2g), or set data.workers=0"
            ) from None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # we iterate, no more
        try:
            for batch in super().__iter__():
                yield self._received(batch) if isinstance(batch, ByValue) else batch
        except Refusal as error:  # a worker's comes with its traceback
            raise Refusal(
                str(error).strip().splitlines()[-1].removeprefix("ldm.errors.Refusal: ")
            ) from None

    def _received(self, batch: ByValue) -> Batch:
        arrays = {key: part for key, part in batch.items() if isinstance(part, np.ndarray)}
        _say_small(sum(part.nbytes for part in arrays.values()), self.num_workers)
        return {**batch, **{key: torch.from_numpy(part) for key, part in arrays.items()}}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def loader(dataset: RowSet, batches: Iterable[list[int]], workers: int, pin: bool) -> DataLoader:
    """Load whole batches: `dataset.__getitems__(indices)` returns one, already stacked."""
    if workers:
        end_workers_at_exit()
    return ResumableLoader(
        cast(Dataset, dataset),
        batch_sampler=batches,
        collate_fn=_HandOver(),
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=ignore_stops,
    )


def rows_of(columns: Columns, rows: list[int]) -> Batch:
    """These rows of each column: of a tensor its rows, of a list (captions) a list."""
    return {
        key: column[torch.tensor(rows)] if isinstance(column, Tensor) else [column[i] for i in rows]
        for key, column in columns.items()
    }


# Pictures are bytes or floats in [-1, 1] as their data set has them; their type shows which. These
# two are the only places where one becomes the other.
def as_floats(images: Tensor) -> Tensor:
    """Pictures as floats in [-1, 1]. On the device: a quarter of the bytes travel."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.float()


def as_images(batch: Mapping[str, Any]) -> Tensor:
    """The pictures of a batch in [-1, 1], (B, C, H, W)."""
    return as_floats(batch["image"])


def as_bytes(images: Tensor) -> Tensor:
    """Pictures as uint8, of floats in [-1, 1]."""
    if images.dtype == torch.uint8:
        return images
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
