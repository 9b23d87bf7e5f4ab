"""What the figures share: their data, and small networks that are trained once and kept."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser, Loss
from ldm.diffusion.schedules import Cosine, Schedule
from ldm.metrics.reference import default_cache
from ldm.points.data import Points
from ldm.points.exact import Mixture
from ldm.points.network import MLP
from ldm.system.randomness import generator, stratified

Watch = Callable[[int, Denoiser, float], object]


def few(count: int, size: float, least: int = 50) -> int:
    """A count, or its share in a test."""
    return max(least, round(count * size))


def plane() -> Mixture:
    """The five Gaussians of configs/points/mixture.yaml, standardised as in training."""
    data = Points(count=2)
    law = Mixture.round(data.means, data.stds)
    mean = (law.weights[:, None] * law.means).sum(0)
    second = (law.weights[:, None] * (law.means**2 + law.covariances.diagonal(0, 1, 2))).sum(0)
    return law.scaled(mean, (second - mean**2).sqrt())


def line() -> Mixture:
    """Two peaks on a line, of mean 0 and standard deviation 1."""
    std, weight = 0.2, 0.7
    ends = [[-(((1 - weight) / weight) ** 0.5)], [(weight / (1 - weight)) ** 0.5]]
    law = Mixture.round(ends, [std, std], [weight, 1 - weight])
    return law.scaled(torch.zeros(1), torch.full((1,), (1 + std**2) ** 0.5))


def randn(*shape: int, key: str) -> Tensor:
    """Standard normal numbers of a key, float64."""
    return torch.randn(*shape, generator=generator("lecture", key), dtype=torch.float64)


@dataclass(frozen=True)
class Lesson:
    """How a small network is trained: steps of `batch` points at times from t_min to 1."""

    steps: int = 700
    batch: int = 1024
    lr: float = 5e-3
    loss: Loss = Loss("v")
    schedule: Schedule = Cosine()
    t_min: float = 1e-3
    classes: int = 0
    seed: int = 0
    dim: int = 64


def untrained(lesson: Lesson, width: int = 2) -> Denoiser:
    """The network before its first step."""
    torch.manual_seed(lesson.seed)
    net = MLP(dim=lesson.dim, layers=3, fourier=16).build((width,), lesson.classes)
    return Denoiser(net, lesson.schedule, lesson.loss)


def learn(
    lesson: Lesson, draw: Callable[[int, torch.Generator], Tensor], watch: Watch | None = None
) -> Denoiser:
    """Algorithm 1 on points that `draw` gives: x_0, t, eps, a step of AdamW on the loss."""
    random = generator("lecture", "learn", lesson.seed)
    denoiser = untrained(lesson, draw(1, random).shape[1])
    optim = torch.optim.AdamW(denoiser.net.parameters(), lesson.lr, (0.9, 0.99), weight_decay=0)
    for step in range(lesson.steps):
        done = step / lesson.steps
        optim.param_groups[0]["lr"] = lesson.lr * min(1, (step + 1) / 50) * (1 - done)
        x_0 = draw(lesson.batch, random).float()
        u = stratified(lesson.batch, 0, 1, "lecture", step)
        t = lesson.t_min + (1 - lesson.t_min) * u
        loss = denoiser.loss(x_0, t, torch.randn(x_0.shape, generator=random)).mean()
        optim.zero_grad()
        loss.backward()
        optim.step()
        if watch is not None:
            watch(step, denoiser, loss.item())
    return denoiser.eval().requires_grad_(False)


@functools.lru_cache(maxsize=16)
def learnt(name: str, lesson: Lesson, draw: Callable[[int, torch.Generator], Tensor]) -> Denoiser:
    """`learn`, kept in memory and in ~/.cache/ldm/lecture; the name says what `draw` gives."""
    key = hashlib.sha256(repr((name, lesson, torch.__version__)).encode()).hexdigest()[:16]
    path = default_cache() / "lecture" / f"{key}.safetensors"
    if path.is_file():
        denoiser = untrained(lesson, draw(1, generator("width")).shape[1])
        denoiser.net.load_state_dict(load_file(path))
        return denoiser.eval().requires_grad_(False)
    denoiser = learn(lesson, draw)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(denoiser.net.state_dict(), path)
    return denoiser
