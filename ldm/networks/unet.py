"""The U-Net that denoises, in pixel or in latent space: diffusers' UNet2DModel behind our signature."""

from dataclasses import dataclass

from diffusers import UNet2DModel
from torch import Tensor, nn

from ldm.errors import Refusal, require
from ldm.networks.padding import crop_to, pad_to_multiple


@dataclass
class UNet:
    """Channels of each level, residual layers a level, and the resolutions (in pixels of x) that get attention."""

    channels: tuple[int, ...] = (64, 128, 256)
    layers: int = 2
    attention: tuple[int, ...] = ()
    head_dim: int = 8
    norm_groups: int = 8
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require(min(self.layers, self.head_dim, self.norm_groups) >= 1, "layers, head_dim and norm_groups must be at least 1")
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
        for key in ("norm_groups", "head_dim"):
            size = getattr(self, key)
            whole = self.channels and all(c > 0 and c % size == 0 for c in self.channels)
            require(bool(whole), f"channels {tuple(self.channels)} must be multiples of {key} = {size}")

    def build(self, shape: tuple[int, int, int], classes: int = 0) -> nn.Module:
        """The network for x of `shape` (C, H, W) and so many classes (0: unconditional)."""
        factor = 2 ** (len(self.channels) - 1)
        side = max(shape[1:]) + -max(shape[1:]) % factor
        sides = [side >> level for level in range(len(self.channels))]
        if wrong := set(self.attention) - set(sides):
            raise Refusal(f"network.attention: {sorted(wrong)} is not among this network's resolutions {sides}")
        attend = [s in self.attention for s in sides]
        net = UNet2DModel(
            sample_size=side,
            in_channels=shape[0],
            out_channels=shape[0],
            block_out_channels=tuple(self.channels),
            layers_per_block=self.layers,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attend),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attend)),
            attention_head_dim=self.head_dim,
            norm_num_groups=self.norm_groups,
            dropout=self.dropout,
            num_class_embeds=classes + 1 if classes else None,  # the last one is the null class of guidance
        )
        return PaddedUNet(net, factor)


class PaddedUNet(nn.Module):
    """`forward(x, c_noise, label=None)`: x is padded to what the levels need, and the answer cropped back."""

    def __init__(self, unet: UNet2DModel, factor: int):
        super().__init__()
        self.unet, self.factor = unet, factor

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        out = self.unet(pad_to_multiple(x, self.factor), c_noise, class_labels=label).sample
        return crop_to(out, *x.shape[-2:])
