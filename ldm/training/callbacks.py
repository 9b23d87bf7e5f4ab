"""Callbacks that show how a run is doing: sample grids, reconstructions, throughput, alerts.

Every rank does its share of sampling and measuring; rank 0 alone writes and logs. Each panel is a PNG in the run's
folder and the same picture on the boards of logger.kind. Names are SECTION/NAME: train, val, loss_by_time, discriminator,
evaluate, speed, pictures, tables.
"""

import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from PIL import Image
from torch import Tensor

from ldm.config import SampleConfig
from ldm.data.batches import as_bytes, as_images
from ldm.model import Model
from ldm.pictures import to_picture
from ldm.processes import Ranks
from ldm.prompts import prompts_of
from ldm.sampling import generate
from ldm.training.autoencoder import AutoencoderModule
from ldm.training.boards import Rows
from ldm.training.diffusion import DiffusionModule
from ldm.training.loggers import alert, log_animation, log_picture, log_table
from ldm.training.stage import Stage
from ldm.trajectory import Recorder

try:
    import resource
except ImportError:  # Windows
    resource = None

TABLE = 16  # samples that get a row of their own


def panel(trainer: pl.Trainer, folder: Path, name: str, picture: Image.Image, caption: str) -> None:
    """Write samples/<name>-<step>.png, and log it."""
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{name}-{trainer.global_step:07d}.png")
    log_picture(trainer, f"pictures/{name}", picture, caption)


class EverySteps(pl.Callback):
    """Calls `show` at step 0 (so that what does not fit into memory fails in the first minute), every n steps, at the end."""

    def __init__(self, folder: Path, every: int):
        self.folder, self.every, self.shown = folder, every, -1

    def show(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        raise NotImplementedError

    def _once(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step != self.shown:
            self.shown = trainer.global_step
            self.show(trainer, module)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            self._once(trainer, module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if self.every and trainer.global_step and trainer.global_step % self.every == 0:
            self._once(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._once(trainer, module)


class Samples(EverySteps):
    """A grid of samples at seeds 0, 1, 2, ..., a column a class, by the averaged weights: comparable over time."""

    def show(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        settings, ranks = module.config.sample, Ranks.of_training(module)
        with module.evaluating():
            seeds, model = ranks.share(range(settings.count)), module.model()
            shown = min(settings.trajectory, settings.batch_size, len(seeds)) if ranks.rank == 0 else 0
            recorder = Recorder(model, settings, seeds, shown) if shown else None
            images = generate(model, settings, seeds, watch=recorder)
        images = ranks.collect(images, settings.count)
        if recorder is not None:
            strip, gif = recorder.write(self.folder, f"trajectory-{trainer.global_step:07d}")
            log_picture(trainer, "pictures/trajectory", strip, "rows: forward chain, x_t on its way back, x0_hat")
            log_animation(trainer, "pictures/trajectory-animation", gif, "x_t above x0_hat")
        if trainer.is_global_zero:
            solver = type(settings.solver).__name__
            caption = f"seeds 0-{settings.count - 1}, {solver}, {settings.steps} steps, guidance {settings.guidance}, ema"
            across = module.prompts or module.classes
            columns = len(across) if 1 < len(across) <= 16 else 0
            if module.prompts:
                caption += f"; columns: {', '.join(module.prompts)}"
            panel(trainer, self.folder, "samples", to_picture(images, columns), caption)
            log_table(trainer, "tables/samples", sample_rows(module.model(), settings, images[:TABLE]))


def sample_rows(model: Model, settings: SampleConfig, images: Tensor) -> Rows:
    """The images at seeds 0, 1, 2, ..., with what made each."""
    seeds = range(len(images))
    labels = [model.classes[seed % len(model.classes)] if model.classes else "" for seed in seeds]
    how = {"solver": type(settings.solver).__name__, "steps": settings.steps, "guidance": settings.guidance}
    told = zip(seeds, labels, prompts_of(model, seeds), strict=True)
    return [{"picture": to_picture(images[s : s + 1]), "seed": s, "label": name, "prompt": text} | how for s, name, text in told]


class Reconstructions(EverySteps):
    """The first held-out pictures above what the averaged autoencoder makes of them."""

    def __init__(self, folder: Path, every: int, images: Tensor):
        super().__init__(folder, every)
        self.images = images  # uint8 (N, C, H, W)

    @torch.no_grad()
    def show(self, trainer: pl.Trainer, module: AutoencoderModule) -> None:
        if not trainer.is_global_zero:
            return
        x = as_images({"image": self.images.to(module.device)})
        with module.averaged():
            x_hat = module.reconstruct(x, None)[0]
        pairs = torch.cat([self.images, as_bytes(x_hat).cpu()])
        panel(trainer, self.folder, "reconstructions", to_picture(pairs, len(self.images)), "above: held out; below: decoded")


class DiscriminatorBalance(pl.Callback):
    """Alert once when the discriminator has won or given up.

    Its loss is 1 by chance and 0 once every logit is beyond its margin; then its gradient is 0 or of no use. Read
    every n steps, as a mean over the last `window` readings.
    """

    low, high = 0.025, 0.975

    def __init__(self, every: int, window: int = 20):
        self.every, self.window, self.said = every, window, False
        self.readings: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        return {"readings": self.readings, "said": self.said}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.readings, self.said = state["readings"], state["said"]

    def on_train_batch_end(self, trainer: pl.Trainer, module: AutoencoderModule, *_: Any) -> None:
        value = trainer.callback_metrics.get("discriminator/loss")
        if value is None or trainer.global_step % self.every:
            return
        self.readings = [*self.readings[1 - self.window :], float(value)]
        mean = sum(self.readings) / len(self.readings)
        saturated = len(self.readings) == self.window and not self.low < mean < self.high
        module.log("discriminator/saturated", float(saturated))
        if saturated and not self.said:
            self.said = True
            advice = "lower discriminator.lr or weight" if mean < self.low else "raise discriminator.lr, or start it later"
            text = f"its hinge loss is {mean:.3g} over {self.window * self.every} steps (0: it has won, 1: chance); {advice}"
            alert(trainer, "discriminator saturated", text)


class Throughput(pl.Callback):
    """Pictures a second over all processes, the share of time spent waiting for data, memory. Never waits for the device."""

    def __init__(self, every: int):
        self.every, self.since, self.ended, self.waited = every, (0, 0.0), 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, module: Stage) -> None:
        self.ended = time.perf_counter()
        self.since = (module.images_seen, self.ended)

    def on_train_batch_start(self, trainer: pl.Trainer, module: Stage, batch: Any, batch_idx: int) -> None:
        self.waited += time.perf_counter() - self.ended

    def on_train_batch_end(self, trainer: pl.Trainer, module: Stage, *_: Any) -> None:
        self.ended = now = time.perf_counter()
        seen, span = module.images_seen, now - self.since[1]
        if trainer.global_step % self.every or seen == self.since[0]:
            return
        module.log("speed/images_per_second", (seen - self.since[0]) / span, prog_bar=True)
        module.log("speed/images_seen", float(seen))
        module.log("speed/waiting_share", self.waited / span)
        self.since, self.waited = (seen, now), 0.0
        if (held := peak_memory(module.device)) is not None:
            module.log("speed/memory_gb", held)


def peak_memory(device: torch.device) -> float | None:
    """The most that was held so far, in GB: of the GPU's memory, or this process' resident set; None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
