"""Samples that are pictures: a PNG each and a grid; their density in bits a dimension."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ldm.diffusion.likelihood import (
    Encoded,
    Likelihood,
    bits_per_dim,
    dequantise,
    latent_bound,
)
from ldm.pictures.grid import save_picture
from ldm.pictures.labels import gallery
from ldm.pictures.space import LatentSpace
from ldm.sampling.conditions import Condition
from ldm.sampling.density import Density, Estimate
from ldm.sampling.folder import write_lists
from ldm.sampling.generate import Job
from ldm.sampling.modality import Samples
from ldm.sampling.model import Model
from ldm.sampling.trajectory import Recorder
from ldm.system.randomness import generator

IN_GRID = 400  # samples in grid.png, at most


def names_of(job: Job) -> list[str] | None:
    """What each sample is of, class or caption; None of an unconditional model."""
    given = [names for names in (job.names, job.condition.prompts) if names is not None]
    return [", ".join(filter(None, names)) for names in zip(*given, strict=True)] or None


def title_of(job: Job) -> str:
    """What a grid of samples says above it."""
    first, last = job.seeds[0], job.seeds[min(len(job.seeds), IN_GRID) - 1]
    which = f"Samples at seeds {first} to {last}" if last > first else f"Sample at seed {first}"
    return f"{which}, {job.settings.describe()}"


@dataclass(frozen=True)
class PictureSamples(Samples):
    """Nothing can be asked of pictures beside class and caption."""

    modality: ClassVar[str] = "pictures"

    @classmethod
    def parse(cls, words: Mapping[str, Any], count: int | None) -> "PictureSamples":
        return cls()

    def way(self, job: Job, here: Job, count: int) -> Recorder:
        return Recorder(here.model, here.settings, here.seeds, min(count, job.settings.batch_size))

    def write(self, folder: Path, job: Job, samples: Tensor, record: Mapping[str, Any]) -> str:
        """<seed, 8 digits>.png at the data's own size (and .npy: `save_picture`), grid.png."""
        lines, prompts, view = [], job.condition.prompts, job.model.view
        given = {"label": job.names, "prompt": prompts}
        for i, (image, seed) in enumerate(zip(samples, job.seeds, strict=True)):
            name = f"{seed:08d}.png"
            save_picture(image, folder / name, view.span if view else None)
            each = {key: of[i] for key, of in given.items() if of}
            lines.append({"file": name, "seed": seed} | each)
        gallery(samples[:IN_GRID], names_of(job), title_of(job)).save(folder / "grid.png")
        write_lists(folder, lines, record)
        return f"{len(samples)} pictures, grid.png"

    def density(
        self, model: Model, data: Tensor, condition: Condition, estimate: Estimate
    ) -> Density:
        """Of pictures (B, C, H, W): a density of the pixels, or in latents a lower bound of it.

        Bytes are dequantised, and have bits a dimension; floats are taken in [-1, 1], as they are.
        """
        whole = not data.is_floating_point()
        if whole:
            levels = (data.double() * (estimate.levels - 1) / 255).round()
            data = dequantise(levels, estimate.levels, generator("dequantise", estimate.seed))
        x = data.to(model.device, torch.float32)
        bound = model.space.kind == "latent"
        found = None if bound else estimate.log_p(model, x, condition)
        nats, found = (found.nats, found) if found else _bound(model, x, condition, estimate)
        bits = bits_per_dim(nats, x[0].numel(), estimate.levels) if whole else None
        return Density(nats, found, bits, bound)


def _bound(
    model: Model, x: Tensor, condition: Condition, estimate: Estimate
) -> tuple[Tensor, Likelihood]:
    """log p(x|z) + log p(z) - log q(z|x) at one z of the posterior, and the flow's log p(z)."""
    space, found = cast(LatentSpace, model.space), []
    with torch.no_grad():
        mean, logvar = space.moments(x).chunk(2, 1)
    scale = space.std[:, None, None]
    mean, std = (mean - space.mean[:, None, None]) / scale, (0.5 * logvar).exp() / scale
    noise = torch.randn(mean.shape, generator=generator("posterior", estimate.seed)).to(mean)

    def log_prior(z: Tensor) -> Tensor:
        found.append(estimate.log_p(model, z, condition))
        return found[0].nats

    encoded = Encoded(mean, std)
    nats = latent_bound(x, encoded, log_prior, space.decode, estimate.decoder_std, noise)
    return nats, found[0]
