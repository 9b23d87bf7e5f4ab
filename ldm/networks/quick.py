"""Networks made quick, in place, so that their weights keep their names.

A network's own `forward` is compiled and not the module: all modules that `nn.Module.compile` is
called on share one piece of code, of which PyTorch keeps 8 graphs in a process and leaves the rest
eager (torch 2.14, `torch._dynamo.config.recompile_limit`). Shapes are static: another shape is
another graph, and what has many shapes runs in `eager`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

Work = TypeVar("Work", bound=Callable[..., object])


def eager() -> Any:
    """A context in which nothing is compiled, and what is compiled already runs as it was.

    PyTorch's object is a decorator too.
    """
    return torch.compiler.set_stance("force_eager")


def eagerly(work: Work) -> Work:
    """The work in `eager`."""
    return eager()(work)


def compile_in_place(net: nn.Module) -> None:
    """Compile what the network runs: its `forward`, or that of its `compilable` parts."""
    parts: Callable[[], tuple[nn.Module, ...]] = getattr(net, "compilable", lambda: (net,))
    for part in parts():
        part.forward = torch.compile(part.forward, dynamic=False)


def lay_channels_last(net: nn.Module) -> None:
    """The memory format that convolutions are quickest in on a GPU."""
    net.to(memory_format=torch.channels_last)
