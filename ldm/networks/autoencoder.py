"""Stage 1's networks: diffusers' AutoencoderKL and VQModel behind one interface.

moments = encode(x): the posterior's mean and log-variance, (B, 2 z, h, w), logvar = -inf where
there is none (VQ); x = decode(z): pixels in [-1, 1], cropped to the data's own size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ldm.diffusion.space import Noise, Shape
from ldm.errors import require
from ldm.networks.padding import crop_to, pad_to_multiple
from ldm.networks.posterior import kl_divergence, sample_posterior
from ldm.system.device import send


@dataclass
class AutoencoderKL:
    """A KL-regularised autoencoder (Rombach et al. 2022).

    One level more halves the latents once more. `multiple`: pictures are padded to it inside, at
    least the down-sampling factor; 8 makes 28 px into 8 x 8 latents.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    layers: int = 1
    latent_channels: int = 4
    attention: bool = True  # in the middle block
    norm_groups: int = 8
    multiple: int = 1
    # on the KL divergence over the number of pixel values, as in CompVis' loss
    kl_weight: float = 1e-3

    modality: ClassVar[str] = "pictures"

    def __post_init__(self) -> None:
        _check(self)
        require(self.kl_weight >= 0, f"kl_weight must be at least 0, got {self.kl_weight}")

    def build(self, shape: Shape) -> "Autoencoder":
        """The network for pictures of `shape` (C, H, W)."""
        from diffusers import AutoencoderKL as DiffusersKL  # slow to import: not to read a config

        net = DiffusersKL(**_sizes(self, shape), mid_block_add_attention=self.attention)
        return KLAutoencoder(net, shape, _multiple(self), self.kl_weight)


