"""The panels of a run on jets, figures with their floor beside."""

from dataclasses import replace
from pathlib import Path
from typing import Self, cast

import lightning.pytorch as pl
import torch
from PIL import Image

from ldm.evaluation.jets import cloud, extras_of, generate_like
from ldm.jets.data import JetSet, interleave_types
from ldm.jets.metrics import Cloud, evaluate_jets
from ldm.jets.plots import histograms, jet_images, reverse_process
from ldm.metrics.records import thousands
from ldm.sampling.conditions import Condition
from ldm.sampling.generate import reverse
from ldm.system.data import DataSet
from ldm.system.processes import Ranks
from ldm.training.diffusion import DiffusionModule
from ldm.training.panels.base import EverySteps, log_figures, show_panel

METRICS = ("w1m", "w1p", "fpd")


class JetPanels(EverySteps[DiffusionModule]):
    """Jets at seeds 0, 1, 2, ... by the averaged weights, against held-out ones.

    Each is made under the conditions of one held-out jet. The floor beside each figure is between
    these and as many others: all three hold every type by the same share. Where `count` is above
    half of the held-out jets, these are gone round again.
    """

    def __init__(self, folder: Path, every: int, count: int, held_out: JetSet):
        super().__init__(folder, every)
        half, rows = max(1, min(count, len(held_out) // 2)), interleave_types(held_out.types)
        self.real = held_out.rows(rows[:half])
        self.others = held_out.rows(rows[half:]).like(self.real)
        self.asked = self.real.rows(torch.arange(count) % half)
        self.floor: dict[str, float] = {}

    @classmethod
    def of(cls, module: DiffusionModule, images: DataSet) -> Self:
        run, held_out = module.config, cast(JetSet, images.held_out)
        return cls(run.folder / "samples", run.sample.every, run.sample.count, held_out)

    def show(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        with module.evaluating():
            generated = self.generate(module)
            if trainer.is_global_zero:
                self.pictures(trainer, module, generated)
        if trainer.is_global_zero:
            log_figures(trainer, self.figures(generated))

    def generate(self, module: DiffusionModule) -> Cloud:
        """Every rank makes its share."""
        model = module.model()
        ranks = Ranks.of_training(module)
        self.tick(0, len(self.asked) / ranks.world)
        return generate_like(model, model.settings, self.asked, 0, self.tick, ranks)[0]

    def figures(self, generated: Cloud) -> dict[str, float]:
        """val/NAME of the generated jets and val/NAME_floor of real ones, with sample sizes."""
        if len(self.others) and not self.floor:
            others = self.compare(cloud(self.others))
            self.floor = {f"{name}_floor": value for name, value in others.items()}
        return self.compare(generated) | self.floor

    def compare(self, sample: Cloud) -> dict[str, float]:
        """By each of METRICS with as many held-out jets."""
        n = len(self.real)
        real, sample = cloud(self.real), Cloud(sample.features[:n], sample.mask[:n])
        found = evaluate_jets(real, sample, METRICS, progress=False, draws=min(n, 10_000))
        size = thousands(len(sample.mask))
        ends = {name: "" if name.endswith(f"_{size}") else f"_of_{size}" for name in found}
        return {f"val/{name}{ends[name]}": value for name, (value, _) in found.items()}

    def pictures(self, trainer: pl.Trainer, module: DiffusionModule, generated: Cloud) -> None:
        """Histograms and mean images of both, and the way from noise to data."""
        settings, real, names = module.config.sample, cloud(self.real), ("held-out", "generated")
        caption = f"seeds 0-{settings.count - 1}, {settings.solved}, ema"
        shown = {
            "histograms": (histograms(real, generated, names), caption),
            "jet-images": (jet_images(real, generated, names), caption),
            "reverse-process": (self.reversed(module), "seeds 0-3, noise to data"),
        }
        for name, (picture, text) in shown.items():
            show_panel(trainer, self.folder, name, picture, text)

    def reversed(self, module: DiffusionModule) -> Image.Image:
        """The way of four jets from noise to data."""
        model, few = module.model(), self.asked.first(4)
        labels = few.types.tolist() if model.classes else None
        condition = Condition(labels, extras=extras_of(model, few))
        settings = replace(module.config.sample, batch_size=4)
        return reverse_process(*reverse(model, settings, range(len(few)), condition))
