"""Spaces: where the diffusion happens. `encode(image, randn) -> x_0` and `decode(x) -> image`, images in [-1, 1].

The pixel baseline and latent diffusion are one training module with another space.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldm.networks.autoencoder import Autoencoder, sample_posterior

Shape = tuple[int, ...]
Randn = Callable[[Shape], Tensor]


@dataclass
class Pixels:
    """Diffuse the pixels themselves."""


@dataclass
class Latents:
    """Diffuse the latents of a frozen autoencoder, whitened a channel at a time.

    `autoencoder`: stage 1's config (trained first when its checkpoint is missing), its run folder, or a checkpoint file.
    """

    autoencoder: str
    chunk: int = 256  # pictures decoded at once when sampling


class PixelSpace(nn.Module):
    """x_0 = image; decode clips to the grey levels that exist."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = tuple(shape)

    def encode(self, image: Tensor, randn: Randn) -> Tensor:
        return image

    def decode(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)

    def picture(self, x: Tensor) -> Tensor:
        """`decode` with its gradient, not clipped."""
        return x


class LatentSpace(nn.Module):
    """x_0 = (z - mean) / std, z ~ q(z | image): latents of zero mean and unit variance in every channel.

    mean and std (z,) are measured over the data set, travel in the checkpoint, and are 0 and 1 until then.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, autoencoder: Autoencoder, chunk: int = 256):
        super().__init__()
        # frozen: without this DDP stops at unused parameters
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.shape, self.chunk = autoencoder.latent_shape, chunk
        self.register_buffer("mean", torch.zeros(self.shape[0]))
        self.register_buffer("std", torch.ones(self.shape[0]))

    def train(self, mode: bool = True) -> "LatentSpace":
        """The autoencoder stays in evaluation mode whatever its owner does."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, image: Tensor, randn: Randn) -> Tensor:
        moments = self.autoencoder.encode(image)
        z = sample_posterior(moments, randn((len(image), *self.shape)))
        return (z - self.mean[:, None, None]) / self.std[:, None, None]

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        return torch.cat([self.picture(part) for part in x.split(self.chunk)]).clamp(-1, 1)

    def picture(self, x: Tensor) -> Tensor:
        """`decode` with its gradient, not clipped, all at once."""
        return self.autoencoder.decode(x * self.std[:, None, None] + self.mean[:, None, None])


class ChannelStatistics:
    """Running sums for the mean and standard deviation of each latent channel, posterior variance included.

    Sums in float64 add up over batches and, by `all_reduce`, over ranks: the result does not depend on either.
    """

    def __init__(self, channels: int, device: torch.device | str):
        # float64 is missing on Apple's GPUs: sums live on the CPU
        self.sums, self.device = torch.zeros(2 * channels + 1, dtype=torch.float64), device

    def add(self, moments: Tensor) -> None:
        """Add a batch of posteriors (B, 2 z, h, w): E[z] = mean, E[z^2] = mean^2 + var."""
        mean, logvar = moments.double().cpu().chunk(2, 1)
        second = mean.square() + logvar.exp()
        count = mean.new_tensor([mean.numel() / mean.shape[1]])
        self.sums += torch.cat([mean.sum((0, 2, 3)), second.sum((0, 2, 3)), count])

    def result(self, all_reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over everything added on every rank, float32."""
        sums = all_reduce(self.sums.to(self.device) if str(self.device) != "mps" else self.sums).cpu()
        first, second = sums[:-1].chunk(2)
        mean = first / sums[-1]
        return mean.float(), (second / sums[-1] - mean.square()).clamp(min=1e-12).sqrt().float()
