"""What is measured of latents: mean, std and the share that the picture explains, a channel."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ldm.diffusion.space import Reduce

# the least share of a latent channel's variance that the picture explains, or it is lost
CARRIES = 0.1
SOUND = 0.5  # below that stage 1 is worth a second look


def percent(shares: Iterable[float]) -> str:
    """Shares of 1 for a person."""
    return ", ".join(f"{100 * share:.2g} %" for share in shares)


def lost_channels(explained: Tensor) -> dict[int, float]:
    """The channels (of z shares) that carry next to nothing of the picture, and their shares."""
    return {i: share for i, share in enumerate(explained.tolist()) if not share >= CARRIES}


class ChannelStatistics:
    """Running sums for the mean and standard deviation of each latent channel.

    They include the posterior's variance. What the picture explains is the variance of the
    posteriors' means; the rest is their noise. A collapsed posterior is N(0, 1) whatever the
    picture: its std is a healthy 1, its share explained 0. Sums in float64 add up over batches and,
    by `all_reduce`, over ranks: the result does not depend on either.
    """

    def __init__(self, channels: int, device: torch.device | str):
        # float64 is missing on Apple's GPUs: sums live on the CPU
        self.sums, self.device = torch.zeros(3 * channels + 1, dtype=torch.float64), device

    def add(self, moments: Tensor) -> None:
        """Add a batch of posteriors (B, 2 z, h, w): E[z] = mean, E[z^2] = mean^2 + var."""
        mean, logvar = moments.double().cpu().chunk(2, 1)
        count = mean.new_tensor([mean.numel() / mean.shape[1]])
        parts = mean, mean.square(), logvar.exp()
        self.sums += torch.cat([*(part.sum((0, 2, 3)) for part in parts), count])

    def result(self, all_reduce: Reduce = lambda sums: sums) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, std and explained share of the variance (z,), float32, over all ranks."""
        sums = all_reduce(
            self.sums.to(self.device) if str(self.device) != "mps" else self.sums
        ).cpu()
        mean, square, noise = (sums[:-1] / sums[-1]).chunk(3)
        signal = (square - mean.square()).clamp(min=0)
        variance = (signal + noise).clamp(min=1e-12)
        return mean.float(), variance.sqrt().float(), (signal / variance).float()
