"""What a run computes on: device, precision, processes, memory format."""

import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._functorch import config as functorch

from ldm.config import RunConfig, TrainerConfig
from ldm.errors import Refusal
from ldm.networks.quick import compile_in_place, lay_channels_last

# strategies that cut weights into shards, by any of their names
SHARDED = re.compile(r"fsdp|deepspeed|shard|parallel|zero", re.IGNORECASE)


def on_gpu(settings: TrainerConfig) -> bool:
    """Whether a run will be on CUDA."""
    return settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def compiles(settings: TrainerConfig) -> bool:
    """Whether what a training step runs is compiled."""
    return on_gpu(settings) if settings.compile == "auto" else settings.compile


def quicken(nets: Sequence[nn.Module], settings: TrainerConfig) -> None:
    """Memory format and compilation of all that a training step runs.

    Graphs of the stage before are dropped. Validation and panels run in `eager`, so that training
    has one graph, of one shape.
    """
    last = on_gpu(settings) if settings.channels_last == "auto" else settings.channels_last
    for net in nets if last else ():
        lay_channels_last(net)
    if not compiles(settings):
        return
    torch.compiler.reset()
    # the discriminator's balance goes backwards through a graph, and then through it again
    functorch.donated_buffer = False
    for net in nets:
        compile_in_place(net)


def precision(settings: TrainerConfig) -> str:
    """auto: bf16-mixed on a GPU that has it. A CPU without AMX is many times slower in bf16."""
    if settings.precision != "auto":
        return settings.precision
    on_bf16 = on_gpu(settings) and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if on_bf16 else "32-true"


def strategy(run: RunConfig) -> str:
    """auto: Lightning's choice, but that DDP looks for unused parameters with a discriminator."""
    settings = run.trainer
    several = settings.num_nodes > 1 or settings.devices not in ("auto", 1, "1")
    several = several or torch.cuda.device_count() > 1
    unused = settings.strategy == "auto" and run.adversarial and several
    return "ddp_find_unused_parameters_true" if unused else settings.strategy


def expect_whole_weights(run: RunConfig) -> None:
    """Refusal of a strategy that cuts weights into shards.

    The gradient's norm, the averages and the checkpoint are of whole tensors: of a rank's shards
    they would be wrong, and say nothing.
    """
    name = run.trainer.strategy
    if SHARDED.search(name):
        raise Refusal(
            f"trainer.strategy: {name} cuts weights into shards, of which gradient norm, averages "
            "and checkpoints would be wrong; use ddp, with network.checkpointing=true and "
            "trainer.accumulate=N where memory is short (docs/scale.md)"
        )


def world_size(settings: TrainerConfig) -> int:
    """Processes of a run, over all nodes."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return _devices(settings) * settings.num_nodes


def _devices(settings: TrainerConfig) -> int:
    """Of one node."""
    devices = settings.devices
    if devices in ("auto", -1, "-1"):
        return max(1, torch.cuda.device_count()) if settings.accelerator != "cpu" else 1
    if isinstance(devices, str) and "," in devices:
        devices = devices.split(",")
    return len(devices) if isinstance(devices, list) else int(devices)


def machine_arguments(run: RunConfig) -> dict[str, Any]:
    """Lightning's arguments for it."""
    settings = run.trainer
    return dict(
        max_steps=settings.max_steps,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=strategy(run),
        precision=precision(settings),
    )
