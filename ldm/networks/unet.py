"""The denoising U-Net, in pixel or latent space: diffusers' UNet2D(Condition)Model."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ldm.diffusion.space import Shape
from ldm.errors import Refusal, require
from ldm.networks.base import NetworkConfig, recompute
from ldm.networks.padding import crop_to, pad_to_multiple


@dataclass
class UNet(NetworkConfig):
    """Channels of each level, residual layers a level, and where there is attention.

    `attention` names resolutions (in pixels of x) or, below 0, levels counted from the last: -1 is
    the one of fewest pixels. Levels go with the data's size; a resolution that the network has not
    is refused. `checkpointing`: blocks are computed again in the backward pass instead of kept
    (Chen et al. 2016): a third more arithmetic, less memory, the same numbers.
    """

    channels: tuple[int, ...] = (64, 128, 256)
    layers: int = 2
    attention: tuple[int, ...] = ()
    head_dim: int = 8
    norm_groups: int = 8
    dropout: float = 0.0
    checkpointing: bool = False
    supports: ClassVar[frozenset[str]] = frozenset({"label", "text", "concat"})

    def __post_init__(self) -> None:
        require(
            min(self.layers, self.head_dim, self.norm_groups) >= 1,
            "layers, head_dim and norm_groups must be at least 1",
        )
        require(self.layers <= 32, f"layers must be at most 32, got {self.layers}")
        require(
            len(self.channels) <= 8,
            f"channels must be of at most 8 levels, got {len(self.channels)}",
        )
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
        for key in ("norm_groups", "head_dim"):
            size = getattr(self, key)
            whole = self.channels and all(c > 0 and c % size == 0 for c in self.channels)
            require(
                bool(whole), f"channels {tuple(self.channels)} must be multiples of {key} = {size}"
            )

    def build(self, shape: Shape, classes: int = 0, text: int = 0, concat: int = 0) -> nn.Module:
        """The network for x (C, H, W), `classes`, caption width and extra channels; 0: none.

        With captions the levels of `attention`, and the middle in any case, attend to their tokens.
        """
        # slow to import: not to read a config
        from diffusers import UNet2DConditionModel, UNet2DModel

        factor = 2 ** (len(self.channels) - 1)
        side = max(shape[1:]) + -max(shape[1:]) % factor
        attend = self.attends([side >> level for level in range(len(self.channels))])
        kind: Any = UNet2DModel
        down, up = "AttnDownBlock2D", "AttnUpBlock2D"
        more: dict[str, Any] = {"attention_head_dim": self.head_dim}
        if text:  # diffusers' attention_head_dim of this one is the number of heads
            kind, down, up = UNet2DConditionModel, "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
            heads = tuple(c // self.head_dim for c in self.channels)
            more = {"cross_attention_dim": text, "attention_head_dim": heads}
        net = kind(
            sample_size=side,
            in_channels=shape[0] + concat,
            out_channels=shape[0],
            block_out_channels=tuple(self.channels),
            layers_per_block=self.layers,
            down_block_types=tuple(down if a else "DownBlock2D" for a in attend),
            up_block_types=tuple(up if a else "UpBlock2D" for a in reversed(attend)),
            norm_num_groups=self.norm_groups,
            dropout=self.dropout,
            # the last class is the null class of guidance
            num_class_embeds=classes + 1 if classes else None,
            **more,
        )
        if self.checkpointing:
            for block in (*net.down_blocks, net.mid_block, *net.up_blocks):
                # diffusers' own keeps what skips are joined to, and all of attention
                block.forward = partial(recompute, block.forward, drawing=self.dropout > 0)
        return PaddedUNet(net, factor, text)

    def attends(self, sides: list[int]) -> list[bool]:
        """Whether each level has attention; Refusal if `attention` names a missing one."""
        levels = range(-len(sides), 0)
        if wrong := set(self.attention) - set(sides) - set(levels):
            raise Refusal(
                f"network.attention: {sorted(wrong)} is not among this network's resolutions "
                f"{sides}, "
                f"nor its levels {list(levels)}; network.attention=[-1] is the last level at any "
                "size"
            )
        return [
            side in self.attention or level in self.attention
            for side, level in zip(sides, levels, strict=True)
        ]


class PaddedUNet(nn.Module):
    """A U-Net on x padded to what the levels need, the answer cropped back.

    `forward(x, c_noise, label=None, text=None, text_mask=None, concat=None)`.
    concat: (B, K, H, W), a picture's channels beside x's own: what a trained task is given.
    text: (B, L, D) token states, text_mask: (B, L). The first token is always seen, or a row of
    none would attend to nothing; where it is zeros it adds nothing, because keys and values have no
    bias: that is the null caption, and `text=None` is the same.
    """

    def __init__(self, unet: nn.Module, factor: int, text: int = 0):
        super().__init__()
        self.unet, self.factor, self.text = unet, factor, text

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        label: Tensor | None = None,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        concat: Tensor | None = None,
    ) -> Tensor:
        x = x if concat is None else torch.cat([x, concat.to(x.dtype)], 1)
        more = self.captions(x, text, text_mask) if self.text else {}
        out = self.unet(pad_to_multiple(x, self.factor), c_noise, class_labels=label, **more).sample
        return crop_to(out, *x.shape[-2:])

    def captions(self, x: Tensor, text: Tensor | None, mask: Tensor | None) -> dict[str, Tensor]:
        """What cross-attention is given."""
        if text is None:
            text = x.new_zeros(len(x), 1, self.text)
        first = torch.arange(text.shape[1], device=x.device)[None] == 0
        mask = (
            torch.ones_like(first).expand(text.shape[:2]) if mask is None else mask.bool() | first
        )
        return {"encoder_hidden_states": text, "encoder_attention_mask": mask}
