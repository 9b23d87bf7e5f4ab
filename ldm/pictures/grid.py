"""Samples as pictures: grids for people, and a folder of files."""

from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid


def to_picture(images: Tensor, columns: int = 0, side: int = 64) -> Image.Image:
    """A grid of uint8 images (N, C, H, W), small ones enlarged by a whole factor so that a person can see them."""
    factor = max(1, side // max(images.shape[2:]))
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    grid = make_grid(
        images, nrow=columns or max(1, round(len(images) ** 0.5)), padding=2, pad_value=255
    )
    return Image.fromarray(grid.permute(1, 2, 0).numpy())
