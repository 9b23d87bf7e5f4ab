"""Several processes for one job without training: Lightning's Fabric starts them, or finds torchrun's or SLURM's.

Row i of a job goes to rank i modulo the number of processes; every rank does equally many, the surplus is dropped.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from ldm.errors import Refusal


def launch(devices: int, device: str) -> Fabric:
    """This process' place among `devices` a node; on rank 0 of a plain shell the others are started."""
    if devices < 1:
        raise Refusal(f"--devices must be at least 1, got {devices}")
    kind = torch.device(device).type
    if kind == "cuda" and devices > torch.cuda.device_count():
        raise Refusal(f"--devices: {devices} asked for, {torch.cuda.device_count()} GPUs are here")
    nodes = int(os.environ.get("SLURM_NNODES", os.environ.get("GROUP_WORLD_SIZE", 1)))
    strategy = "ddp" if devices * nodes > 1 else "auto"
    fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    return fabric


def share(items: Sequence[Any], rank: int, world: int) -> list[Any]:
    """This rank's items: rank, rank + world, ...; round again from the start where that is more than there are."""
    return [items[(rank + world * i) % len(items)] for i in range(-(-len(items) // world))]


def interleave(gathered: Tensor, count: int) -> Tensor:
    """(world, n, ...) of every rank's share -> (count, ...) in the order of the items."""
    return gathered.transpose(0, 1).flatten(0, 1)[:count]