@dataclass
class VQModel:
    """A vector-quantised autoencoder: decode snaps to a codebook of `codes` vectors.

    van den Oord et al. 2017.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    layers: int = 1
    latent_channels: int = 4
    attention: bool = True
    norm_groups: int = 8
    multiple: int = 1
    codes: int = 256
    codebook_weight: float = 1.0
    patience: int = 100  # steps that a code may be idle before it is moved onto a latent

    modality: ClassVar[str] = "pictures"

    def __post_init__(self) -> None:
        _check(self)
        require(
            self.codes >= 2 and self.patience >= 1 and self.codebook_weight >= 0,
            "codes >= 2, patience >= 1, weight >= 0",
        )

    def build(self, shape: Shape) -> "Autoencoder":
        """The network for pictures of `shape` (C, H, W)."""
        from diffusers import VQModel as DiffusersVQ  # slow to import: not to read a config

        net = DiffusersVQ(
            **_sizes(self, shape),
            num_vq_embeddings=self.codes,
            mid_block_add_attention=self.attention,
        )
        return VQAutoencoder(net, shape, _multiple(self), self)


def _check(config: "AutoencoderKL | VQModel") -> None:
    for key in ("layers", "latent_channels", "norm_groups", "multiple"):
        require(getattr(config, key) >= 1, f"{key} must be at least 1, got {getattr(config, key)}")
    require(config.layers <= 32, f"layers must be at most 32, got {config.layers}")
    require(
        len(config.channels) <= 8,
        f"channels must be of at most 8 levels, got {len(config.channels)}",
    )
    require(config.multiple <= 1024, f"multiple must be at most 1024, got {config.multiple}")
    whole = config.channels and all(c > 0 and c % config.norm_groups == 0 for c in config.channels)
    require(
        bool(whole),
        f"channels {tuple(config.channels)} must be multiples of norm_groups = "
        f"{config.norm_groups}",
    )


def _multiple(config: AutoencoderKL | VQModel) -> int:
    factor = 2 ** (len(config.channels) - 1)
    return -(-config.multiple // factor) * factor


def _sizes(config: AutoencoderKL | VQModel, shape: Shape) -> dict[str, object]:
    levels = len(config.channels)
    return dict(
        in_channels=shape[0],
        out_channels=shape[0],
        block_out_channels=tuple(config.channels),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=config.layers,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        sample_size=max(shape[1:]),
    )


class Regularised(NamedTuple):
    """Pictures, the loss of their regulariser, and what to log of it."""

    x_hat: Tensor
    loss: Tensor
    watched: dict[str, Tensor]


Gather = Callable[[Tensor], Tensor]  # (n, ...) of this rank -> (world, n, ...)


class Autoencoder(nn.Module):
    """What both have: the data's shape, the latents' shape, padding.

    net: diffusers' model, whose attributes nn.Module does not declare.
    """

    net: Any

    def __init__(self, net: Any, shape: Shape, multiple: int):
        super().__init__()
        self.codes = 0  # the codebook's size; 0: continuous latents
        self.net, self.shape, self.multiple = net, tuple(shape), multiple
        factor = 2 ** (len(net.config.block_out_channels) - 1)
        height, width = (-(-side // multiple) * multiple // factor for side in shape[1:])
        self.latent_shape: Shape = (net.config.latent_channels, height, width)

    def pad(self, x: Tensor) -> Tensor:
        return pad_to_multiple(x, self.multiple)

    def crop(self, x: Tensor) -> Tensor:
        return crop_to(x, *self.shape[1:])

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] -> mean and log-variance (B, 2 z, h, w), float32."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, z, h, w) -> pictures (B, C, H, W)."""
        raise NotImplementedError

    def regularised(self, moments: Tensor, randn: Noise | None) -> Regularised:
        """What training asks of `encode`'s moments; without `randn` their mean is decoded."""
        raise NotImplementedError

    def restart_idle(
        self, gather: Gather, order: torch.Generator, every: bool, bad: Tensor | None = None
    ) -> Tensor | int:
        """Once a step: move idle codes (with `every`, all) onto latents, and return how many.

        None where `bad` is 1: the step is left out.
        """
        return 0

    def compilable(self) -> tuple[nn.Module, ...]:
        """What `encode` and `decode` call, to be compiled: encoder and decoder but its last layer.

        The discriminator's balance takes that layer's gradient twice a step: in one graph with the
        decoder it would be the whole decoder's.
        """
        last = self.net.decoder.conv_out
        last.forward = torch.compiler.disable(last.forward, reason="its gradient is taken alone")
        return self.net.encoder, self.net.decoder

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight whose gradient balances the discriminator against the reconstruction."""
        return self.net.decoder.conv_out.weight


class KLAutoencoder(Autoencoder):
    """Continuous latents; regulariser kl_weight KL(q(z|x) || N(0, 1)) over the pixel values."""

    def __init__(self, net: Any, shape: Shape, multiple: int, kl_weight: float = 0.0):
        super().__init__(net, shape, multiple)
        self.kl_weight = kl_weight

    def encode(self, x: Tensor) -> Tensor:
        posterior = self.net.encode(self.pad(x)).latent_dist  # clamps log-variance to [-30, 20]
        return torch.cat([posterior.mean.float(), posterior.logvar.float()], 1)

    def decode(self, z: Tensor) -> Tensor:
        return self.crop(self.net.decode(z).sample)

    def regularised(self, moments: Tensor, randn: Noise | None) -> Regularised:
        mean = moments.chunk(2, 1)[0]
        shape = (len(moments), *self.latent_shape)
        z = mean if randn is None else sample_posterior(moments, randn(shape))
        kl = kl_divergence(moments).mean()
        loss = self.kl_weight * kl / math.prod(self.shape)
        return Regularised(self.decode(z), loss, {"kl": kl})


class VQAutoencoder(Autoencoder):
    """Latents of a codebook; the regulariser is codebook_weight times van den Oord's eq. 3.

    `used`: shares of the codes in this step's micro-batches; `latest`: the last one's latents.
    """

    idle: Tensor

    def __init__(self, net: Any, shape: Shape, multiple: int, config: VQModel):
        super().__init__(net, shape, multiple)
        self.codebook_weight, self.patience = config.codebook_weight, config.patience
        self.used: Tensor | float = 0.0
        self.latest: Tensor | None = None
        self.codes = net.config.num_vq_embeddings
        self.register_buffer("idle", torch.zeros(self.codes, dtype=torch.long))

    def encode(self, x: Tensor) -> Tensor:
        mean = self.net.encode(self.pad(x)).latents.float()
        return torch.cat([mean, torch.full_like(mean, -torch.inf)], 1)

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nearest codes, straight-through, the codebook loss, the indices (van den Oord, eq. 3)."""
        z_q, loss, (_, _, indices) = self.net.quantize(z)
        return z_q, loss, indices

    def regularised(self, moments: Tensor, randn: Noise | None) -> Regularised:
        z = moments.chunk(2, 1)[0]
        z_q, loss, indices = self.quantize(z)
        codes = torch.arange(self.codes, device=indices.device)
        used = (indices.reshape(-1, 1) == codes).float().mean(0)
        perplexity = (-(used * (used + 1e-10).log()).sum()).exp()
        if randn is not None:
            self.used, self.latest = self.used + used, z.detach()
        loss = self.codebook_weight * loss
        return Regularised(self.decode_codes(z_q), loss, {"perplexity": perplexity})

    def restart_idle(
        self, gather: Gather, order: torch.Generator, every: bool, bad: Tensor | None = None
    ) -> Tensor:
        """Idle codes go onto latents of the step's last slot, the same on every rank."""
        assert isinstance(self.used, Tensor) and self.latest is not None, "after a step"
        used = gather(self.used).sum(0)
        rows = self.latest.permute(0, 2, 3, 1).flatten(0, 2)
        chosen = send(torch.randperm(len(rows), generator=order)[: self.codes], rows.device)
        rows = gather(rows[chosen])[-1]
        self.used = torch.zeros_like(self.used)
        patience = 1 if every else self.patience
        return self.restart(used * (not every), rows.to(used), patience, bad)

    @torch.no_grad()
    def restart(self, used: Tensor, z: Tensor, patience: int, bad: Tensor | None = None) -> Tensor:
        """Move codes that were idle for `patience` steps onto latents z (N, z); how many.

        Without it most codes are never the nearest and the codebook collapses (Dhariwal et al.
        2020, section 3.1).
        """
        good = torch.ones_like(used[0]) if bad is None else 1 - bad
        idle, weight = torch.where(used > 0, 0, self.idle + 1), self.net.quantize.embedding.weight
        dead = (idle >= patience) & (good > 0)
        # the first that is dead takes the first latent, and so on: where they are nobody asks
        rows = z[(dead.cumsum(0) - 1).clamp(min=0) % len(z)]
        weight.copy_(torch.where(dead[:, None], rows.to(weight), weight))
        self.idle = torch.where(good > 0, idle.masked_fill(dead, 0), self.idle)
        return dead.sum()

    def decode(self, z: Tensor) -> Tensor:
        return self.decode_codes(self.quantize(z)[0])

    def decode_codes(self, z_q: Tensor) -> Tensor:
        # net.decode, less a zero that it copies to the device
        return self.crop(self.net.decoder(self.net.post_quant_conv(z_q)))
