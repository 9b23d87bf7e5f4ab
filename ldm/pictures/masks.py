"""Holes for in-painting: rectangles and strokes of a brush, each a function of its own key."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.system.device import send
from ldm.system.randomness import generator

Key = tuple[int | str, ...]
POINTS = 8  # of a stroke, at most


def draw(
    keys: Sequence[Key],
    size: tuple[int, int],
    area: tuple[float, float],
    rectangles: float,
    device: torch.device | str = "cpu",
) -> Tensor:
    """known (B, 1, H, W): 0 in the hole, 1 elsewhere.

    Row i is a function of keys[i] alone, on any device. A hole's share of the picture is uniform in
    `area`. With probability `rectangles` it is one rectangle, else a stroke: a chain of 1 to 7
    straight lines, as wide as its area asks (rectangles and chains: Suvorov et al. 2022, section
    2.3).
    """
    rows = [torch.rand(4 + 2 * POINTS, generator=generator(*key)) for key in keys]
    u = send(torch.stack(rows), device)
    share = area[0] + (area[1] - area[0]) * u[:, 0]
    hole = torch.where(
        (u[:, 1] < rectangles)[:, None, None],
        rectangle(share, u[:, 2:5], size),
        stroke(share, u[:, 3:], size),
    )
    return 1 - hole.float()[:, None]


def rectangle(share: Tensor, u: Tensor, size: tuple[int, int]) -> Tensor:
    """Rectangles of a share (B,) of the picture, side ratios 1/2 ... 2 if they fit: (B, H, W)."""
    (height, width), pixels = size, share * size[0] * size[1]
    h = (
        (pixels * 4 ** (u[:, 0] - 0.5))
        .sqrt()
        .clamp(max=height)
        .maximum(pixels / width)
        .round()
        .clamp(1, height)
    )
    w = (pixels / h).round().clamp(1, width)
    top, left = ((u[:, 1] * (height - h + 1)).floor(), (u[:, 2] * (width - w + 1)).floor())
    y, x = torch.arange(height, device=u.device)[:, None], torch.arange(width, device=u.device)
    top, left, h, w = (v[:, None, None] for v in (top, left, h, w))
    return (y >= top) & (y < top + h) & (x >= left) & (x < left + w)


def stroke(share: Tensor, u: Tensor, size: tuple[int, int]) -> Tensor:
    """The pixels nearest to a chain of lines, a share (B,) of the picture: (B, H, W)."""
    height, width = size
    last = 1 + (u[:, 0] * (POINTS - 1)).long()
    along, across = u[:, 1:].unflatten(1, (POINTS, 2)).unbind(-1)
    points = torch.stack([along * height, across * width], -1)
    # the last point is repeated
    order = torch.arange(POINTS, device=u.device).minimum(last[:, None])
    points = points.gather(1, order[..., None].expand(-1, -1, 2))
    y, x = torch.arange(height, device=u.device) + 0.5, torch.arange(width, device=u.device) + 0.5
    pixels = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flatten(0, 1)
    far = torch.stack(
        [distance(pixels, points[:, i], points[:, i + 1]) for i in range(POINTS - 1)]
    ).amin(0)
    count = (share * height * width).round().long().clamp(1, height * width - 1)
    edge = far.sort(1).values.gather(1, count[:, None] - 1)
    return (far <= edge).unflatten(1, size)


def distance(pixels: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """From pixels (N, 2) to the lines from a to b (B, 2): (B, N)."""
    along, off = (b - a)[:, None], pixels - a[:, None]
    place = ((off * along).sum(-1) / along.square().sum(-1).clamp(min=1e-12)).clamp(0, 1)
    return (off - place[..., None] * along).norm(dim=-1)
