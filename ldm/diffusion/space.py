"""The space: where the diffusion happens. The fourth of the five words, and what its parts are called."""

from collections.abc import Callable

from torch import Tensor

Shape = tuple[int, ...]
Randn = Callable[[Shape], Tensor]
Reduce = Callable[[Tensor], Tensor]
Told = dict[str, Tensor]  # what the denoiser is told beside the class: nothing of pictures, the mask of clouds


def listed(values: Tensor) -> str:
    """A few numbers for a person."""
    return " ".join(f"{v:.3g}" for v in values.tolist())
