"""Jets to be compared: features with their mask, checked, and what several metrics need of them."""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ldm.errors import Refusal
from ldm.jets.efp import GRAPHS, efps, four_by_four, with_products
from ldm.jets.kinematics import jet_kinematics
from ldm.jets.substructure import jet_features, ratios


class Cloud(NamedTuple):
    """features (N, P, 3) = eta_rel, phi_rel, pt_rel and mask (N, P) of N jets."""

    features: Tensor
    mask: Tensor

    def clipped(self, angle: float) -> "Cloud":
        """|eta|, |phi| <= angle, 0 <= pt <= 1, and zeros at padding."""
        eta, phi, pt = self.features.unbind(-1)
        cut = torch.stack([eta.clamp(-angle, angle), phi.clamp(-angle, angle), pt.clamp(0, 1)], -1)
        return Cloud(cut.masked_fill(~self.mask[..., None], 0), self.mask)

    def moved(self, other: "Cloud") -> int:
        """How many constituents are elsewhere in `other`."""
        return int((self.mask & (self.features != other.features).any(-1)).sum())


class Sample:
    """Jets to be compared, and what several metrics need of them, worked out once."""

    def __init__(self, name: str, cloud: Cloud, clip: float | None = None, quiet: bool = True):
        self.name, self.quiet = name, quiet
        self.cloud = checked(name, cloud, clip)
        self.clipped = checked(name, cloud).moved(self.cloud) if clip else 0

    def __len__(self) -> int:
        return len(self.cloud.mask)

    @cached_property
    def masses(self) -> np.ndarray:
        """Jet masses (N, 1)."""
        return jet_kinematics(*self.cloud)["mass"].numpy()[:, None]

    @cached_property
    def polynomials(self) -> np.ndarray:
        """EFPs of every connected graph with at most 4 edges, (N, len(GRAPHS))."""
        return efps(
            *self.cloud, GRAPHS, what=f"polynomials of the {self.name} jets", quiet=self.quiet
        )

    @cached_property
    def products(self) -> np.ndarray:
        """The 36 EFPs of FPD and KPD."""
        return with_products(self.polynomials)

    @property
    def squares(self) -> np.ndarray:
        """The 5 EFPs of W1EFP."""
        return self.polynomials[:, [GRAPHS.index(graph) for graph in four_by_four()]]

    @cached_property
    def substructure(self) -> dict[str, Tensor]:
        """tau21, tau32, D2 and e_2 of each, (N,)."""
        return ratios(*self.cloud, quiet=self.quiet)

    @cached_property
    def features(self) -> np.ndarray:
        """The 22 numbers of each that a classifier is given, (N, 22)."""
        return jet_features(*self.cloud, self.substructure).numpy()

    @cached_property
    def jets(self) -> list[np.ndarray]:
        """The constituents of each, (n, 3)."""
        return [x[m].numpy() for x, m in zip(*self.cloud, strict=True)]


def checked(name: str, cloud: Cloud, clip: float | None = None) -> Cloud:
    """The sample on the CPU, padding zeroed, clipped if asked; Refusal if not measurable."""
    features, mask = (tensor.detach().cpu() for tensor in cloud)
    if not len(mask) or not mask.any(1).all():
        raise Refusal(f"{name} jets: each needs a constituent, and there must be some")
    bad = mask & ~(torch.isfinite(features).all(-1) & (features[..., 2] >= 0))
    if bad.any():
        raise Refusal(
            f"{name} jets: constituent {tuple(bad.nonzero()[0].tolist())} is not finite or has "
            "negative pt"
        )
    cloud = Cloud(features.float().masked_fill(~mask[..., None], 0), mask)
    return cloud.clipped(clip) if clip else cloud
