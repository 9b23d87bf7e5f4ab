"""A permutation-equivariant set transformer for point clouds, conditioned by adaLN-zero."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.diffusion.space import Shape
from ldm.errors import require
from ldm.networks.base import NetworkConfig, recompute


@dataclass
class SetTransformer(NetworkConfig):
    """Width, blocks and heads.

    `jet`: how many of the jet's own features it is given (2: log pt and log mass / pt).
    """

    dim: int = 64
    layers: int = 3
    heads: int = 4
    widen: int = 2  # of the feed-forward layer
    jet: int = 0
    checkpointing: bool = False  # as the U-Net's: less memory, a third more arithmetic
    modality: ClassVar[str] = "jets"

    @property
    def features(self) -> int:
        return self.jet

    def __post_init__(self) -> None:
        require(
            min(self.dim, self.layers, self.heads, self.widen) >= 1,
            "dim, layers, heads and widen must be at least 1",
        )
        require(self.layers <= 200, f"layers must be at most 200, got {self.layers}")
        require(self.jet in (0, 2), f"jet must be 0 or 2, got {self.jet}")
        require(
            self.dim % (2 * self.heads) == 0,
            f"dim = {self.dim} must be a multiple of twice heads = {self.heads}",
        )

    def build(self, shape: Shape, classes: int = 0, text: int = 0, concat: int = 0) -> nn.Module:
        """The network for clouds of `shape` (P, features) and so many jet types (0: one)."""
        return SetNetwork(self, shape[1], classes)


def sinusoids(values: Tensor, dim: int) -> Tensor:
    """cos and sin of `values` (B,) in 0 ... 1000: (B, dim).

    dim / 2 frequencies from 1 to 1/10000 (Vaswani et al. 2017).
    """
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(dim // 2, device=values.device) / (dim // 2)
    )
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


class Block(nn.Module):
    """Attention and feed-forward with adaLN-zero (Peebles & Xie 2023)."""

    def __init__(self, dim: int, heads: int, widen: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, widen * dim), nn.GELU(), nn.Linear(widen * dim, dim)
        )
        self.modulate = zeroed(nn.Linear(dim, 6 * dim))

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """Multi-head attention among the real constituents: a padded key has weight 0."""
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, heads, P, dim / heads)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        return self.out(y.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(condition)[:, None].chunk(
            6, -1
        )
        x = x + gate1 * self.attend(self.norm(x) * (1 + scale1) + shift1, mask)
        return x + gate2 * self.mlp(self.norm(x) * (1 + scale2) + shift2)


class SetNetwork(nn.Module):
    """x (B, P, F) -> (B, P, F), exact zeros at padding; the output starts at 0.

    `forward(x, c_noise, mask, count=None, jet=None, label=None)`; equivariant under permutations of
    the constituents: no positions. c_noise (B,) is in 0 ... 1000; count (B,) the number of
    constituents, by default the mask's own; jet (B, J) standardised features, a row with a NaN
    being the null condition; label (B,) the jet type, `classes` being the null condition.
    """

    def __init__(self, config: SetTransformer, features: int, classes: int):
        super().__init__()
        dim = self.dim = config.dim
        self.embed = nn.Linear(features, dim)
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.count = nn.Linear(dim, dim)
        self.jet = nn.Linear(config.jet, dim) if config.jet else None
        self.label = nn.Embedding(classes + 1, dim) if classes else None
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, config.widen) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.checkpointing = config.checkpointing
        self.modulate = zeroed(nn.Linear(dim, 2 * dim))
        self.out = zeroed(nn.Linear(dim, features))

    def condition(
        self, c_noise: Tensor, count: Tensor, jet: Tensor | None, label: Tensor | None
    ) -> Tensor:
        """Time, number and the other conditions, summed into one vector a cloud: (B, dim)."""
        dtype = self.embed.weight.dtype
        total = self.time(sinusoids(c_noise, self.dim).to(dtype)) + self.count(
            sinusoids(count, self.dim).to(dtype)
        )
        if self.jet is not None and jet is not None:
            given = jet.isfinite().all(1, keepdim=True)
            total = total + given * self.jet(torch.where(given, jet, 0).to(dtype))
        if self.label is not None and label is not None:
            total = total + self.label(label)
        return F.silu(total)

    def run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        return recompute(block, *inputs) if self.checkpointing else block(*inputs)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        mask: Tensor,
        count: Tensor | None = None,
        jet: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Tensor:
        padding = ~mask[..., None]
        condition = self.condition(c_noise, mask.sum(1) if count is None else count, jet, label)
        h = self.embed(x.masked_fill(padding, 0))
        for block in self.blocks:
            h = self.run(block, h, condition, mask)
        shift, scale = self.modulate(condition)[:, None].chunk(2, -1)
        return self.out(self.norm(h) * (1 + scale) + shift).masked_fill(padding, 0)


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer with weights and bias 0: what it gates is off at the start."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
