"""What is measured over the training jets: scales of features, and numbers of constituents."""

import torch
from torch import Tensor

from ldm.diffusion.space import Reduce

# of pt_rel, so that its logit is finite; below and above a decode is off by as much
SMALLEST, LARGEST = 1e-6, 1 - 1e-4
LIGHTEST = 1e-4  # mass / pt that a mass of 0 counts as
# standard deviations below which a feature is constant, and not divided by them: of the
# constituents' features, and of log pt and log(mass / pt), where a spread of a tenth
# of a per cent is none, and any other value given would be thousands of spreads away
CONSTANT, CONSTANT_JET = 1e-5, 1e-3


def over_ranks(all_reduce: Reduce, device: torch.device | str) -> Reduce:
    """`all_reduce` of sums that live on the CPU: float64 is missing on Apple's GPUs."""
    place = "cpu" if str(device) == "mps" else device
    return lambda sums: all_reduce(sums.to(place)).cpu()


def raw_features(features: Tensor) -> Tensor:
    """(eta, phi, pt) -> (eta, phi, log(pt / (1 - pt))), pt clamped to what a logit can bear."""
    eta, phi, pt = features.unbind(-1)
    return torch.stack([eta, phi, torch.logit(pt.clamp(SMALLEST, LARGEST))], -1)


def raw_jet(jet: Tensor) -> Tensor:
    """log pt and log(mass / pt); a mass of 0 counts as LIGHTEST pt."""
    pt, mass = jet[:, 0].clamp(min=1e-6), jet[:, 2]
    return torch.stack([pt.log(), (mass / pt).clamp(min=LIGHTEST).log()], -1)


class CloudStatistics:
    """Running float64 sums over constituents and jets; they add up over batches and ranks.

    `table`: (types, P + 1) of the histogram of numbers. Counted besides: jets whose pt is not above
    0, and constituents whose pt_rel no logit can bear.
    """

    def __init__(self, table: tuple[int, int] = (1, 31)):
        self.table = table
        self.sums = torch.zeros(14 + table[0] * table[1], dtype=torch.float64)

    def add(self, features: Tensor, mask: Tensor, jet: Tensor, types: Tensor | None = None) -> None:
        """Add a batch: features (B, P, 3), mask (B, P), jet (B, 3 or more), types (B,)."""
        row = types.clamp(max=self.table[0] - 1) if types is not None else 0
        place = row * self.table[1] + mask.sum(1)
        numbers = torch.bincount(place.cpu(), minlength=self.table[0] * self.table[1])
        ends = (features[..., 2][mask] < SMALLEST).sum() + (features[..., 2][mask] > LARGEST).sum()
        odd = torch.stack([(jet[:, 0] <= 0).sum(), ends]).cpu()
        self.sums += torch.cat(
            [_moments(raw_features(features)[mask]), _moments(raw_jet(jet)), odd, numbers]
        )

    @property
    def without_pt(self) -> int:
        """Jets whose pt is not above 0."""
        return int(self.sums[12])

    @property
    def at_an_end(self) -> int:
        """Constituents whose pt_rel is below SMALLEST or above LARGEST."""
        return int(self.sums[13])

    def reduce(self, all_reduce: Reduce) -> None:
        """Take in what every other rank has added."""
        self.sums = all_reduce(self.sums)

    def result(self, all_reduce: Reduce = lambda sums: sums) -> dict[str, Tensor]:
        """`PointCloudSpace`'s buffers over everything added on every rank, float32.

        A constant feature has the scale 1.
        """
        self.reduce(all_reduce)
        mean, second = _averages(self.sums[:7])
        mean[:2] = 0  # angles are not shifted
        jet_mean, jet_second = _averages(self.sums[7:12])
        scales = _scale(mean, second, CONSTANT), _scale(jet_mean, jet_second, CONSTANT_JET)
        names = "shift", "jet_shift", "scale", "jet_scale", "numbers"
        values = mean, jet_mean, *scales, self.sums[14:].reshape(self.table)
        return {name: value.float() for name, value in zip(names, values, strict=True)}


def _scale(mean: Tensor, second: Tensor, least: float) -> Tensor:
    """Standard deviations, 1 where there is none: no division by a rounding error."""
    std = (second - mean.square()).clamp(min=0).sqrt()
    return torch.where(std < least, 1.0, std)


def _moments(values: Tensor) -> Tensor:
    """Sum, sum of squares and number of rows of (n, k), as one vector (2 k + 1,)."""
    values = values.double().cpu()
    return torch.cat([values.sum(0), values.square().sum(0), values.new_tensor([len(values)])])


def _averages(sums: Tensor) -> tuple[Tensor, Tensor]:
    first, second = sums[:-1].chunk(2)
    return first / sums[-1], second / sums[-1]
