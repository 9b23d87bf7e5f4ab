"""The base of network configs: the modality, and which conditions are supported."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

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


def recompute(layer: Callable[..., Any], *inputs: Any, drawing: bool = False, **more: Any) -> Any:
    """layer(*inputs, **more); its insides are not kept for the backward pass but computed again.

    `drawing`: it has dropout, and must drop the same again. Without, the state of the generators is
    not read: on a GPU that would wait for it.
    """
    if not torch.is_grad_enabled():
        return layer(*inputs, **more)
    return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=drawing, **more)
