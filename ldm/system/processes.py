"""Several processes for one job without training, by Lightning's Fabric, torchrun or SLURM.

Row i of a job goes to rank i modulo the number of processes; every rank does equally many, the
surplus is dropped.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from ldm.errors import Refusal

if TYPE_CHECKING:  # slow to import, and sample.py does without
    from lightning.pytorch import LightningModule


def launch(devices: int, device: str) -> Fabric:
    """This process' place among `devices` a node; on rank 0 of a plain shell, start the others."""
    if devices < 1:
        raise Refusal(f"--devices must be at least 1, got {devices}")
    kind = torch.device(device).type
    if kind == "cpu" and devices > (most := max(8, os.cpu_count() or 1)):
        raise Refusal(
            f"--devices: {devices} processes asked for, at most {most} on this machine's CPU"
        )
    if kind == "cuda" and devices > torch.cuda.device_count():
        raise Refusal(f"--devices: {devices} asked for, {torch.cuda.device_count()} GPUs are here")
    nodes = int(os.environ.get("SLURM_NNODES", os.environ.get("GROUP_WORLD_SIZE", 1)))
    strategy = "ddp" if devices * nodes > 1 else "auto"
    fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    return fabric


@dataclass(frozen=True)
class Ranks:
    """This process' place among those that share a job's rows."""

    rank: int = 0
    world: int = 1
    # (n, ...) here -> (world, n, ...), or as it is where world = 1
    gather: Callable[[Tensor], Tensor] = lambda rows: rows
    summed: Callable[[Tensor], Tensor] = lambda sums: sums  # over all processes, on the CPU

    @staticmethod
    def of(engine: Fabric) -> "Ranks":
        """Of Fabric."""

        def gather(rows: Tensor) -> Tensor:
            found = engine.all_gather(rows.to(engine.device))
            assert isinstance(found, Tensor)  # as what went in
            return found.cpu()

        def summed(sums: Tensor) -> Tensor:
            found = engine.all_reduce(sums.to(engine.device), reduce_op="sum")
            assert isinstance(found, Tensor)  # as what went in
            return found.cpu()

        return Ranks(engine.global_rank, engine.world_size, gather, summed)

    @staticmethod
    def of_training(module: "LightningModule") -> "Ranks":
        """Of the Trainer that a module is in."""

        def gather(rows: Tensor) -> Tensor:
            found = module.all_gather(rows.to(module.device))
            assert isinstance(found, Tensor)  # as what went in
            return found.cpu()

        def summed(sums: Tensor) -> Tensor:
            strategy = module.trainer.strategy
            return strategy.reduce(sums.to(module.device), reduce_op="sum").cpu()

        return Ranks(module.trainer.global_rank, module.trainer.world_size, gather, summed)

    def share(self, items: Sequence[Any]) -> list[Any]:
        """This rank's items: rank, rank + world, ..., going round again where there are too few."""
        return [
            items[(self.rank + self.world * i) % len(items)]
            for i in range(-(-len(items) // self.world))
        ]

    def collect(self, rows: Tensor, count: int) -> Tensor:
        """Every rank's share (n, ...) -> (count, ...) in the order of the items, on the CPU."""
        gathered = self.gather(rows).cpu()
        return interleave(gathered, count) if self.world > 1 else gathered[:count]

    def joined(self, rows: Tensor) -> Tensor:
        """Every rank's rows, however many each has, on the CPU: (n_0 + n_1 + ..., ...)."""
        if self.world == 1:
            return rows
        counts = self.gather(torch.tensor([len(rows)])).flatten().tolist()
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        found = self.gather(padded).reshape(self.world, *padded.shape)
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])

    def says(self, holds: bool) -> bool:
        """What the first rank says, on all."""
        return bool(self.gather(torch.tensor([float(holds)])).flatten()[0])


ALONE = Ranks()


def interleave(gathered: Tensor, count: int) -> Tensor:
    """(world, n, ...) of every rank's share -> (count, ...) in the order of the items."""
    return gathered.transpose(0, 1).flatten(0, 1)[:count]
