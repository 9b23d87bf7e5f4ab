"""Signals that ask a run to stop; a terminal or job system sends them to all its processes.

The process that trains notes them and stops between two steps; its data workers ignore them, or a
run would lose its workers before it has saved.
"""

import atexit
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import resource_tracker
from typing import Any

from ldm.errors import Stopped

# SIGUSR1, SIGUSR2 and SIGXCPU are warnings of job systems, SIGHUP is a terminal that went away;
# Windows lacks most
NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOPS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
# seconds: torchrun and srun hand a terminal's Ctrl-C on, so that one press arrives twice
AGAIN = 1.0


def ignore_stops(worker: int) -> None:
    """For a data worker's first moment: it ends when its run does, and not before."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


@cache
def end_workers_at_exit() -> None:
    """Before multiprocessing waits for them: it asks by SIGTERM, which they ignore."""
    atexit.register(_end_workers)


def _end_workers() -> None:
    if hasattr(signal, "SIGCHLD"):
        # torch would raise for a worker that was killed
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@contextmanager
def stops_held_back() -> Iterator[None]:
    """Inside, signals wait, also for the processes started here, until they can ignore them.

    One that arrives through another thread of this process is noted, and raised at the end: from
    within a fork Python would print it and go on.
    """
    stops, before = _open[-1] if _open else Stops(), None
    stops.held = True
    if hasattr(signal, "pthread_sigmask"):
        if multiprocessing.get_start_method() != "fork":
            # its start would let SIGINT and SIGTERM through again
            resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        stops.let_through()


class Stops:
    """What was asked for, and whether to stop at once.

    At once before the first step, where there is nothing to save, and after the last one; between
    them a signal is noted and the training loop looks for it between two steps. A second Ctrl-C
    stops at once anywhere.
    """

    def __init__(self) -> None:
        self.received, self.since, self.pid = 0, 0.0, os.getpid()
        self.training, self.where = False, ("before the first step", "nothing is lost")
        self.before: dict[int, Any] = {}
        self.held = False  # signals are noted and nothing is raised

    def install(self) -> None:
        """Install the handlers; again after Lightning has replaced them by its own."""
        for number in STOPS:
            there = signal.getsignal(number)
            if number == getattr(signal, "SIGHUP", None) and there == signal.SIG_IGN:
                continue  # nohup
            self.before.setdefault(number, there)
            signal.signal(number, self.note)

    def rest(self, where: str, then: str) -> None:
        """Training has ended: from here on a signal stops at once, with this message."""
        self.training, self.where = False, (where, then)

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self.before = {}

    def note(self, number: int, frame: Any) -> None:
        if os.getpid() != self.pid:
            return  # a worker that has just been forked
        again = self.received and number == signal.SIGINT and time.monotonic() - self.since > AGAIN
        if not self.received:
            self.received, self.since = number, time.monotonic()
        if (again or not self.training) and not self.held:
            raise self.stopped(
                *("at once", "go on from the last checkpoint with --resume")
                if again
                else self.where
            )

    def let_through(self) -> None:
        """No longer held: what came meanwhile is raised here, if it would have been there."""
        self.held = False
        if self.received and not self.training:
            raise self.stopped(*self.where)

    def stopped(self, where: str, then: str, number: int = 0) -> Stopped:
        """What is raised for the signal that came first, here or (`number`) in another process."""
        number = number or self.received
        return Stopped(number, f"stopped {where} by {signal.Signals(number).name}; {then}")

    def check(self, where: str, then: str) -> None:
        """Stop here if it was asked for."""
        if self.received:
            raise self.stopped(where, then)


_open: list[Stops] = []


@contextmanager
def catch_stops() -> Iterator[Stops]:
    """Stops, caught while the outermost of these (a script's, or a run's) is open."""
    if _open:
        yield _open[-1]
        return
    stops = Stops()
    _open.append(stops)
    stops.install()
    try:
        yield stops
    finally:
        stops.restore()
        _open.clear()
