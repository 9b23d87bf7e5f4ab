"""The panels of a run on jets: generated against held-out ones, and the reverse process; figures with their floor beside."""

from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import torch

from ldm.evaluation.jets import cloud, generate_like, told_of
from ldm.jets.data import JetSet, spread
from ldm.jets.metrics import Cloud, evaluate_jets
from ldm.jets.plots import histograms, jet_images, reverse_process
from ldm.metrics.records import thousands
from ldm.sampling.conditions import Condition
from ldm.sampling.generate import reverse
from ldm.system.processes import Ranks
from ldm.training.diffusion import DiffusionModule
from ldm.training.panels.base import EverySteps, panel

METRICS = ("w1m", "w1p", "fpd")


class JetPanels(EverySteps):
    """Jets at seeds 0, 1, 2, ... by the averaged weights, each told what the denoiser is told of one held-out jet.

    They are compared with those held-out jets, and the floor beside each figure is between these and as many others: all
    three hold every type by the same share. Where `count` is above half of the held-out jets, these are gone round again.
    """

    def __init__(self, folder: Path, every: int, count: int, held_out: JetSet):
        super().__init__(folder, every)
        half, rows = max(1, min(count, len(held_out) // 2)), spread(held_out.types)
        self.real = held_out.rows(rows[:half])
        self.others = held_out.rows(rows[half:]).like(self.real)
        self.asked = self.real.rows(torch.arange(count) % half)
        self.floor: dict[str, float] = {}

    def show(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        with module.evaluating():
            generated = self.generate(module)
            if trainer.is_global_zero:
                self.pictures(trainer, module, generated)
        if trainer.is_global_zero:
            values = self.figures(generated)
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)

    def generate(self, module: DiffusionModule) -> Cloud:
        """Every rank makes its share."""
        model = module.model()
        return generate_like(model, model.settings, self.asked, ranks=Ranks.of_training(module))[0]

    def figures(self, generated: Cloud) -> dict[str, float]:
        """val/NAME of the generated jets and val/NAME_floor of real ones, each name with its sample size."""
        if len(self.others):
            self.floor = self.floor or {
                f"{k}_floor": v for k, v in self.compare(cloud(self.others)).items()
            }
        return self.compare(generated) | self.floor

    def compare(self, sample: Cloud) -> dict[str, float]:
        n = len(self.real)
        sample = Cloud(sample.features[:n], sample.mask[:n])
        found = evaluate_jets(
            cloud(self.real), sample, METRICS, progress=False, draws=min(n, 10_000)
        )
        size = thousands(len(sample.mask))
        return {
            f"val/{k}" if k.endswith(f"_{size}") else f"val/{k}_of_{size}": value
            for k, (value, _) in found.items()
        }

    def pictures(self, trainer: pl.Trainer, module: DiffusionModule, generated: Cloud) -> None:
        settings, real, names = module.config.sample, cloud(self.real), ("held-out", "generated")
        caption = f"seeds 0-{settings.count - 1}, {type(settings.solver).__name__}, {settings.steps} steps, ema"
        panel(trainer, self.folder, "histograms", histograms(real, generated, names), caption)
        panel(trainer, self.folder, "jet-images", jet_images(real, generated, names), caption)
        model, few = module.model(), self.asked.first(4)
        labels = few.types.tolist() if model.classes else None
        seeds = range(len(few))
        frames, mask, times = reverse(
            model,
            replace(settings, batch_size=4),
            seeds,
            Condition(labels, told=told_of(model, few)),
        )
        panel(
            trainer,
            self.folder,
            "reverse-process",
            reverse_process(frames, mask, times),
            "seeds 0-3, noise to data",
        )
