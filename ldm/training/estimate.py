"""How long a run will take: its first stage by the clock, those after it by their arithmetic."""

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import lightning.pytorch as pl

from ldm.system.progress import span
from ldm.training.progress import beside
from ldm.training.ranks import announce

Panels = Mapping[str, tuple[int, float]]  # how many are to come and their seconds (0: unknown)
NONE: Panels = {}


class TimeLeft(pl.Callback):
    """Say once, after the first steps, how long the rest will take, with the stages to come.

    `later`: for each of them how many steps of this one its work is worth. A panel is taken to be
    as long as the last one. Validation, and panels of later stages, are not in it.
    """

    warm, most = 2, 20  # steps that are not measured, and the most that are

    def __init__(self, later: Mapping[str, float]):
        self.later, self.began, self.said = later, (0, 0.0), False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.first = trainer.global_step
        self.measured = max(1, min(self.most, (trainer.max_steps - self.first) // 10))

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        done = trainer.global_step - self.first
        if self.said or done < self.warm:
            return
        if not self.began[1]:
            self.began = done, time.perf_counter()
        elif done - self.began[0] >= self.measured:
            self.said = True
            pace = (time.perf_counter() - self.began[1]) / (done - self.began[0])
            left = trainer.max_steps - trainer.global_step
            panels = self.panels(trainer)
            announce(describe_time(pace, left, self.later, datetime.now(), panels))

    def panels(self, trainer: pl.Trainer) -> Panels:
        """What is still to come beside the steps."""
        step, last = trainer.global_step, trainer.max_steps
        there = beside(trainer)
        return {one.called: (one.to_come(step, last), one.ahead(step, last)) for one in there}


def describe_time(
    pace: float, left: int, later: Mapping[str, float], now: datetime, panels: Panels = NONE
) -> str:
    """The estimate, from seconds a step, the steps left, and those that later stages are worth."""
    parts = [f"{span(pace * left)} for the {left} steps left"]
    for name, (count, drawn) in panels.items():
        if count and drawn:
            parts.append(f"{span(drawn)} for {count} {name if count > 1 else name[:-1]}")
    unknown = [name for name, (count, drawn) in panels.items() if count and not drawn]
    for name, steps in later.items():
        parts.append(f"{span(pace * steps)} for {name} after it, by its arithmetic")
    seconds = pace * (left + sum(later.values())) + sum(drawn for _, drawn in panels.values())
    end = now + timedelta(seconds=min(seconds, 1e9))
    total = f"; {span(seconds)} in all" if len(parts) > 1 else ""
    unknown += ["later panels"] * bool(later)
    without = f" (without {' and '.join(unknown)})" if unknown else ""
    return (
        f"time       {pace:.3g} s a step: about {', '.join(parts)}{total}, "
        f"to {end:%a %d %b %H:%M}{without}"
    )
