"""The space of point clouds: jets' constituents, standardised, with zeros where a jet has none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ldm.diffusion.space import Extras, Noise, Reduce, Shape, Space, SpaceConfig, listed
from ldm.errors import Refusal
from ldm.system.randomness import generator

SMALLEST, LARGEST = (
    1e-6,
    1 - 1e-4,
)  # of pt_rel, so that its logit is finite; below and above a decode is off by as much
LIGHTEST = 1e-4  # mass / pt that a mass of 0 counts as
# standard deviations below which a feature is constant, and not divided by them: of the
# constituents' features, and of log pt and log(mass / pt), where a spread of a tenth
# of a per cent is none, and any other value given would be thousands of spreads away
CONSTANT, CONSTANT_JET = 1e-5, 1e-3


@dataclass
class PointCloud(SpaceConfig):
    """Diffuse a jet's constituents: angles over their spread, pt_rel as a standardised logit."""

    modality: ClassVar[str] = "jets"

    def build(
        self, shape: Shape, autoencoder: nn.Module | None, classes: int, features: int
    ) -> "PointCloudSpace":
        return PointCloudSpace(shape, classes, features)


class PointCloudSpace(Space):
    """x_0 = (eta / s_eta, phi / s_phi, (logit pt - m) / s_pt) for real constituents, 0 for padding.

    Shape (P, 3).

    The logit keeps 0 < pt_rel < 1 whatever is generated. The angles are divided by their root mean
    square, not shifted, so that a reflection stays one. `shift` and `scale` (3,), `jet_shift`,
    `jet_scale` (2,) of log pt and log(mass / pt), and `numbers` (types, P + 1), how many jets of
    each type have 0 ... P constituents, are measured over the training set and travel in the
    checkpoint. `jet`: how many of the jet's own features the denoiser is given (2: pt and mass).
    """

    shift: Tensor
    scale: Tensor
    jet_shift: Tensor
    jet_scale: Tensor
    numbers: Tensor
    measured = True
    modality, kind = "jets", "cloud"

    def __init__(self, shape: Shape, classes: int = 0, jet: int = 0):
        super().__init__()
        self.shape = self.data_shape = tuple(shape)
        self.jet = jet
        for name, size in (("", 3), ("jet_", 2)):
            self.register_buffer(f"{name}shift", torch.zeros(size))
            self.register_buffer(f"{name}scale", torch.ones(size))
        numbers = torch.zeros(max(1, classes), shape[0] + 1)
        numbers[:, -1] = 1  # until measured: full
        self.register_buffer("numbers", numbers)

    @property
    def units(self) -> tuple[Tensor, Tensor]:
        return self.shift, self.scale

    def expect_measured(self, where: str) -> None:
        """Refusal if a checkpoint's statistics cannot have been measured."""
        positive = (self.scale > 0).all() and (self.jet_scale > 0).all()
        if not positive or (self.numbers < 0).any() or not (self.numbers.sum(1) > 0).any():
            raise Refusal(
                f"{where}: the clouds' scales and numbers of constituents are not all above 0; it "
                "is of no model"
            )

    def read(self, batch: Mapping[str, Any]) -> Tensor:
        """The batch's constituents (B, P, 3)."""
        return batch["particles"]

    def mirror(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Half of the jets reflected in eta, and half in phi."""
        reflect = torch.rand(len(features), 2, generator=generator, device=features.device) < 0.5
        signs = torch.cat([1 - 2 * reflect.float(), features.new_ones(len(features), 1)], 1)
        return features * signs[:, None]

    def extras(self, batch: Mapping[str, Any]) -> Extras:
        """The mask: the denoiser knows how many constituents there are."""
        return {"mask": batch["mask"]}

    def features(self, batch: Mapping[str, Any]) -> Extras:
        """The jet's standardised pt and mass, if the network takes them."""
        return {"jet": self.condition(batch["jet"])} if self.jet else {}

    def draw(self, seeds: Sequence[int], labels: Sequence[int] | None = None) -> Extras:
        """Masks with numbers of constituents as in training, functions of seed and type."""
        rows = zip(seeds, labels or [0] * len(seeds), strict=True)
        return self.full(
            [self._number(seed, min(label, len(self.numbers) - 1)) for seed, label in rows]
        )

    def _number(self, seed: int, row: int) -> int:
        u = torch.rand((), generator=generator("constituents", int(seed)), dtype=torch.float64)
        shares = self.numbers[row].double().cpu().cumsum(0)
        return int(torch.searchsorted(shares, u * shares[-1], right=True))

    def full(self, numbers: Sequence[int]) -> Extras:
        """Masks of so many constituents, the real ones first: (B, P)."""
        return {"mask": torch.arange(self.shape[0]) < torch.tensor(numbers)[:, None]}

    def rows(self, count: int) -> Extras:
        """Masks of full clouds."""
        return self.full([self.shape[0]] * count)

    def finish(self, x: Tensor, extras: Extras) -> Tensor:
        """Finished samples as features (B, P, 3) on the CPU."""
        return self.decode(x, extras["mask"].to(x.device)).cpu()

    def measure(
        self, batches: Iterable[Mapping[str, Any]], all_reduce: Reduce, device: torch.device | str
    ) -> str:
        """Measure scales and numbers over the batches of every rank, and print them."""
        statistics = CloudStatistics(device, (len(self.numbers), self.numbers.shape[1]))
        for batch in batches:
            statistics.add(batch["particles"], batch["mask"], batch["jet"], batch["label"])
        statistics.reduce(all_reduce)
        if self.jet and statistics.without_pt:
            what = f"{statistics.without_pt} training jets have no pt above 0 in jet_features"
            raise Refusal(
                f"data: {what}, and network.jet={self.jet} needs it; set network.jet=0, or mend "
                "the file"
            )
        self.set_statistics(statistics)
        numbers = self.numbers.cpu()
        mean = (numbers * torch.arange(self.shape[0] + 1)).sum(1) / numbers.sum(1)
        said = f"clouds: shift {listed(self.shift)}, scale {listed(self.scale)}"
        said += f", constituents {listed(mean)}"
        n = statistics.at_an_end
        return said + (
            f"; {n} constituents of pt_rel below {SMALLEST:g} or above {LARGEST:g} count as there"
            if n
            else ""
        )

    def seen(self, row: int = 0) -> tuple[int, int]:
        """The smallest and the largest number of constituents of one type's jets in training."""
        there = self.numbers[min(row, len(self.numbers) - 1)].nonzero()[:, 0]
        return (int(there[0]), int(there[-1])) if len(there) else (0, self.shape[0])

    def encode(self, features: Tensor, randn: Noise | None = None, /, **extras: Tensor) -> Tensor:
        """features (B, P, 3) = eta_rel, phi_rel, pt_rel and mask= (B, P) -> x_0 (B, P, 3)."""
        x = (raw_features(features) - self.shift) / self.scale
        return x.masked_fill(~extras["mask"][..., None], 0)

    def decode(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, P, 3) -> features: pt_rel in [0, 1], exact zeros at padding."""
        angles, logit = (x.float() * self.scale + self.shift).split((2, 1), -1)
        return torch.cat([angles, logit.sigmoid()], -1).masked_fill(~mask[..., None], 0)

    def log_jacobian(self, features: Tensor, mask: Tensor) -> Tensor:
        """log |det d x_0 / d features| in nats, (B,).

        Added to log p(x_0) it gives the log-density of the features (B, P, 3) = eta_rel, phi_rel,
        pt_rel. Each real constituent has -log(s_eta s_phi s_pt) - log(pt (1 - pt)), pt within what
        `encode` keeps of it; padding adds nothing.
        """
        pt = features[..., 2].double().clamp(SMALLEST, LARGEST)
        each = -self.scale.double().log().sum() - pt.log() - torch.log1p(-pt)
        return each.masked_fill(~mask, 0).sum(1)

    def condition(self, jet: Tensor) -> Tensor:
        """Standardised log pt and log(mass / pt), (B, 2), of jet (B, 3 or more) = pt, eta, mass."""
        return (raw_jet(jet.to(self.jet_shift)) - self.jet_shift) / self.jet_scale

    def set_statistics(
        self, statistics: "CloudStatistics", all_reduce: Reduce = lambda sums: sums
    ) -> None:
        """Take over what was measured."""
        for name, value in statistics.result(all_reduce).items():
            getattr(self, name).copy_(value)


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

    def __init__(self, device: torch.device | str = "cpu", table: tuple[int, int] = (1, 31)):
        # float64 is missing on Apple's GPUs: sums live on the CPU
        self.table, self.device = table, device
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
        self.sums = all_reduce(
            self.sums.to(self.device) if str(self.device) != "mps" else self.sums
        ).cpu()

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
