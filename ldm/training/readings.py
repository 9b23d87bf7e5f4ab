"""What a step has to say of itself, and the rows that are made of it.

Lightning's `self.log` costs half a millisecond of Python a number and step, copies what is no
tensor to the device, and of fifty steps one is written. Here a reading is kept where it was
computed and costs an entry of a dict; it is read, by one copy, when its row is written.
"""

from collections.abc import Callable, Iterable

import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

# a number, a number or a few on the device, or how to compute them if they are asked for
Reading = float | Tensor | Callable[[], Tensor]
Row = dict[str, float]


class Readings(dict[str, Reading]):
    """The last reading of each name. One of n values is n columns: name/0 ... name/(n - 1)."""

    def row(self) -> Row:
        """All as numbers: the device is waited for once."""
        found = {name: read() if callable(read) else read for name, read in self.items()}
        tensors = {name: read for name, read in found.items() if isinstance(read, Tensor)}
        plain = [read for read in found.values() if not isinstance(read, Tensor)]
        # float32, as the device has them
        numbers = iter(torch.tensor(plain, dtype=torch.float32).tolist())
        values = iter(_values(tensors.values()))
        row: Row = {}
        for name, read in found.items():
            if not isinstance(read, Tensor):
                row[name] = next(numbers)
            elif read.dim() == 0:
                row[name] = next(values)
            else:
                row |= {f"{name}/{i}": next(values) for i in range(read.numel())}
        return row


def _values(tensors: Iterable[Tensor]) -> list[float]:
    """Of all tensors one after the other, float32."""
    flat = [tensor.detach().float().reshape(-1) for tensor in tensors]
    return torch.cat(flat).tolist() if flat else []


def write_row(loggers: Iterable[Logger], row: Row, step: int) -> None:
    """A row of `step` on every board and in metrics.csv, on the disk when this returns."""
    for logger in loggers:
        logger.log_metrics(dict(row), step=step)
        logger.save()
