"""The base of network configs: the modality, and which conditions are supported."""

from typing import ClassVar

from torch import nn

from ldm.diffusion.space import Shape


class NetworkConfig:
    """The base of every network's config; a new network is one dataclass of it and one `nn.Module`.

    `supports`: what the network supports of "label", "text" (captions: token states (B, L, D) and
    `text_mask` (B, L)) and "concat" (channels (B, K, H, W) beside x_t). `features`: how many of the
    data's own features it is given (jets: pt, mass).
    """

    modality: ClassVar[str] = "pictures"
    supports: ClassVar[frozenset[str]] = frozenset({"label"})

    @property
    def features(self) -> int:
        return 0

    def build(self, shape: Shape, classes: int = 0, text: int = 0, concat: int = 0) -> nn.Module:
        """The network: `forward(x, c_noise, **cond)` for x (B, *shape), c_noise (B,) in 0 ... 1000.

        `classes`: how many (label = classes is the null class); `text`: the width D of captions;
        `concat`: K. Each is 0 where the model is not conditioned on it.
        """
        raise NotImplementedError
