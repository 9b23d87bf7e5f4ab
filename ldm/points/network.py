"""A network for points: a multilayer perceptron on x, Fourier features of x, time and class."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ldm.diffusion.space import Shape
from ldm.errors import require
from ldm.networks.base import NetworkConfig
from ldm.system.randomness import generator

TIMES = 16  # frequencies of time


@dataclass
class MLP(NetworkConfig):
    """Width, layers, and `fourier` features of x: cos and sin of B x, B ~ N(0, `scale`^2).

    Without them (0) an MLP learns fine detail last (Tancik et al. 2020, section 3).
    """

    dim: int = 128
    layers: int = 3
    fourier: int = 32
    scale: float = 2.0
    modality: ClassVar[str] = "points"
    supports: ClassVar[frozenset[str]] = frozenset({"label"})

    def __post_init__(self) -> None:
        require(1 <= self.dim <= 8192, f"dim must be in 1 ... 8192, got {self.dim}")
        require(1 <= self.layers <= 100, f"layers must be in 1 ... 100, got {self.layers}")
        require(0 <= self.fourier <= 4096, f"fourier must be in 0 ... 4096, got {self.fourier}")
        require(0 < self.scale < math.inf, f"scale must be above 0, got {self.scale}")

    def build(self, shape: Shape, classes: int = 0, text: int = 0, concat: int = 0) -> nn.Module:
        """The network for points of `shape` (D,) and so many classes (0: none)."""
        return MLPNetwork(self, shape[0], classes)


class MLPNetwork(nn.Module):
    """x (B, D) -> (B, D); `forward(x, c_noise, label=None)`, c_noise (B,) in 0 ... 1000.

    Every layer is a residual one: h + W2 silu(W1 (norm(h)) + time and class). The output starts at
    0. label (B,), `classes` being the null class.
    """

    waves: Tensor
    rates: Tensor

    def __init__(self, config: MLP, width: int, classes: int):
        super().__init__()
        dim, random = config.dim, generator("Fourier features", width, config.fourier)
        waves = config.scale * torch.randn(width, config.fourier, generator=random)
        self.register_buffer("waves", waves)
        self.register_buffer("rates", math.pi * 2 ** torch.linspace(-1, 6, TIMES))
        self.embed = nn.Linear(width + 2 * config.fourier, dim)
        self.time = nn.Sequential(nn.Linear(2 * TIMES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = nn.Embedding(classes + 1, dim) if classes else None
        self.layers = nn.ModuleList(Layer(dim) for _ in range(config.layers))
        self.out = nn.Linear(dim, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        dtype = self.embed.weight.dtype
        angles, phases = c_noise.float()[:, None] / 1000 * self.rates, x.float() @ self.waves
        given = self.time(torch.cat([angles.cos(), angles.sin()], 1).to(dtype))
        if self.label is not None and label is not None:
            given = given + self.label(label)
        h = self.embed(torch.cat([x.float(), phases.cos(), phases.sin()], 1).to(dtype))
        for layer in self.layers:
            h = layer(h, given)
        return self.out(nn.functional.silu(h))


class Layer(nn.Module):
    """h + W2 silu(W1 h + given)."""

    def __init__(self, dim: int):
        super().__init__()
        self.first, self.given, self.second = (
            nn.Linear(dim, dim),
            nn.Linear(dim, dim),
            nn.Linear(dim, dim),
        )

    def forward(self, h: Tensor, given: Tensor) -> Tensor:
        return h + self.second(nn.functional.silu(self.first(h) + self.given(given)))
