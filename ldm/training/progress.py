"""The bar of a stage: steps, time left, loss, speed; in a file a line every half minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import lightning.pytorch as pl
from torch import Tensor

from ldm.system.progress import Bar, span, three
from ldm.training.ranks import announce
from ldm.training.stage import Stage

WARM = 2  # steps that the pace leaves out


class Beside(pl.Callback):
    """What is done beside the steps, at steps that are known before."""

    called: ClassVar[str] = "panels"
    took, since = 0.0, 0.0  # seconds of the last time; when the one that goes on began, or 0

    def to_come(self, step: int, last: int) -> int:
        """How often it will still be done, after `step` of `last`."""
        raise NotImplementedError

    def ahead(self, step: int, last: int) -> float:
        """Seconds of it to come, every time as long as the last one."""
        going = max(0.0, self.took - (time.monotonic() - self.since)) if self.since else 0.0
        return self.took * self.to_come(step, last) + going


def beside(trainer: pl.Trainer) -> list[Beside]:
    """All that is done beside the steps of a run."""
    return [one for one in trainer.callbacks if isinstance(one, Beside)]  # type: ignore[attr-defined]


def ahead(trainer: pl.Trainer) -> float:
    """Seconds that panels will still take, as far as one was drawn."""
    step, last = trainer.global_step, trainer.max_steps
    return sum(one.ahead(step, last) for one in beside(trainer))


class Progress(pl.callbacks.ProgressBar):
    """One bar for a stage, on the first process alone; validation has none.

    `name`: "stage 1 of 2". `later`: how many steps of this stage those after it are worth.
    """

    def __init__(self, name: str, later: float = 0.0):
        super().__init__()
        self.name, self.later = name, later
        self.done, self.amount, self.what = 0.0, 0.0, ""  # of what is done beside the steps
        self.quiet, self.bar, self.first, self.since = False, Bar("", 0, "", disable=True), 0, 0.0

    def disable(self) -> None:
        self.quiet = True

    def enable(self) -> None:
        self.quiet = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        stage, self.first, self.since = cast(Stage, module), trainer.global_step, time.monotonic()
        kind, settings = stage.space.modality, stage.config.trainer
        batch = stage.config.data.batch_size * settings.accumulate * trainer.world_size
        unit = {"pictures": "images"}.get(kind, kind)
        options: dict[str, Any] = dict(initial=self.first, each=batch, disable=self.quiet)
        self.bar = Bar(self.name, settings.max_steps, unit, counted=" steps", **options)
        self.bar.later, self.bar.ahead = ("both", self.later), lambda: ahead(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if self.bar.due() and (loss := _loss(cast(Stage, module))) is not None:
            self.bar.more = [f"loss {three(loss)}"]
        self.bar.update(step - self.bar.n)
        if step - self.first == WARM > self.bar.began[0] - self.first:
            self.bar.begin_here()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.doing("validating")

    def on_validation_batch_end(self, *_: Any) -> None:
        self.tick()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.doing("")

    def doing(self, what: str) -> None:
        """Say in the bar what is done beside the steps."""
        self.what, self.done, self.amount = what, 0.0, 0.0
        self._describe()
        if self.bar.live:
            self.bar.refresh()

    def tick(self, done: float = 0.0, amount: float = 0.0) -> None:
        """Time passes in the bar, beside the steps: so much more is done of an amount."""
        self.done, self.amount = self.done + done, amount or self.amount
        self._describe()
        self.bar.update(0)

    def _describe(self) -> None:
        count = f" {self.done:.0f}/{self.amount:.0f}" if self.amount else ""
        self.bar.desc = f"{self.name}, {self.what}{count}" if self.what else self.name

    def on_exception(self, *_: Any) -> None:
        self.bar.close()

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if not self.bar.disable:
            self.bar.close()
            steps, passed = trainer.global_step - self.first, time.monotonic() - self.since
            announce(f"{self.name}: {steps} steps in {span(passed)}")


def _loss(stage: Stage) -> float | None:
    """Of the latest step, read as seldom as it is shown; beside a CPU, where reading waits for the
    device, of the last row that was logged.
    """
    found = (stage.readings if stage.device.type == "cpu" else stage.row).get("train/loss")
    return None if found is None else float(cast(Tensor, found))


@contextmanager
def busy(trainer: pl.Trainer, what: str) -> Iterator[Callable[..., None]]:
    """Inside, the bar says what is done beside the steps; what to call to let its time pass.

    It takes how much more is done, and of what amount.
    """
    bar = trainer.progress_bar_callback
    if not isinstance(bar, Progress):
        yield lambda *_: None
        return
    bar.doing(what)
    with bar.bar.apart():
        yield bar.tick
    bar.doing("")
