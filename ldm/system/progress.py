"""Progress of a long job: a bar in a terminal, a line every half minute in a file.

Both go to the standard output, as `ldm.errors.say` does, which writes above a bar: nothing is glued
to one, and a file has all lines in order.
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm
from tqdm.std import Bar as Blocks

LIVE, KEPT = 0.5, 30.0  # seconds between two looks at a bar, and between two lines in a file
LEAST = 6  # blocks; below that their room is left empty

Item = TypeVar("Item")


class Bar(tqdm):
    """What is done, n of total, the time passed and left, and `unit` a second.

    An item is `each` units of work. `more` is shown beside the times. `later` is work that follows
    this one: what it is called with it, and how many of these items it is worth. `ahead` gives the
    seconds to come of what is done beside the items (`apart`).
    """

    def __init__(self, what: str, total: int | None, unit: str, **options: Any):
        self.live = sys.stdout.isatty()
        self.later: tuple[str, float] = ("", 0.0)
        self.more: Sequence[str] = ()
        self.ahead: Callable[[], float] = lambda: 0.0
        self.stands: float | None = None  # since when, inside `apart`
        self.each, self.counted = options.pop("each", 1.0), options.pop("counted", "")
        # a file needs no line before the first half minute
        delay = options.pop("delay", 0.0) if self.live else KEPT
        settings = dict(leave=False, file=sys.stdout, miniters=0, ncols=80, nrows=24, delay=delay)
        settings |= dict(desc=what, total=total, unit=unit, mininterval=LIVE if self.live else KEPT)
        self.began = (options.get("initial", 0), time.time())
        super().__init__(**settings | options)
        if not self.live:  # no line of a file is written twice for what is written beside it
            self._instances.discard(self)

    def begin_here(self) -> None:
        """Leave what came before out of the pace: the first steps are slow."""
        self.began = (self.n, time.time())

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside, something else is done: that time is none of the items', nor of their pace."""
        self.stands = time.time()
        try:
            yield
        finally:
            self.began = self.began[0], self.began[1] + time.time() - self.stands
            self.stands = None

    def due(self) -> bool:
        """Whether the next `update` is shown."""
        return not self.disable and time.time() - self.last_print_t >= self.mininterval

    def left(self, later: float = 0.0) -> float | None:
        """Seconds to the end, and to that of `later` further items; None before the first one."""
        now = time.time() if self.stands is None else self.stands
        done, passed = self.n - self.began[0], now - self.began[1]
        if self.total is None or done <= 0:
            return None
        return passed / done * (self.total - self.n + later) + self.ahead()

    def __str__(self) -> str:
        return self._line() if self.live else self._sentence()

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """A terminal's line over the last one; a file's line."""
        if self.live:
            return bool(super().display(msg, pos))
        if msg is None:
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return False

    def clear(self, nolock: bool = False) -> None:
        """Take a terminal's line away."""
        if self.live:
            super().clear(nolock)

    def _line(self) -> str:
        """As much as a terminal has room for, and blocks in what is left."""
        room = shutil.get_terminal_size().columns - 1
        parts = [self._times(), *self.more, *self._speed()]
        if self.later[1] and (left := self.left(self.later[1])) is not None:
            parts.append(f"{self.later[0]} <{clock(left)}")
        while len(f"{self.desc} {self._count()} {', '.join(parts)}") > room and len(parts) > 1:
            parts.pop()
        head, tail = self.desc, f"{self._count()} {', '.join(parts)}"
        width = room - len(f"{head} || {tail}")
        if self.total and width >= LEAST:
            share = min(1.0, self.n / self.total)
            head += f" |{Blocks(share, width, Blocks.ASCII if self.ascii else Blocks.UTF)}|"
        return f"{head} {tail}"[:room]

    def _sentence(self) -> str:
        """All of it in words."""
        parts = [f"{self._count()}{self.counted}", f"{span(self._passed())} so far"]
        if (left := self.left()) is not None:
            parts.append(f"{span(left)} left")
        if self.later[1] and (left := self.left(self.later[1])) is not None:
            parts[-1] += f" ({span(left)} for {self.later[0]})"
        return f"{self.desc}: {', '.join([*parts, *self.more, *self._speed()])}"

    def _count(self) -> str:
        size = tqdm.format_sizeof if self.unit_scale else "{:.0f}".format
        return size(self.n) + (f"/{size(self.total)}" if self.total is not None else "")

    def _passed(self) -> float:
        return time.time() - getattr(self, "start_t", time.time())

    def _times(self) -> str:
        left = self.left()
        return clock(self._passed()) + (f"<{clock(left)}" if left is not None else "")

    def _speed(self) -> list[str]:
        """Over the last few looks, or from the beginning where there were none."""
        passed = self._passed()
        rate = self.format_dict["rate"] or (self.n - self.initial) / passed if passed else 0
        if not (rate and self.unit):
            return []
        size = tqdm.format_sizeof if self.unit_scale else three
        return [f"{size(rate * self.each)} {self.unit}/s"]


def shown(
    items: Iterable[Item], what: str, quiet: bool = False, unit: str = "", total: int | None = None
) -> Iterator[Item]:
    """The items, with a bar of them where they take longer than a moment; no rate without unit."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    return iter(Bar(what, total, unit, iterable=items, disable=quiet, delay=0.5))


def three(value: float) -> str:
    """A number to three digits: 0.0912, 1.50, 512, 12345."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def file_size(count: float) -> str:
    """Bytes for a person: 512 B, 40 kB, 3.2 MB, 1.5 GB."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 0.9995 * 10**power:
            return f"{three(count / 10**power)} {unit}"
    return f"{count:.0f} B"


def clock(seconds: float) -> str:
    """A time for a bar: 00:48, 4h31m, 2d04h."""
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes:02d}:{int(seconds) % 60:02d}"
    if minutes < 48 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes // 1440}d{minutes % 1440 // 60:02d}h"


def span(seconds: float) -> str:
    """A time for a person: 40 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
