"""The bar of a stage: steps, time left, loss, speed; in a file a line every half minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import lightning.pytorch as pl
from torch import Tensor

from ldm.system.progress import Bar, span, three
from ldm.training.ranks import announce
from ldm.training.stage import Stage

WARM = 2  # steps that the pace leaves out


class Progress(pl.callbacks.ProgressBar):
    """One bar for a stage, on the first process alone; validation has none.

    `name`: "stage 1 of 2". `later`: how many steps of this stage those after it are worth.
    """

    def __init__(self, name: str, later: float = 0.0):
        super().__init__()
        self.name, self.later = name, later
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
        self.bar.later = ("both", self.later)

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
        self.bar.desc = f"{self.name}, {what}" if what else self.name
        if self.bar.live:
            self.bar.refresh()

    def tick(self, *_: Any) -> None:
        """Time passes in the bar, beside the steps."""
        self.bar.update(0)

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
    """Inside, the bar says what is done beside the steps; what to call to let its time pass."""
    bar = trainer.progress_bar_callback
    if not isinstance(bar, Progress):
        yield lambda *_: None
        return
    bar.doing(what)
    yield bar.tick
    bar.doing("")
