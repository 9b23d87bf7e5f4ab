"""Bars for metrics that take longer than a few seconds."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def shown(
    items: Iterable[Item], what: str, quiet: bool, total: int | None = None
) -> Iterator[Item]:
    """The items, with a bar that goes away; in a log file a line every ten seconds."""
    pause = 0.1 if sys.stderr.isatty() else 10
    return iter(
        tqdm(
            items, desc=what, total=total, disable=quiet, leave=False, mininterval=pause, delay=0.5
        )
    )
