"""The panel of a run that is trained to complete pictures: held-out ones, and what is made."""

from pathlib import Path
from typing import Self

import lightning.pytorch as pl
from torch import Tensor

from ldm.system.batches import as_floats
from ldm.system.data import DataSet
from ldm.system.processes import Ranks
from ldm.tasks import output, task_named
from ldm.tasks.cases import Case
from ldm.tasks.prior import Prior
from ldm.training.diffusion import DiffusionModule
from ldm.training.panels.base import EverySteps, show_panel

SEEDS = [0, 1, 2]
SHOWN = 8  # held-out pictures


class TaskPanel(EverySteps[DiffusionModule]):
    """A row a held-out picture: what is left, samples at seeds 0 ... 2, mean, spread, truth.

    A picture's hole is always the same. By the averaged weights and the null condition, as by
    sample.py without --label; every rank makes its share.
    """

    def __init__(self, folder: Path, every: int, images: Tensor):
        super().__init__(folder, every)
        self.images = as_floats(images)

    @classmethod
    def of(cls, module: DiffusionModule, images: DataSet) -> Self:
        run, shown = module.config, images.shown(SHOWN)
        return cls(run.folder / "samples", run.sample.every, shown)

    def cases(self, module: DiffusionModule) -> list[Case]:
        """What is left of each picture."""
        keys = [(module.config.seed, "panel", i) for i in range(len(self.images))]
        left, known = module.config.task.degrade(self.images, keys)
        rows = zip(left, known, self.images, strict=True)
        return [Case(f"{i}", *row) for i, row in enumerate(rows)]

    def show(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        cases, ranks, model = self.cases(module), Ranks.of_training(module), module.model()
        task, prior = (
            task_named(str(model.purpose.use))().of(model),
            Prior(model, model.settings, SEEDS),
        )
        with module.evaluating():
            mine = ranks.share(cases)
            self.tick(0, len(mine) * len(SEEDS))
            here = task.samples(prior, mine, self.tick)
            made = ranks.collect(here, len(cases))
        if not trainer.is_global_zero:
            return
        results = [task.result(prior, *pair) for pair in zip(cases, made, strict=True)]
        caption = f"{task.title(model.settings)}, class not given, ema"
        grid = output.panel(results, f"Held-out pictures: {task.title(model.settings)}")
        show_panel(trainer, self.folder, task.name, grid, caption)
