"""Pictures for people: grids, and files of one picture."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from ldm.pictures.transforms import Range
from ldm.system.batches import as_bytes


def to_picture(images: Tensor, columns: int = 0, side: int = 64) -> Image.Image:
    """A grid of pictures (N, C, H, W), small ones enlarged by a whole factor.

    Of other than 1 or 3 channels each is a grey picture beside the others.
    """
    columns = columns or max(1, round(len(images) ** 0.5))
    images = as_bytes(images)
    if (channels := images.shape[1]) not in (1, 3):
        images, columns = images.flatten(0, 1)[:, None], columns * channels
    factor = max(1, side // max(images.shape[2:]))
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    grid = make_grid(images, nrow=columns, padding=2, pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def save_picture(picture: Tensor, path: Path, span: Range | None = None) -> None:
    """Write a picture (C, H, W), bytes or floats in [-1, 1], at its own size to a PNG.

    What a PNG of 8 bits does not hold stands beside it in PATH.npy: floats of data that are floats,
    in their own units (`span`: what -1 and 1 are), and pictures of other than 1 or 3 channels.
    Of the latter the PNG shows the channels in grey, beside each other.
    """
    pixels = as_bytes(picture).cpu()
    plain = len(pixels) in (1, 3)
    if plain:
        shown = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    else:
        shown = pixels.transpose(0, 1).flatten(1)  # (H, C W)
    Image.fromarray(shown.contiguous().numpy()).save(path)
    if span is not None:
        low, high = span
        values = (picture.float().cpu() + 1) / 2 * (high - low) + low
        np.save(path.with_suffix(".npy"), values.numpy())
    elif not plain:
        np.save(path.with_suffix(".npy"), pixels.numpy())
