"""The panels of pictures: sample grids, reconstructions."""

from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor

from ldm.config import SampleConfig
from ldm.pictures.grid import to_picture
from ldm.sampling.generate import generate
from ldm.sampling.model import Model
from ldm.sampling.trajectory import Recorder
from ldm.system.batches import as_bytes, as_floats
from ldm.system.processes import Ranks
from ldm.training.autoencoder import AutoencoderModule
from ldm.training.boards.board import Rows
from ldm.training.boards.loggers import log_animation, log_picture, log_table
from ldm.training.diffusion import DiffusionModule
from ldm.training.panels.base import EverySteps, panel

TABLE = 16  # samples that get a row of their own


class Samples(EverySteps):
    """A grid of samples at seeds 0, 1, 2, ..., a column a class, by the averaged weights: comparable over time."""

    def show(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        settings, ranks = module.config.sample, Ranks.of_training(module)
        with module.evaluating():
            seeds, model = ranks.share(range(settings.count)), module.model()
            shown = (
                min(settings.trajectory, settings.batch_size, len(seeds)) if ranks.rank == 0 else 0
            )
            recorder = Recorder(model, settings, seeds, shown) if shown else None
            images = generate(model, settings, seeds, watch=recorder)
        images = ranks.collect(images, settings.count)
        if recorder is not None:
            strip, gif = recorder.write(self.folder, f"trajectory-{trainer.global_step:07d}")
            log_picture(
                trainer,
                "pictures/trajectory",
                strip,
                "rows: forward chain, x_t on its way back, x0_hat",
            )
            log_animation(trainer, "pictures/trajectory-animation", gif, "x_t above x0_hat")
        if trainer.is_global_zero:
            solver = type(settings.solver).__name__
            caption = f"seeds 0-{settings.count - 1}, {solver}, {settings.steps} steps, guidance {settings.guidance}, ema"
            across = module.prompts or module.classes
            columns = len(across) if 1 < len(across) <= 16 else 0
            if module.prompts:
                caption += f"; columns: {', '.join(module.prompts)}"
            panel(trainer, self.folder, "samples", to_picture(images, columns), caption)
            log_table(
                trainer, "tables/samples", sample_rows(module.model(), settings, images[:TABLE])
            )


def sample_rows(model: Model, settings: SampleConfig, images: Tensor) -> Rows:
    """The images at seeds 0, 1, 2, ..., with what made each."""
    seeds = range(len(images))
    labels = [model.classes[seed % len(model.classes)] if model.classes else "" for seed in seeds]
    how = {
        "solver": type(settings.solver).__name__,
        "steps": settings.steps,
        "guidance": settings.guidance,
    }
    told = zip(seeds, labels, model.prompts_of(seeds), strict=True)
    return [
        {"picture": to_picture(images[s : s + 1]), "seed": s, "label": name, "prompt": text} | how
        for s, name, text in told
    ]


class Reconstructions(EverySteps):
    """The first held-out pictures above what the averaged autoencoder makes of them."""

    def __init__(self, folder: Path, every: int, images: Tensor):
        super().__init__(folder, every)
        self.images = images  # (N, C, H, W), as the data are

    @torch.no_grad()
    def show(self, trainer: pl.Trainer, module: AutoencoderModule) -> None:
        if not trainer.is_global_zero:
            return
        x = as_floats(self.images.to(module.device))
        with module.averaged():
            x_hat = module.reconstruct(x, None)[0]
        pairs = torch.cat([as_bytes(self.images), as_bytes(x_hat).cpu()])
        panel(
            trainer,
            self.folder,
            "reconstructions",
            to_picture(pairs, len(self.images)),
            "above: held out; below: decoded",
        )
