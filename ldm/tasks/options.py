"""Options of tasks: each a flag of sample.py, and a control of the page."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Control:
    """How the page asks for an option: by a slider, a choice of what fits the model, or a tick.

    bounds: the slider's ends, or of what is accepted where `most` is not beyond them.
    """

    kind: Literal["slider", "choice", "tick"]
    label: str
    value: float | bool
    info: str = ""
    bounds: tuple[float, float] = (0, 1)
    most: float = 1


def option(default: Any, help: str, metavar: str = "", kind: Callable[[str], Any] = str) -> Any:
    """A field of a task that is a flag of sample.py; one whose default is a bool is a switch."""
    return dataclasses.field(
        default=default, metadata={"help": help, "metavar": metavar, "kind": kind}
    )


@dataclass(frozen=True)
class Flag:
    """What argparse needs to know of an option."""

    name: str
    help: str
    metavar: str
    kind: Callable[[str], Any]
    switch: bool

    @property
    def text(self) -> str:
        """As it is typed."""
        return "--" + self.name.replace("_", "-")


def flags(task: Any) -> list[Flag]:
    """The options of a task's class."""
    return [
        Flag(f.name, **f.metadata, switch=f.default is False)
        for f in dataclasses.fields(task)
        if "help" in f.metadata
    ]
