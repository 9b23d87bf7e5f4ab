"""Laws of points in the plane to draw from: moons, a spiral, rings, a checkerboard.

Each returns points (N, 2) float64 and the class of each (N,).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Drawn = tuple[Tensor, Tensor]


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _blurred(points: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    return points + noise * torch.randn(points.shape, generator=generator, dtype=torch.float64)


def moons(count: int, noise: float, generator: torch.Generator) -> Drawn:
    """Two half circles that reach into each other."""
    angle, lower = math.pi * _uniform(count, generator), torch.arange(count) % 2
    sign = 1 - 2.0 * lower
    points = torch.stack([lower + sign * angle.cos(), 0.5 * lower + sign * angle.sin()], 1)
    return _blurred(points, noise, generator), lower


def spiral(count: int, noise: float, generator: torch.Generator) -> Drawn:
    """Two arms of one and a half turns, evenly filled along their length."""
    turn, arm = 3 * math.pi * _uniform(count, generator).sqrt(), torch.arange(count) % 2
    angle, radius = turn + math.pi * arm, turn / (3 * math.pi)
    points = 2 * radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return _blurred(points, noise, generator), arm


def rings(count: int, noise: float, generator: torch.Generator) -> Drawn:
    """Three rings of radius 1, 2, 3, each as full as it is long."""
    radius = torch.bucketize(_uniform(count, generator), torch.tensor([1 / 6, 3 / 6]).double())
    angle = 2 * math.pi * _uniform(count, generator)
    points = (radius + 1.0)[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return _blurred(points, noise, generator), radius


def checkerboard(count: int, noise: float, generator: torch.Generator) -> Drawn:
    """The black fields of four by four."""
    x, field = 4 * _uniform(count, generator), torch.arange(count) % 2
    y = _uniform(count, generator) + 2 * field + x.floor() % 2
    return _blurred(torch.stack([x, y], 1) - 2, noise, generator), field * 0


SHAPES: dict[str, tuple[Callable[[int, float, torch.Generator], Drawn], float, tuple[str, ...]]] = {
    "moons": (moons, 0.08, ("upper", "lower")),
    "spiral": (spiral, 0.05, ("first arm", "second arm")),
    "rings": (rings, 0.1, ("inner", "middle", "outer")),
    "checkerboard": (checkerboard, 0.0, ()),
}  # the law, its usual noise, its classes
