"""The panels of a run on jets: generated against held-out ones, and the reverse process; figures with their floor beside."""

from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl

from ldm.data.jets import JetSet
from ldm.metrics.jet_plots import histograms, jet_images, reverse_process
from ldm.metrics.jets import Cloud, evaluate_jets, short
from ldm.processes import Ranks
from ldm.sampling import generate, reverse
from ldm.training.callbacks import EverySteps, panel
from ldm.training.diffusion import DiffusionModule

METRICS = ("w1m", "w1p", "fpd")


class JetPanels(EverySteps):
    """Jets at seeds 0, 1, 2, ... by the averaged weights, their numbers of constituents as in training.

    They are compared with as many held-out jets; the floor beside each figure is between those and as many others.
    """

    def __init__(self, folder: Path, every: int, count: int, held_out: JetSet):
        super().__init__(folder, every)
        half = min(count, len(held_out) // 2)
        self.real, self.others = (Cloud(held_out.features[i : i + half], held_out.mask[i : i + half]) for i in (0, half))
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
        model, ranks = module.model(), Ranks.of_training(module)
        seeds = range(module.config.sample.count)
        features = ranks.collect(generate(model, model.settings, ranks.share(seeds)), len(seeds))
        labels = [seed % max(1, len(model.classes)) for seed in seeds]
        return Cloud(features, model.space.draw(seeds, labels)["mask"])

    def figures(self, generated: Cloud) -> dict[str, float]:
        """val/NAME of the generated jets and val/NAME_floor of real ones, each name with its sample size."""
        self.floor = self.floor or {f"{k}_floor": v for k, v in self.compare(self.others).items()}
        return self.compare(generated) | self.floor

    def compare(self, cloud: Cloud) -> dict[str, float]:
        n = len(self.real.mask)
        cloud = Cloud(cloud.features[:n], cloud.mask[:n])
        found = evaluate_jets(self.real, cloud, METRICS, progress=False, draws=min(n, 10_000))
        size = short(len(cloud.mask))
        return {f"val/{k}" if k.endswith(f"_{size}") else f"val/{k}_of_{size}": value for k, (value, _) in found.items()}

    def pictures(self, trainer: pl.Trainer, module: DiffusionModule, generated: Cloud) -> None:
        settings = module.config.sample
        caption = f"seeds 0-{settings.count - 1}, {type(settings.solver).__name__}, {settings.steps} steps, ema"
        panel(trainer, self.folder, "histograms", histograms(self.real, generated, ("held-out", "generated")), caption)
        panel(trainer, self.folder, "jet-images", jet_images(self.real, generated, ("held-out", "generated")), caption)
        frames, mask, times = reverse(module.model(), replace(settings, batch_size=4), range(4))
        panel(trainer, self.folder, "reverse-process", reverse_process(frames, mask, times), "seeds 0-3, noise to data")
