"""The space of point clouds: jets' constituents, standardised, with zeros where a jet has none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ldm.diffusion.space import Extras, Noise, Reduce, Shape, Space, SpaceConfig, listed
from ldm.errors import Refusal
from ldm.jets import joint, normal
from ldm.jets.statistics import (
    LARGEST,
    SMALLEST,
    CloudStatistics,
    over_ranks,
    raw_features,
    raw_jet,
)
from ldm.system.randomness import generator

MOST_TYPES = 5  # JetNet's


@dataclass
class PointCloud(SpaceConfig):
    """Diffuse a jet's constituents: angles over their spread, pt_rel as a standardised logit.

    `marginals: normal`: both are made standard normal first (`ldm.jets.normal`).
    """

    marginals: Literal["scaled", "normal"] = "scaled"
    modality: ClassVar[str] = "jets"

    def build(
        self, shape: Shape, autoencoder: nn.Module | None, classes: int, features: int
    ) -> "PointCloudSpace":
        return PointCloudSpace(shape, classes, features, self.marginals == "normal")

    def upgraded(self, found: dict[str, Tensor], classes: int, features: int) -> dict[str, Tensor]:
        """Checkpoints made before 2026-11-26 have no joint table: an empty one is added."""
        if not features or "joint" in found or classes > MOST_TYPES:
            return found
        return found | {"joint": torch.zeros(max(1, classes), joint.ROWS, 3)}


class PointCloudSpace(Space):
    """x_0 = (eta / s_eta, phi / s_phi, (logit pt - m) / s_pt) for real constituents, 0 for padding.

    Shape (P, 3).

    The logit keeps 0 < pt_rel < 1 whatever is generated. The angles are divided by their root mean
    square, not shifted, so that a reflection stays one. `shift` and `scale` (3,), `jet_shift`,
    `jet_scale` (2,) of log pt and log(mass / pt), and `numbers` (types, P + 1), how many jets of
    each type have 0 ... P constituents, are measured over the training set and travel in the
    checkpoint. `jet`: how many of the jet's own features the denoiser is given (2: pt and mass);
    then `joint` (types, ROWS, 3) is measured too, from which they are drawn (`ldm.jets.joint`).
    With `normal`, x_0 is (rho(r) (eta, phi) / r, z(logit pt)), where `knots` (2 KNOTS,), measured,
    are of the maps rho and z, and r the distance from the axis.
    """

    shift: Tensor
    scale: Tensor
    jet_shift: Tensor
    jet_scale: Tensor
    numbers: Tensor
    joint: Tensor
    knots: Tensor
    measured = True
    modality, kind = "jets", "cloud"

    def __init__(
        self, shape: Shape, classes: int = 0, jet: int = 0, normal_marginals: bool = False
    ):
        super().__init__()
        self.shape = self.data_shape = tuple(shape)
        self.jet, self.normal = jet, normal_marginals
        for name, size in (("", 3), ("jet_", 2)):
            self.register_buffer(f"{name}shift", torch.zeros(size))
            self.register_buffer(f"{name}scale", torch.ones(size))
        numbers = torch.zeros(max(1, classes), shape[0] + 1)
        numbers[:, -1] = 1  # until measured: full
        self.register_buffer("numbers", numbers)
        if jet:
            self.register_buffer("joint", torch.zeros(len(numbers), joint.ROWS, 3))
        if self.normal:  # in one row: packed models keep vectors whole
            self.register_buffer("knots", normal.levels().flatten())

    @property
    def units(self) -> tuple[Tensor, Tensor]:
        if not self.normal:
            return self.shift, self.scale
        return self.knots, self.scale[[0, 2]].repeat_interleave(normal.KNOTS)

    def expect_measured(self, where: str) -> None:
        """Refusal if a checkpoint's statistics cannot have been measured."""
        positive = (self.scale > 0).all() and (self.jet_scale > 0).all()
        if not positive or (self.numbers < 0).any() or not (self.numbers.sum(1) > 0).any():
            raise Refusal(
                f"{where}: the clouds' scales and numbers of constituents are not all above 0; it "
                "is of no model"
            )
        if self.normal and not normal.are_knots(self.knots.view(2, -1)):
            raise Refusal(
                f"{where}: its knots are not finite or do not increase; it is of no model"
            )
        if self.jet:
            joint.expect_whole(self.joint, self.shape[0], where)
            if not self.in_gev(self.joint.flatten(0, 1)[:, :2]).isfinite().all():
                raise Refusal(f"{where}: its jets' pt and mass are not finite; it is of no model")

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

    def draw(
        self,
        seeds: Sequence[int],
        labels: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
        jet: Tensor | None = None,
    ) -> Extras:
        """Masks, and pt and mass if taken, as in training: functions of seed, type, what is given.

        Numbers of constituents are as of jets of these standardised features (B, 2), the features
        as of jets with these numbers; both are drawn where neither is given.
        """
        rows = [min(label, len(self.numbers) - 1) for label in labels or [0] * len(seeds)]
        if numbers is None:
            each = [None] * len(seeds) if jet is None else jet.cpu()
            numbers = [self._number(*one) for one in zip(seeds, rows, each, strict=True)]
        given = self._features(seeds, rows, numbers) if self.jet and jet is None else jet
        return self.full(numbers) | ({} if given is None else {"jet": given})

    def _number(self, seed: int, row: int, jet: Tensor | None) -> int:
        u = torch.rand((), generator=generator("constituents", int(seed)), dtype=torch.float64)
        if jet is not None and len(known := joint.of_type(self.joint[row])):
            return joint.number(known, jet, float(u))
        shares = self.numbers[row].double().cpu().cumsum(0)
        return int(torch.searchsorted(shares, u * shares[-1], right=True))

    def _features(
        self, seeds: Sequence[int], rows: Sequence[int], numbers: Sequence[int]
    ) -> Tensor | None:
        """Standardised features (B, 2); None where a type's are not known."""
        found = torch.empty(len(seeds), 2)
        for row in {*rows}:
            if not len(known := joint.of_type(self.joint[row])):
                return None
            mine = [i for i, other in enumerate(rows) if other == row]
            found[mine] = joint.features(known, [(seeds[i], numbers[i]) for i in mine])
        return found

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
        types, summed = len(self.numbers), over_ranks(all_reduce, device)
        statistics, rows = CloudStatistics((types, self.numbers.shape[1])), joint.Rows()
        marginals = normal.Marginals()
        for batch in batches:
            statistics.add(batch["particles"], batch["mask"], batch["jet"], batch["label"])
            if self.normal:
                marginals.add(batch["particles"], batch["mask"])
            if self.jet:
                rows.add(
                    batch["index"], batch["label"], raw_jet(batch["jet"]), batch["mask"].sum(1)
                )
        statistics.reduce(summed)
        if self.jet and statistics.without_pt:
            what = f"{statistics.without_pt} training jets have no pt above 0 in jet_features"
            raise Refusal(
                f"data: {what}, and network.jet={self.jet} needs it; set network.jet=0, or mend "
                "the file"
            )
        self.set_statistics(statistics)
        if self.normal:
            self.knots.copy_(marginals.knots(summed).flatten())
        if self.jet:
            table = rows.table(types, summed).to(self.joint)
            table[..., :2] = self._standardised(table[..., :2])
            self.joint.copy_(table.masked_fill(table[..., 2:] == 0, 0))
        return self._measured(statistics.at_an_end)

    def _measured(self, n: int) -> str:
        numbers = self.numbers.cpu()
        mean = (numbers * torch.arange(self.shape[0] + 1)).sum(1) / numbers.sum(1)
        said = f"clouds: shift {listed(self.shift)}, scale {listed(self.scale)}"
        said += f", constituents {listed(mean)}"
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
        x = self._from_raw(raw_features(features))[0]
        return x.masked_fill(~extras["mask"][..., None], 0)

    def _from_raw(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """x of (eta, phi, logit pt), and log |det| of that map for each constituent."""
        if self.normal:
            return normal.to_normal(raw, self.knots.view(2, -1))
        log_det = -self.scale.to(raw).log().sum()
        return (raw - self.shift) / self.scale, log_det.expand(raw.shape[:-1])

    def decode(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, P, 3) -> features: pt_rel in [0, 1], exact zeros at padding."""
        raw = x.float()
        if self.normal:
            raw = normal.from_normal(raw, self.knots.view(2, -1))
        else:
            raw = raw * self.scale + self.shift
        angles, logit = raw.split((2, 1), -1)
        return torch.cat([angles, logit.sigmoid()], -1).masked_fill(~mask[..., None], 0)

    def log_jacobian(self, features: Tensor, mask: Tensor) -> Tensor:
        """log |det d x_0 / d features| in nats, (B,).

        Added to log p(x_0) it gives the log-density of the features (B, P, 3) = eta_rel, phi_rel,
        pt_rel. Each real constituent has its map's, -log(s_eta s_phi s_pt) of the scaled ones, and
        -log(pt (1 - pt)), pt within what `encode` keeps of it; padding adds nothing.
        """
        features = features.double()
        pt = features[..., 2].clamp(SMALLEST, LARGEST)
        each = self._from_raw(raw_features(features))[1] - pt.log() - torch.log1p(-pt)
        return each.masked_fill(~mask, 0).sum(1)

    def condition(self, jet: Tensor) -> Tensor:
        """Standardised log pt and log(mass / pt), (B, 2), of jet (B, 3 or more) = pt, eta, mass."""
        return self._standardised(raw_jet(jet.to(self.jet_shift)))

    def _standardised(self, raw: Tensor) -> Tensor:
        return (raw - self.jet_shift) / self.jet_scale

    def in_gev(self, condition: Tensor) -> Tensor:
        """`condition` (B, 2) as a jet's features (B, 4): pt, eta = 0, mass in GeV, and 0."""
        raw = condition.to(self.jet_shift) * self.jet_scale + self.jet_shift
        pt, share = raw.exp().cpu().unbind(-1)
        return torch.stack([pt, torch.zeros_like(pt), pt * share, torch.zeros_like(pt)], -1)

    def set_statistics(
        self, statistics: CloudStatistics, all_reduce: Reduce = lambda sums: sums
    ) -> None:
        """Take over what was measured."""
        for name, value in statistics.result(all_reduce).items():
            getattr(self, name).copy_(value)
