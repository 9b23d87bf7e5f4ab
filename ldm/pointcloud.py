"""The space of point clouds: jets' constituents, standardised, with zeros where a jet has none."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SMALLEST, LARGEST = 1e-6, 1 - 1e-4  # of pt_rel, so that its logit is finite; below and above a decode is off by as much


@dataclass
class PointCloud:
    """Diffuse the constituents of a jet: angles over their spread, pt_rel as a standardised logit."""


class PointCloudSpace(nn.Module):
    """x_0 = (eta / s_eta, phi / s_phi, (logit pt - m) / s_pt) for real constituents, 0 for padding; shape (P, 3).

    The logit keeps 0 < pt_rel < 1 whatever is generated. The angles are divided by their root mean square, not shifted,
    so that a reflection stays one. `shift` and `scale` (3,), and `jet_shift`, `jet_scale` (2,) of log pt and
    log(mass / pt), are measured over the training set's real constituents and travel in the checkpoint.
    """

    shift: Tensor
    scale: Tensor
    jet_shift: Tensor
    jet_scale: Tensor

    def __init__(self, shape: tuple[int, int]):
        super().__init__()
        self.shape = tuple(shape)
        for name, size in (("", 3), ("jet_", 2)):
            self.register_buffer(f"{name}shift", torch.zeros(size))
            self.register_buffer(f"{name}scale", torch.ones(size))

    def encode(self, features: Tensor, mask: Tensor) -> Tensor:
        """features (B, P, 3) = eta_rel, phi_rel, pt_rel and mask (B, P) -> x_0 (B, P, 3)."""
        x = (raw_features(features) - self.shift) / self.scale
        return x.masked_fill(~mask[..., None], 0)

    def decode(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, P, 3) -> features: pt_rel in [0, 1], exact zeros at padding."""
        angles, logit = (x.float() * self.scale + self.shift).split((2, 1), -1)
        return torch.cat([angles, logit.sigmoid()], -1).masked_fill(~mask[..., None], 0)

    def condition(self, jet: Tensor) -> Tensor:
        """Standardised log pt and log(mass / pt), (B, 2), of jet (B, 3 or more) = pt, eta, mass."""
        return (raw_jet(jet) - self.jet_shift) / self.jet_scale

    def set_statistics(self, statistics: "CloudStatistics", all_reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> None:
        """Take over what was measured."""
        for name, value in statistics.result(all_reduce).items():
            getattr(self, name).copy_(value)


def raw_features(features: Tensor) -> Tensor:
    """(eta, phi, pt) -> (eta, phi, log(pt / (1 - pt))), pt clamped to what a logit can bear."""
    eta, phi, pt = features.unbind(-1)
    return torch.stack([eta, phi, torch.logit(pt.clamp(SMALLEST, LARGEST))], -1)


def raw_jet(jet: Tensor) -> Tensor:
    """log pt and log(mass / pt); a mass of 0 counts as 1e-4 pt."""
    pt, mass = jet[:, 0].clamp(min=1e-6), jet[:, 2]
    return torch.stack([pt.log(), (mass / pt).clamp(min=1e-4).log()], -1)


class CloudStatistics:
    """Running sums over real constituents and over jets, in float64: they add up over batches and ranks, in any order."""

    def __init__(self, device: torch.device | str = "cpu"):
        # float64 is missing on Apple's GPUs: sums live on the CPU
        self.sums, self.device = torch.zeros(12, dtype=torch.float64), device

    def add(self, features: Tensor, mask: Tensor, jet: Tensor) -> None:
        """Add a batch: features (B, P, 3), mask (B, P), jet (B, 3 or more)."""
        self.sums += torch.cat([_moments(raw_features(features)[mask]), _moments(raw_jet(jet))])

    def result(self, all_reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, Tensor]:
        """`PointCloudSpace`'s buffers over everything added on every rank, float32."""
        sums = all_reduce(self.sums.to(self.device) if str(self.device) != "mps" else self.sums).cpu()
        mean, second = _averages(sums[:7])
        mean[:2] = 0  # angles are not shifted
        jet_mean, jet_second = _averages(sums[7:])
        scales = [(b - a.square()).clamp(min=1e-12).sqrt() for a, b in ((mean, second), (jet_mean, jet_second))]
        names = "shift", "jet_shift", "scale", "jet_scale"
        return {name: value.float() for name, value in zip(names, (mean, jet_mean, *scales), strict=True)}


def _moments(values: Tensor) -> Tensor:
    """Sum, sum of squares and number of rows of (n, k), as one vector (2 k + 1,)."""
    values = values.double().cpu()
    return torch.cat([values.sum(0), values.square().sum(0), values.new_tensor([len(values)])])


def _averages(sums: Tensor) -> tuple[Tensor, Tensor]:
    first, second = sums[:-1].chunk(2)
    return first / sums[-1], second / sums[-1]
