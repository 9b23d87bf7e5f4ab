"""Spaces: where the diffusion happens.

`encode(image, randn) -> x_0` and `decode(x) -> image`, images in [-1, 1].

The pixel baseline, latent diffusion and point clouds (pointcloud.py) are one training module with
another space, which also knows what a batch holds, what the denoiser is given of it, and what a
finished sample is.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from ldm.diffusion.space import Extras, Noise, Reduce, Shape, Space, SpaceConfig, listed
from ldm.errors import Refusal
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.posterior import sample_posterior
from ldm.pictures.statistics import SOUND, ChannelStatistics, lost_channels, percent
from ldm.system.batches import as_bytes, as_images


@dataclass
class Pixels(SpaceConfig):
    """Diffuse the pixels themselves."""

    modality: ClassVar[str] = "pictures"

    def build(
        self, shape: Shape, autoencoder: nn.Module | None, classes: int, features: int
    ) -> "PixelSpace":
        return PixelSpace(shape)


@dataclass
class Latents(SpaceConfig):
    """Diffuse the latents of a frozen autoencoder, whitened a channel at a time.

    `autoencoder`: stage 1's config (trained first when its checkpoint is missing), its run folder,
    a checkpoint file, or the folder of a diffusers AutoencoderKL. A latent model's checkpoint
    stands for the stage 1 inside it.
    """

    autoencoder: str
    chunk: int = 256  # pictures decoded at once when sampling
    cache: bool = True  # encode the training set once, into output/latents/
    modality: ClassVar[str] = "pictures"

    @property
    def cached(self) -> bool:
        return self.cache

    @property
    def first_stage(self) -> str:
        return self.autoencoder

    def build(
        self, shape: Shape, autoencoder: nn.Module | None, classes: int, features: int
    ) -> "LatentSpace":
        return LatentSpace(cast(Autoencoder, autoencoder), self.chunk)


class PictureSpace(Space):
    """What pixels and latents share."""

    modality = "pictures"
    floats = False  # whether the data, and so finished samples, are floats and no bytes

    def note(self, about: Mapping[str, Any]) -> None:
        """Whether the data are floats."""
        self.floats = bool(about.get("floats"))

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """x -> pictures in [-1, 1], (B, C, H, W)."""

    @abstractmethod
    def picture(self, x: Tensor) -> Tensor:
        """`decode` with its gradient, not clipped."""

    def read(self, batch: Mapping[str, Any]) -> Tensor:
        """The batch's pictures in [-1, 1]."""
        return as_images(batch)

    def mirror(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Half of the pictures, left to right."""
        mirror = torch.rand(len(image), generator=generator, device=image.device) < 0.5
        return torch.where(mirror[:, None, None, None], image.flip(-1), image)

    def encode_mean(self, image: Tensor) -> Tensor:
        """Pictures -> x_0, in latents the posterior's mean."""
        return self.encode(image, image.new_zeros)

    def on_grid(self, hole: Tensor) -> Tensor:
        """Holes (B, 1, H, W) of 0 and 1 on the grid of x."""
        return hole

    def finish(self, x: Tensor, extras: Extras) -> Tensor:
        """Finished samples (B, C, H, W) on the CPU: uint8, or floats in [-1, 1] as the data."""
        images = self.decode(x)
        return (images.float() if self.floats else as_bytes(images)).cpu()


class PixelSpace(PictureSpace):
    """x_0 = image; decode clips to the grey levels that exist."""

    kind = "pixel"

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = self.data_shape = tuple(shape)

    def encode(self, image: Tensor, randn: Noise, /, **extras: Tensor) -> Tensor:
        return image

    def decode(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)

    def picture(self, x: Tensor) -> Tensor:
        return x


class LatentSpace(PictureSpace):
    """x_0 = (z - mean) / std, z ~ q(z | image): zero mean and unit variance per channel.

    mean and std (z,) are measured over the data set, travel in the checkpoint, and are 0 and 1
    until then.
    """

    mean: Tensor
    std: Tensor
    measured = True
    kind = "latent"

    def __init__(self, autoencoder: Autoencoder, chunk: int = 256):
        super().__init__()
        # frozen: without this DDP stops at unused parameters
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.shape, self.data_shape, self.chunk = autoencoder.latent_shape, autoencoder.shape, chunk
        self.table: Tensor | None = None  # a latent cache that lies on the device
        self.explained: Tensor | None = None  # (z,), once measured here; no part of a checkpoint
        self.register_buffer("mean", torch.zeros(self.shape[0]))
        self.register_buffer("std", torch.ones(self.shape[0]))

    @property
    def first_stage(self) -> Autoencoder:
        return self.autoencoder

    @property
    def units(self) -> tuple[Tensor, Tensor]:
        return self.mean, self.std

    def expect_measured(self, where: str) -> None:
        if not (self.std > 0).all():
            raise Refusal(
                f"{where}: the latents' std {listed(self.std)} is not above 0; it is of no model"
            )

    def train(self, mode: bool = True) -> "LatentSpace":
        """The autoencoder stays in evaluation mode whatever its owner does."""
        return super().train(False)

    def read(self, batch: Mapping[str, Any]) -> Tensor:
        """The batch's pictures.

        Or, from a latent cache, their moments in each orientation, (B, orientations, 2 z, h, w).
        """
        if "image" in batch:
            return as_images(batch)
        moments = batch["moments"] if self.table is None else self.table[batch["index"]]
        return moments.float()

    def mirror(self, data: Tensor, generator: torch.Generator) -> Tensor:
        """Half of the pictures, left to right; of cached moments, the other orientation's."""
        if data.dim() == 4:
            return super().mirror(data, generator)
        mirror = torch.rand(len(data), generator=generator, device=data.device) < 0.5
        return data[torch.arange(len(data), device=data.device), mirror.long()][:, None]

    def on_grid(self, hole: Tensor) -> Tensor:
        """A cell is in the hole if any of its pixels is."""
        return adaptive_max_pool2d(self.autoencoder.pad(hole), self.shape[1:])

    def moments(self, data: Tensor) -> Tensor:
        """Posterior (B, 2 z, h, w) of what `read` gives."""
        return self.autoencoder.encode(data) if data.dim() == 4 else data[:, 0]

    @torch.no_grad()
    def verify(self, data: Tensor, all_reduce: Reduce) -> list[str]:
        """Refusal of a stage 1 that is untrained or collapsed: bad latents, a flat picture."""
        quality, flat = all_reduce(against_flat(self, data)).tolist()  # every rank decides alike
        said = [f"{quality:.1f} dB on a batch (a flat picture: {flat:.1f} dB)"]
        reached = f"reconstructions reach {quality:.1f} dB where a flat picture has {flat:.1f} dB"
        finite = bool(torch.isfinite(self.std).all())
        trained = finite and self.std.max() < 100 and self.std.min() > 1e-3 and quality > flat + 1
        if finite and self.explained is not None:
            otherwise = "" if trained else f"its {reached}: it is not trained on this data; or "
            said += self._expect_latents(self.explained, otherwise)
        if not trained:
            std = listed(self.std)
            raise Refusal(
                f"space.autoencoder: its {reached}, latent std {std}: it is not trained on this "
                "data; train stage 1 first"
            )
        return said

    def _expect_latents(self, explained: Tensor, otherwise: str) -> list[str]:
        """Refusal of latents of which a channel does not carry the picture; names those channels.

        The std of a collapsed channel does not show it: it is 1.
        """
        lost = lost_channels(explained)
        channels = f"latent channels {', '.join(map(str, lost))}"
        shares = f"the picture explains {percent(lost.values())} of the variance of {channels}"
        shares += ", the rest is posterior noise"
        if len(lost) == self.shape[0]:
            raise Refusal(
                f"space.autoencoder: {otherwise}{shares}: stage 1 has collapsed, its kl_weight is "
                "too large; "
                "train it again with a smaller network.kl_weight and another name"
            )
        more = (
            "a smaller kl_weight of stage 1 would fill them, fewer latent_channels would do as well"
        )
        return [f"latents: {shares}: {more}"] if lost else []

    def posterior(self, data: Tensor) -> Tensor:
        return self.moments(data)

    def statistics(self, x_0: Tensor) -> dict[str, Tensor]:
        """Whitened: 0 and 1, or the autoencoder is not the one that was measured."""
        return {"latent_mean": x_0.mean(), "latent_std": x_0.std()}

    @torch.no_grad()
    def encode(self, data: Tensor, randn: Noise, /, **extras: Tensor) -> Tensor:
        z = sample_posterior(self.moments(data), randn((len(data), *self.shape)))
        return (z - self.mean[:, None, None]) / self.std[:, None, None]

    @torch.no_grad()
    def measure(
        self, batches: Iterable[Mapping[str, Any]], all_reduce: Reduce, device: torch.device | str
    ) -> str:
        """Measure and print each channel's mean, std and explained share, over every rank."""
        statistics = ChannelStatistics(self.shape[0], device)
        for batch in batches:
            statistics.add(self.moments(self.read(batch).to(device)))
        mean, std, self.explained = statistics.result(all_reduce)
        self.mean.copy_(mean)
        self.std.copy_(std)
        shares = f"explained by the picture {percent(self.explained.tolist())}"
        meant = "a channel; the rest is the noise that stage 1 adds"
        low = f", below {SOUND:.0%} where it is short of training or its kl_weight too large"
        meant += low * bool((self.explained < SOUND).any())
        return f"latents: mean {listed(mean)}, std {listed(std)}, {shares} ({meant})"

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        return torch.cat([self.picture(part) for part in x.split(self.chunk)]).clamp(-1, 1)

    def picture(self, x: Tensor) -> Tensor:
        """`decode` with its gradient, not clipped, all at once."""
        return self.autoencoder.decode(x * self.std[:, None, None] + self.mean[:, None, None])


def against_flat(space: PictureSpace, image: Tensor) -> Tensor:
    """PSNR in dB of the space's pictures (B, C, H, W), and of their mean colour, (2,)."""
    from ldm.metrics.images import psnr  # slow to import: not to read a config

    decoded = space.decode(space.encode_mean(image)).to(image)
    flat = image.mean((0, 2, 3), keepdim=True).expand_as(image)
    return torch.stack([psnr(image, decoded).mean(), psnr(image, flat).mean()])
