"""evaluate.py's figures during training: by all ranks with the averaged weights, kept by rank 0."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import lightning.pytorch as pl

from ldm.config import RunConfig
from ldm.config.schema import to_dict
from ldm.evaluation.autoencoder import Reconstructions, evaluate_autoencoder
from ldm.evaluation.copies import Copies, Views, pairs, said
from ldm.evaluation.pictures import Asked, Judge, evaluate_all, origin
from ldm.metrics import features
from ldm.metrics.copies import Closeness
from ldm.metrics.figures import ALL, STAGE1, check_count, warn_of_rank
from ldm.metrics.records import Figure, append, open_log, records
from ldm.metrics.reference import cached_reference
from ldm.system.data import DataSet, Rows
from ldm.system.processes import Ranks
from ldm.system.randomness import permutation
from ldm.training.autoencoder import AutoencoderModule
from ldm.training.diffusion import DiffusionModule
from ldm.training.panels.base import AnyStage, EverySteps, log_figures, show_panel


class RunFigures(EverySteps[AnyStage]):
    """Figures against one side of the data.

    The networks live here and not in the module, whose checkpoint they would swell.
    """

    doing, called = "evaluating", "evaluations"
    side: ClassVar[str]
    metrics: ClassVar[Collection[str]] = ALL

    def __init__(self, run: RunConfig, data: Rows, count: int):
        super().__init__(run.folder, run.evaluate.every)
        self.run, self.data, self.count = run, data, count
        name = type(run.data).__name__
        self.what = f"{name} {self.side}"
        check_count(count, len(data), self.what)  # before weights are looked for, or downloaded
        self.judge = Judge(
            features.choose(run.evaluate.features, run.data.features or name), metrics=self.metrics
        )

    def warn(self) -> None:
        """Warn where the figures are unreliable."""
        warn_of_rank(self.count, self.judge.features.dim)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The real side, before the first step, by all ranks together.

        So what is missing is known in the first minute, and no rank waits for one that computes.
        """
        used, workers = self.judge.features, self.run.data.workers
        used.to(str(module.device))
        ranks = Ranks.of_training(module)
        real = cached_reference(self.data, used, self.what, workers=workers, ranks=ranks)
        self.judge = replace(self.judge, real=real)

    def show(self, trainer: pl.Trainer, module: AnyStage) -> None:
        with module.evaluating():
            figures = self.figures(module, Ranks.of_training(module))
        if not trainer.is_global_zero:
            return
        values = {f"evaluate/{name}": figure.value for name, figure in figures.items()}
        floors = {
            f"evaluate/{name}/truth_vs_truth": figure.floor
            for name, figure in figures.items()
            if figure.floor is not None
        }
        log_figures(trainer, values | floors)
        made = origin(self.judge) | self.made(module)
        append(open_log(self.folder), records(figures, made))

    @abstractmethod
    def figures(self, module: AnyStage, ranks: Ranks) -> dict[str, Figure]:
        """Every rank its share; rank 0 has them."""

    def made(self, module: AnyStage) -> dict[str, Any]:
        """How the figures came about."""
        now = {
            "run": self.run.name,
            "stage": module.stage,
            "step": module.global_step,
            "images_seen": module.images_seen,
        }
        return {"weights": "ema" if module.ema else "raw", "training": now}


class SampleFigures(RunFigures[DiffusionModule]):
    """Stage 2 and the baseline against the training set."""

    side = "train"
    copies: Copies | None = None
    found: Sequence[Closeness] = ()

    @classmethod
    def of(cls, module: DiffusionModule, images: DataSet) -> Self:
        run = module.config
        found = cls(run, images.train, run.evaluate.count)
        if run.evaluate.copies:
            views = Views(found.judge.features)
            found.copies = Copies(images, views, run.data.flip, run.data.workers)
        return found

    def show(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        super().show(trainer, module)
        if self.copies and self.found:
            title = said(self.found, f"{self.run.name}, step {module.global_step}")
            with module.evaluating():
                picture = pairs(self.asked(module).job(), self.copies, self.found, title)
            show_panel(trainer, self.folder / "samples", "copies", picture, title)

    def asked(self, module: DiffusionModule) -> Asked:
        """The samples that are measured, of the module as it is."""
        return Asked(module.model(), module.config.sample, range(self.count))

    def figures(self, module: DiffusionModule, ranks: Ranks) -> dict[str, Figure]:
        found = evaluate_all(self.asked(module), self.judge, self.copies, ranks, quiet=True)
        self.found = found[1]
        return found[0]

    def made(self, module: DiffusionModule) -> dict[str, Any]:
        sample = to_dict(module.config.sample)
        settings = {key: sample[key] for key in sample if key not in ("every", "count")}
        if module.guide:  # an average of this run is known by the run and its step
            settings["guide"] |= {"hash": module.guide.hash}
        seeds = {"seeds": {"first": 0, "count": self.count}}
        return settings | seeds | super().made(module)


class ReconstructionFigures(RunFigures[AutoencoderModule]):
    """Stage 1 against the held-out pictures that it reconstructs."""

    side, metrics = "test", STAGE1

    @classmethod
    def of(cls, module: AutoencoderModule, images: DataSet) -> Self:
        count = min(module.config.evaluate.count, len(images.test))
        return cls(module.config, images.test, count)

    def figures(self, module: AutoencoderModule, ranks: Ranks) -> dict[str, Figure]:
        rows = permutation(len(self.data), "reference")[: self.count].tolist()
        made = Reconstructions(module.autoencoder, self.data, rows)
        return evaluate_autoencoder(made, self.judge, ranks, quiet=True)
