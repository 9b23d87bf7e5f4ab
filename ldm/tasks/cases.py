"""One input of a task, and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.system.batches import as_floats

KNOWN = torch.ones(1, 1, 1)  # everywhere


@dataclass
class Case:
    """What is given of one picture, (C, H, W) in [-1, 1], and what the panel shows of it.

    known: 1 where a pixel is known, 0 where it is to be made, (1, H, W) or (1, 1, 1).
    noise_std: of the noise in `given`; cases of one batch have the same.
    """

    name: str
    given: Tensor
    known: Tensor = KNOWN
    truth: Tensor | None = None
    noise_std: float = 0.0


def stacked(cases: Sequence[Case], device: torch.device) -> Case:
    """Cases of one noise level as a batch on a device: (B, ...)."""
    given = torch.stack([case.given for case in cases]).to(device)
    known = torch.stack([case.known for case in cases]).to(device)
    return Case("batch", given, known, noise_std=cases[0].noise_std)


def cases_of(images: Tensor, mask: Tensor | None) -> list[Case]:
    """Pictures (N, C, H, W) in [-1, 1] or uint8, and where to paint: see `Task.solve`."""
    images = as_floats(images)
    if mask is None:
        return [Case(f"{i}", image) for i, image in enumerate(images)]
    known = 1 - (mask > 0).float().reshape(-1, 1, *images.shape[2:]).expand(len(images), -1, -1, -1)
    return [
        Case(f"{i}", image, hole) for i, (image, hole) in enumerate(zip(images, known, strict=True))
    ]
