"""The panels of pictures: sample grids, reconstructions."""

from dataclasses import replace
from pathlib import Path
from typing import Self

import lightning.pytorch as pl
import torch
from torch import Tensor

from ldm.config import SampleConfig
from ldm.pictures.grid import to_picture
from ldm.pictures.labels import Labels, gallery, labelled
from ldm.sampling.conditions import Condition, completed
from ldm.sampling.generate import Job, generate
from ldm.sampling.model import Model
from ldm.sampling.pictures import IN_GRID, names_of, title_of
from ldm.sampling.speed import in_precision
from ldm.sampling.trajectory import Recorder
from ldm.system.batches import as_bytes, as_floats
from ldm.system.data import DataSet
from ldm.system.processes import Ranks
from ldm.training.autoencoder import AutoencoderModule
from ldm.training.boards.board import TableRows
from ldm.training.boards.loggers import log_animation, log_picture, log_table
from ldm.training.diffusion import DiffusionModule
from ldm.training.machine import precision
from ldm.training.panels.base import EverySteps, show_panel
from ldm.training.ranks import announce

IN_TABLE = 16  # samples that get a row of their own
PAIRS = 12  # held-out pictures that are reconstructed


class SamplePanel(EverySteps[DiffusionModule]):
    """A grid of samples of the averaged weights, one column per class.

    The seeds are 0, 1, 2, ...: comparable over time.
    """

    @classmethod
    def of(cls, module: DiffusionModule, images: DataSet) -> Self:
        return cls(module.config.folder / "samples", module.config.sample.every)

    def show(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        settings, ranks = module.config.sample, Ranks.of_training(module)
        with module.evaluating():
            seeds, model = ranks.share(range(settings.count)), module.model()
            if precision(module.config.trainer) == "bf16-mixed":
                model = in_precision(model, "auto")
            few = min(settings.trajectory, settings.batch_size, len(seeds))
            ways = Recorder(model, settings, seeds, few) if few and ranks.rank == 0 else None
            self.tick(0, len(seeds))
            images = generate(model, settings, seeds, progress=self.tick, watch=ways)
        images = ranks.collect(images, settings.count)
        if ways is not None:
            self.show_ways(trainer, ways)
        if trainer.is_global_zero:
            job = Job(model, settings, list(range(settings.count)), Condition())
            job = replace(job, condition=completed(model, job.seeds, job.condition))
            grid = gallery(images[:IN_GRID], names_of(job), title_of(job))
            show_panel(trainer, self.folder, "samples", grid, f"{title_of(job)}, ema")
            log_table(trainer, "tables/samples", sample_rows(model, settings, images[:IN_TABLE]))

    def show_ways(self, trainer: pl.Trainer, ways: Recorder) -> None:
        """From data to noise and back, as a strip and a GIF."""
        strip, gif = ways.write(self.folder, f"trajectory-{trainer.global_step:07d}")
        announce(f"step {trainer.global_step}: wrote {gif.with_suffix('.png')} and .gif")
        log_picture(trainer, "pictures/trajectory", strip, ways.title)
        log_animation(trainer, "pictures/trajectory-animation", gif, ways.title)


def sample_rows(model: Model, settings: SampleConfig, images: Tensor) -> TableRows:
    """The images at seeds 0, 1, 2, ..., with what made each."""
    seeds = range(len(images))
    labels = [model.classes[seed % len(model.classes)] if model.classes else "" for seed in seeds]
    how = {
        "solver": type(settings.solver).__name__,
        "steps": settings.steps,
        "guidance": settings.guidance,
    }
    rows = zip(seeds, labels, model.prompts_of(seeds), strict=True)
    return [
        {"picture": to_picture(images[s : s + 1]), "seed": s, "label": name, "prompt": text} | how
        for s, name, text in rows
    ]


class ReconstructionPanel(EverySteps[AutoencoderModule]):
    """The first held-out pictures above what the averaged autoencoder makes of them."""

    def __init__(self, folder: Path, every: int, images: Tensor):
        super().__init__(folder, every)
        self.images = images  # (N, C, H, W), as the data are

    @classmethod
    def of(cls, module: AutoencoderModule, images: DataSet) -> Self:
        run, shown = module.config, images.shown(PAIRS)
        return cls(run.folder / "samples", run.trainer.validate, shown)

    @torch.no_grad()
    def show(self, trainer: pl.Trainer, module: AutoencoderModule) -> None:
        if not trainer.is_global_zero:
            return
        x = as_floats(self.images.to(module.device))
        with module.averaged():
            x_hat = module.reconstruct(x, None).x_hat
        pairs = torch.cat([as_bytes(self.images), as_bytes(x_hat).cpu()])
        labels = Labels("Held-out pictures and their reconstructions", rows=("held out", "decoded"))
        grid = labelled(pairs, len(self.images), labels)
        show_panel(trainer, self.folder, "reconstructions", grid, labels.title)
