"""What a network's config says of itself: which data it is for, and what it hears beside x_t and t."""

from typing import ClassVar

from torch import nn

from ldm.diffusion.space import Shape


class NetworkConfig:
    """The base of every network's config. `features`: how many of the data's own features it is given (jets: pt, mass).

    `hears`: of "label", "text" (captions) and "concat" (channels beside x_t), what `build` takes and `forward` uses.
    """

    modality: ClassVar[str] = "pictures"
    hears: ClassVar[frozenset[str]] = frozenset({"label"})

    @property
    def features(self) -> int:
        return 0

    def build(self, shape: Shape, classes: int = 0, **more: int) -> nn.Module:
        """`forward(x, c_noise, **cond)` for x of `shape`, so many classes (0: none), captions `text` wide, `concat` channels."""
        raise NotImplementedError
