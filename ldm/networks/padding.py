"""Images of any size through networks that halve them a fixed number of times."""

from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the edges, right and bottom first, until `multiple` divides height and width."""
    h, w = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    return F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2), mode="replicate") if h or w else x


def crop_to(x: Tensor, height: int, width: int) -> Tensor:
    """Undo `pad_to_multiple`: the middle height x width of x."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
