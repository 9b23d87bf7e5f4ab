"""PatchGAN: a convolutional discriminator that judges overlapping patches (Isola et al. 2017)."""

from torch import Tensor, nn
from torch.nn import functional as F


class PatchGAN(nn.Module):
    """`forward(x) -> logits` (B, 1, h, w). `layers` stride-2 convolutions.

    GroupNorm where the paper has BatchNorm: statistics of a batch would make two processes differ
    from one.
    """

    def __init__(self, in_channels: int, channels: int = 64, layers: int = 3):
        super().__init__()
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        body: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            conv = nn.Conv2d(
                widths[i - 1],
                widths[i],
                4,
                stride,
                padding="same" if stride == 1 else 1,
                bias=False,
            )
            body += [conv, nn.GroupNorm(8, widths[i]), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*body, nn.Conv2d(widths[-1], 1, 4, padding="same"))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E[max(0, 1 - D(x))] / 2 + E[max(0, 1 + D(x_hat))] / 2 (Lim & Ye 2017)."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())
