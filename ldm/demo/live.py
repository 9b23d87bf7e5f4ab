"""Work in a thread of its own, and what there is to see of it on the way."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from ldm.diffusion.solvers import Watch
from ldm.errors import Refusal

Draw = Callable[[int, Tensor, Tensor], Any]


class Left(BaseException):
    """Nobody looks any more."""


@dataclass(frozen=True)
class Done:
    """What the work returned, and how long it took."""

    value: Any
    seconds: float


def _ended(work: Callable[[Watch], Any], watch: Watch) -> Done | BaseException:
    begun = time.monotonic()
    try:
        return Done(work(watch), time.monotonic() - begun)
    except torch.OutOfMemoryError:
        return Refusal("the device's memory is full; fewer samples at once")
    except BaseException as error:  # also Left, so that the thread ends in silence
        return error


def live(work: Callable[[Watch], Any], draw: Draw, limit: float) -> Iterator[Any]:
    """`draw(step, x_s, x0_hat)` of steps of `work(watch)` as they come, and at the end `Done`.

    A step is drawn only when the last picture was taken: a slow viewer misses some, and does not
    slow the work. When the iterator is closed (a visitor left, or pressed Stop) the work ends at
    its next step; after `limit` seconds it ends by a Refusal. What `work` raises is raised here.
    """
    found: SimpleQueue[Any] = SimpleQueue()
    wanted, left, begun = threading.Event(), threading.Event(), time.monotonic()

    def watch(step: int, x_s: Tensor, x0_hat: Tensor) -> None:
        if left.is_set():
            raise Left
        if time.monotonic() - begun > limit:
            raise Refusal(
                f"stopped after {limit:g} s, the most that is given to one click; "
                "fewer samples or steps"
            )
        if wanted.is_set():
            wanted.clear()
            found.put(draw(step, x_s, x0_hat))

    thread = threading.Thread(target=lambda: found.put(_ended(work, watch)), daemon=True)
    thread.start()
    try:
        while True:
            wanted.set()
            item = found.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, Done):
                return
    finally:
        left.set()
        thread.join()
