"""How many threads torch works with on a CPU, chosen by measuring while it works.

The threads of one operation wait for each other by spinning. Where another process has one of their
cores, they wait for
its time slices: two threads on two cores then work at a hundredth of their speed, one thread at its
own. So what this machine gives to each number is measured for some hundredths of a second: at the
start, soon again, every ten seconds in the end, and when a piece of work takes twice as long as
before.

The number of threads is part of a sum's order, and so of the last bits of gradients (samples'
pictures did not change). A number that is asked for, by `trainer.threads` or OMP_NUM_THREADS, is
kept, and nothing is measured.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from ldm.errors import say

LASTS = 0.02  # seconds that a number is tried for: a few time slices of the system
# seconds to the next check: after a change, then twice as long as before, up to this
SOON, EVERY = (
    1.0,
    10.0,
)
# a piece of work that takes so many times the quickest since the last check is looked into
SLOW = 2.0
SHARE = 0.02  # of the time, at most, that checks take
GAIN = 1.15  # another number must be so many times quicker
BLOCK = 32_768  # values: what torch gives one thread at least


def rates(most: int) -> dict[int, float]:
    """Parallel operations a second with each number tried: all, all but one, halves down to 1."""
    numbers = {most, most - 1, *(most >> i for i in range(1, most.bit_length()))} - {0}
    x = torch.linspace(0, 1, BLOCK * most, device="cpu")
    out = torch.empty_like(x)
    return {number: _rate(number, x, out) for number in sorted(numbers)}


def _rate(number: int, x: torch.Tensor, out: torch.Tensor) -> float:
    torch.set_num_threads(number)
    torch.sin(x, out=out)  # makes the threads
    began, count = time.perf_counter(), 0
    while (lasted := time.perf_counter() - began) < LASTS:
        torch.sin(x, out=out)
        count += 1
    return count / lasted


class Chooser:
    """The number of threads in use, out of 1 ... `most`, by what `measure` finds of each."""

    def __init__(self, most: int, measure: Callable[[int], dict[int, float]] = rates):
        self.most = self.now = most
        self.measure = measure
        self.quickest, self.cost, self.wait, self.said = float("inf"), 0.0, SOON, False
        self.last = self.checked = time.perf_counter()

    def tick(self) -> None:
        """Before each piece of work: check if it is time to."""
        if (found := torch.get_num_threads()) != self.now:
            self.most = self.now = (
                found  # somebody else has set it: Lightning, for processes that share the cores
            )
        if self.most < 2:
            return
        at = time.perf_counter()
        took, self.last, since = at - self.last, at, at - self.checked
        slow = took > SLOW * self.quickest
        self.quickest = min(self.quickest, took)
        if since > max(SOON if slow else self.wait, self.cost / SHARE):
            self.check()

    def check(self) -> None:
        """Measure, and take the quickest number, or stay where none is much quicker."""
        began, found = time.perf_counter(), self.measure(self.most)
        best = max(found, key=found.__getitem__)
        changes = found[best] > GAIN * found.get(self.now, 0.0)
        self.now, self.wait = (best, SOON) if changes else (self.now, min(EVERY, 2 * self.wait))
        torch.set_num_threads(self.now)
        self.report()
        self.last = self.checked = time.perf_counter()
        self.quickest, self.cost = float("inf"), self.checked - began

    def report(self) -> None:
        """Say how many threads there are, the first time that it is not all."""
        if self.now < self.most and not self.said and os.environ.get("LOCAL_RANK", "0") == "0":
            self.said = True
            say(
                f"threads: {self.now} of {self.most} for now, others are at work on this machine, "
                "and threads would wait "
                "for each other; trainer.threads=N or OMP_NUM_THREADS=N keeps N, and with it the "
                "last bits of results"
            )


_chooser: Chooser | None = None


def auto() -> None:
    """Choose from now on, unless OMP_NUM_THREADS is set."""
    global _chooser
    # Lightning sets 1 for the processes that it starts: that is the most for each, and no person's
    # wish
    if "OMP_NUM_THREADS" in os.environ and "LDM_THREADS" not in os.environ:
        return
    os.environ["LDM_THREADS"] = "auto"
    if _chooser is None and torch.get_num_threads() > 1:
        _chooser = Chooser(torch.get_num_threads())
        _chooser.check()


def fixed(number: int) -> None:
    """So many, whatever happens."""
    global _chooser
    _chooser = None
    torch.set_num_threads(number)


def tick(*_: Any) -> None:
    """Before each piece of work; a forward hook too. Nothing where the number is fixed."""
    if _chooser is not None:
        _chooser.tick()


def begin_with(number: Any) -> None:
    """What a checkpoint was written with, until a check finds another much quicker."""
    if _chooser is not None and isinstance(number, int) and 1 <= number <= _chooser.most:
        _chooser.now = number
        torch.set_num_threads(number)
