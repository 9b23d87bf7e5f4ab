"""What a training step costs, counted on the meta device: shapes alone, nothing is computed.

docs/scale.md has the formula and what it leaves out.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from ldm.training.stage import Stage

TRAINED = 3  # a step over its forward pass: the backward pass is twice that
PEAK = 989e12  # operations a second of an H100 (SXM) in bf16, dense, by its data sheet
SHARE = 0.4  # of it, that a well-fed GPU does


class Once(nn.Module):
    """`Stage.once` of a stage and what stands beside it, as a module whose weights can be lent."""

    def __init__(self, stage: Stage):
        super().__init__()
        self.stage, self.beside = stage, nn.ModuleList(stage.beside)

    def forward(self) -> list[Tensor]:
        return self.stage.once()


def shapes_of(module: nn.Module) -> dict[str, Tensor]:
    """Its weights and buffers by name, without memory."""
    held = [*module.named_parameters(), *module.named_buffers()]
    empty = {name: torch.empty_like(tensor, device="meta") for name, tensor in held}
    return {name: empty[name].requires_grad_(tensor.requires_grad) for name, tensor in held}


def once_in_shapes(stage: Stage) -> list[Tensor]:
    """`Stage.once` on the meta device: its shapes, or the error that it raises."""
    whole = Once(stage)
    return torch.func.functional_call(whole, shapes_of(whole), ())


def rows_of_a_step(stage: Stage) -> float:
    """A step's rows on one device over those of `Stage.once`."""
    batch, accumulate = stage.config.data.batch_size, stage.config.trainer.accumulate
    return batch * accumulate / stage.few


@torch.no_grad()
def work(stage: Stage) -> float:
    """Floating-point operations of a training step of one process: TRAINED times the forward's."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        once_in_shapes(stage)
    return TRAINED * counter.get_total_flops() * rows_of_a_step(stage)


def hours_on_h100(step: float, steps: int) -> float:
    """steps * operations / (SHARE * PEAK), in hours; on n of them a step is of n times the rows."""
    return steps * step / (SHARE * PEAK) / 3600


class Alive(TorchDispatchMode):
    """The tensors that were made inside and are still there, views of `others` not among them."""

    def __init__(self, others: Iterable[Tensor] = ()):
        super().__init__()
        self.sizes = WeakIdKeyDictionary()
        self.others = WeakIdKeyDictionary({other.untyped_storage(): None for other in others})

    @property
    def kept(self) -> int:
        """Their bytes."""
        return sum(self.sizes.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in torch.utils._pytree.tree_leaves(out):
            if isinstance(part, Tensor):
                storage = part.untyped_storage()
                if storage not in self.others:
                    self.sizes[storage] = storage.nbytes()
        return out


@torch.enable_grad()
def activations(stage: Stage) -> float:
    """Bytes that a micro-batch's forward pass keeps for its backward pass, in float32.

    In bf16 between half of it and all. `network.checkpointing` makes it less.
    """
    whole = Once(stage)
    shapes = shapes_of(whole)
    with Alive(shapes.values()) as alive:
        answers = torch.func.functional_call(whole, shapes, ())
    kept = alive.kept
    del answers  # and with them what they kept
    return kept * stage.config.data.batch_size / stage.few
