"""evaluate.py's figures during training: on all ranks, by the averaged weights, logged and recorded by rank 0."""

from dataclasses import replace
from typing import Any

import lightning.pytorch as pl

from ldm.config import AutoencoderConfig, Config
from ldm.config.schema import to_dict
from ldm.evaluation.autoencoder import Reconstructions, evaluate_autoencoder
from ldm.evaluation.pictures import Judge, evaluate, origin
from ldm.metrics import features
from ldm.metrics.figures import STAGE1, check_count, warn_of_rank
from ldm.metrics.records import Figure, append, open_log, records
from ldm.metrics.reference import Reference, reference
from ldm.system.data import DataSet
from ldm.system.processes import Ranks
from ldm.system.randomness import permutation
from ldm.training.panels.base import EverySteps
from ldm.training.stage import Stage


class Evaluation(EverySteps):
    """Stage 2 and the baseline against the training set, stage 1 against the held-out pictures it reconstructs.

    The networks live here and not in the module, whose checkpoint they would swell.
    """

    def __init__(self, run: Config, images: DataSet, quiet: bool = False):
        super().__init__(run.folder, run.evaluate.every)
        self.run, self.stage1 = run, isinstance(run, AutoencoderConfig)
        self.data = images.test if self.stage1 else images.train
        self.what = f"{type(run.data).__name__} {'test' if self.stage1 else 'train'}"
        self.count = min(run.evaluate.count, len(self.data)) if self.stage1 else run.evaluate.count
        check_count(
            self.count, len(self.data), self.what
        )  # before weights are looked for, or downloaded
        self.features = features.choose(run.evaluate.features, type(run.data).__name__)
        if not quiet:
            warn_of_rank(self.count, self.features.dim)
        self.real: Reference | None = None

    def on_train_start(self, trainer: pl.Trainer, module: Stage) -> None:
        """The real side, before the first step: what is missing is known in the first minute."""
        self.features.to(str(module.device))
        if trainer.is_global_zero:
            self.real = reference(
                self.data, self.features, self.what, workers=self.run.data.workers
            )

    def show(self, trainer: pl.Trainer, module: Stage) -> None:
        with module.evaluating():
            figures = self.figures(module, Ranks.of_training(module))
        if not trainer.is_global_zero:
            return
        values = {f"evaluate/{name}": figure.value for name, figure in figures.items()}
        floors = {
            f"evaluate/{k}/truth_vs_truth": f.floor
            for k, f in figures.items()
            if f.floor is not None
        }
        for logger in trainer.loggers:
            logger.log_metrics(values | floors, step=trainer.global_step)
        append(open_log(self.folder), records(figures, self.made(trainer, module)))

    def figures(self, module: Stage, ranks: Ranks) -> dict[str, Figure]:
        judge = Judge(self.features, self.real)
        if self.stage1:
            rows = permutation(len(self.data), "reference")[: self.count].tolist()
            made = Reconstructions(module.net, self.data, rows)
            judge = replace(judge, metrics=STAGE1)
            return evaluate_autoencoder(made, judge, ranks, quiet=True)
        seeds = range(self.count)
        return evaluate(module.model(), self.run.sample, seeds, judge, ranks, quiet=True)

    def made(self, trainer: pl.Trainer, module: Stage) -> dict[str, Any]:
        """How the figures came about."""
        sample = (
            {}
            if self.stage1
            else {k: v for k, v in to_dict(self.run.sample).items() if k not in ("every", "count")}
        )
        now = {
            "run": self.run.name,
            "stage": module.stage,
            "step": trainer.global_step,
            "images_seen": module.images_seen,
        }
        seeds = {} if self.stage1 else {"seeds": {"first": 0, "count": self.count}}
        weights = "ema" if module.ema else "raw"
        return (
            origin(Judge(self.features, self.real))
            | sample
            | seeds
            | {"weights": weights, "training": now}
        )
