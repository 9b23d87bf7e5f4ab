"""The panel of a run that is trained for a task: held-out pictures, what was left of them, and what is made of that."""

from pathlib import Path
from typing import Self

import lightning.pytorch as pl
from torch import Tensor

from ldm.system.batches import as_floats
from ldm.system.data import DataSet
from ldm.system.processes import Ranks
from ldm.tasks import output
from ldm.tasks.cases import Case, build
from ldm.tasks.run import result, samples
from ldm.training.diffusion import DiffusionModule
from ldm.training.panels.base import EverySteps, show_panel

SEEDS = [0, 1, 2]
SHOWN = 8  # held-out pictures


class TaskPanel(EverySteps[DiffusionModule]):
    """A row a held-out picture, always with the same hole: truth, what is left, samples at seeds 0 ... 2, mean and spread.

    By the averaged weights and told no class, as by sample.py without --label; every rank makes its share.
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
        task = module.config.task
        given, known = task.degrade(
            self.images, [(module.config.seed, "panel", i) for i in range(len(self.images))]
        )
        none = [None] * len(given)
        rows = zip(given, known if known is not None else none, self.images, strict=True)
        return [Case(f"{i}", left, holes, truth) for i, (left, holes, truth) in enumerate(rows)]

    def show(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        cases, ranks, model = self.cases(module), Ranks.of_training(module), module.model()
        asked, settings = build(model, model.purpose.use, None), model.settings
        with module.evaluating():
            made = ranks.collect(
                samples(asked, model, settings, ranks.share(cases), SEEDS), len(cases)
            )
        if not trainer.is_global_zero:
            return
        results = [
            result(asked, model, settings, *pair, SEEDS) for pair in zip(cases, made, strict=True)
        ]
        caption = f"held out, {type(settings.solver).__name__}, {settings.steps} steps, class not told, ema"
        show_panel(trainer, self.folder, asked.name, output.panel(results), caption)
