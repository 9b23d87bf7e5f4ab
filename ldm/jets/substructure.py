"""Substructure of jets: N-subjettiness and energy correlation functions, and 22 features of a jet.

By fastjet-contrib's definitions, for all jets at once. Every angle is Delta R with phi around the
circle, every exponent beta = 1; pt may be in any unit.

- N-subjettiness (Thaler & Van Tilburg 2011, eq. 2.1, 2012): tau_N = sum_i z_i min_k Delta R_ik over
  N axes k, z = pt over the sum of pt (`UnnormalizedMeasure(1)` over the sum). The axes are
  `WTA_KT_Axes`: the exclusive kT clustering to N subjets, d_ij = min(pt_i, pt_j)^2 Delta R_ij^2,
  where a merged pair has the direction of its harder part (winner takes all) and the sum of pt.
- e_2 = sum_{i<j} z_i z_j R_ij, e_3 = sum_{i<j<k} z_i z_j z_k R_ij R_ik R_jk (Larkoski, Salam &
  Thaler 2013, eq. 2.6), D2 = e_3 / e_2^3 (Larkoski, Moult & Neill 2014, eq. 1.1;
  `EnergyCorrelatorD2(1, pt_R)`).

A jet of fewer than N constituents has tau_N = 0. A ratio with nothing below (one constituent, or
all in one direction) is 0, where fastjet-contrib divides by zero.
"""

import math

import torch
from torch import Tensor

from ldm.jets.kinematics import jet_kinematics
from ldm.system.progress import shown

PAIRS = 2**21  # pairs of constituents at once
AXES = 3
SOFT, CORE = 2e-3, 0.1  # share of pt below which a constituent is soft; Delta R of the core
RATIOS = ("tau21", "tau32", "d2")
LEADING = (1, 2, 3, 5, 10)
FEATURES = (
    *("mass", "pt", "eta", "phi", "number", "dispersion", "width", "les_houches", "thrust"),
    *(f"leading_{i}" for i in LEADING),
    *("softest", "core", "reach", "soft", "e2", *RATIOS),
)


def angles(eta: Tensor, phi: Tensor, other_eta: Tensor, other_phi: Tensor) -> Tensor:
    """Delta R of what broadcasts, phi around the circle."""
    around = torch.remainder(phi - other_phi + math.pi, 2 * math.pi) - math.pi
    return torch.hypot(eta - other_eta, around)


def between(cloud: Tensor) -> Tensor:
    """Delta R of every pair of constituents (N, P, 3): (N, P, P)."""
    eta, phi, _ = cloud.unbind(-1)
    return angles(eta[:, :, None], phi[:, :, None], eta[:, None], phi[:, None])


def kt_axes(cloud: Tensor, mask: Tensor, most: int = AXES) -> list[Tensor]:
    """The WTA kT axes for 1 ... `most` subjets: (N, k, 3) = eta, phi, 1 where there is one, else 0.

    cloud (N, P, 3) = eta, phi, pt; mask (N, P). The closest pair of every jet is merged in each
    step, until one is left.
    """
    merging = _Merging(cloud, mask)
    found = [_axes(cloud, mask & (merging.left <= k)[:, None], k) for k in range(1, most + 1)]
    for _ in range(mask.shape[1] - 1):
        rows = merging.step()
        for k, axes in enumerate(found, 1):
            now = rows[merging.left[rows] == k]
            axes[now] = _axes(cloud[now], merging.alive[now], k)
    return found


class _Merging:
    """The kT clustering of many jets: the harder of a pair takes the pt of both, the softer goes.

    `near` (N, P, P) are the distances d_ij, infinite on the diagonal and of what is gone.
    """

    def __init__(self, cloud: Tensor, mask: Tensor):
        self.pt, self.alive = cloud[..., 2].masked_fill(~mask, 0), mask.clone()
        self.left, self.squares = mask.sum(1), between(cloud).square()
        near = torch.minimum(self.pt[:, :, None], self.pt[:, None]).square() * self.squares
        gone = ~(mask[:, :, None] & mask[:, None])
        self.near = near.masked_fill(gone | torch.eye(mask.shape[1], dtype=torch.bool), math.inf)

    def step(self) -> Tensor:
        """Merge the closest pair of every jet that has one; the rows of these."""
        rows, size = (self.left > 1).nonzero()[:, 0], self.near.shape[1]
        first = self.near.flatten(1).argmin(1)[rows]
        i, j = first // size, first % size
        winner = torch.where(self.pt[rows, i] >= self.pt[rows, j], i, j)
        loser = i + j - winner
        self.pt[rows, winner] += self.pt[rows, loser]
        self.alive[rows, loser] = False
        self.near[rows, loser], self.near[rows, :, loser] = math.inf, math.inf
        least = torch.minimum(self.pt[rows, winner][:, None], self.pt[rows])
        again = (least.square() * self.squares[rows, winner]).masked_fill(
            ~self.alive[rows], math.inf
        )
        again[torch.arange(len(rows)), winner] = math.inf
        self.near[rows, winner], self.near[rows, :, winner] = again, again
        self.left[rows] -= 1
        return rows


def _axes(cloud: Tensor, alive: Tensor, count: int) -> Tensor:
    """The constituents that are alive, at most `count`, first: (N, count, 3) = eta, phi, 0 or 1."""
    room = max(0, count - alive.shape[1])
    order = alive.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    there = alive.gather(1, order)
    place = cloud[..., :2].gather(1, order[..., None].expand(-1, -1, 2))
    axes = torch.cat([place, there[..., None].to(cloud)], -1)
    return torch.nn.functional.pad(axes, (0, 0, 0, room))


def subjettiness(cloud: Tensor, mask: Tensor, most: int = AXES) -> Tensor:
    """tau_1 ... tau_most of each jet, (N, most)."""
    z, (eta, phi, _) = shares(cloud, mask), cloud.unbind(-1)
    found = []
    for axes in kt_axes(cloud, mask, most):
        away = angles(eta[:, :, None], phi[:, :, None], axes[:, None, :, 0], axes[:, None, :, 1])
        nearest = away.masked_fill(axes[:, None, :, 2] == 0, math.inf).min(-1).values
        found.append((z * nearest.masked_fill(~mask, 0)).sum(1))
    return torch.stack(found, 1)


def correlators(cloud: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """e_2 and e_3, (N,) each."""
    z, apart = shares(cloud, mask), between(cloud)
    weighted = z[:, :, None] * apart * z[:, None]
    e2 = weighted.sum((1, 2)) / 2
    e3 = (weighted * ((apart * z[:, None]) @ apart)).sum((1, 2)) / 6
    return e2, e3


def shares(cloud: Tensor, mask: Tensor) -> Tensor:
    """z: pt over the sum of pt, 0 at padding, (N, P)."""
    pt = cloud[..., 2] * mask
    return over(pt, pt.sum(1, keepdim=True))


def over(above: Tensor, below: Tensor) -> Tensor:
    """The ratio, 0 where there is nothing below."""
    return torch.where(below > 0, above / below.where(below > 0, torch.ones_like(below)), 0)


def ratios(features: Tensor, mask: Tensor, *, quiet: bool = True) -> dict[str, Tensor]:
    """tau21, tau32 and D2 of jets, (N,) each in float64: features (N, P, 3), mask (N, P)."""
    parts, size = [], max(1, PAIRS // mask.shape[1] ** 2)
    for i in shown(range(0, len(mask), size), "substructure", quiet):
        cloud, here = features[i : i + size].double(), mask[i : i + size]
        tau, (e2, e3) = subjettiness(cloud, here), correlators(cloud, here)
        columns = over(tau[:, 1], tau[:, 0]), over(tau[:, 2], tau[:, 1]), over(e3, e2**3)
        parts.append(torch.stack([*columns, e2], 1))
    return dict(zip((*RATIOS, "e2"), torch.cat(parts).unbind(1), strict=True))


def jet_features(features: Tensor, mask: Tensor, known: dict[str, Tensor] | None = None) -> Tensor:
    """The 22 numbers of each jet that the classifier is given, in the order of FEATURES: (N, 22).

    Mass, pt and direction of the summed constituents; their number; the dispersion
    sqrt(sum z^2); the angularities sum z (Delta R / 0.4)^a of a = 1 (width), 1/2 (Les Houches) and
    2 (thrust) about (0, 0); z of the hardest, the 2nd, 3rd, 5th and 10th, and of the softest; the
    share of pt within 0.1; the largest Delta R; the number of constituents below 2e-3; e_2, tau21,
    tau32, D2. `known`: what `ratios` gave.
    """
    cloud, found = features.double(), known or ratios(features, mask)
    z, away = shares(cloud, mask), torch.hypot(cloud[..., 0], cloud[..., 1]).masked_fill(~mask, 0)
    hardest = torch.nn.functional.pad(z.sort(1, descending=True).values, (0, max(LEADING)))
    about = jet_kinematics(features, mask)
    columns = [about[key] for key in ("mass", "pt", "eta", "phi")]
    columns += [mask.sum(1).double(), z.square().sum(1).sqrt()]
    columns += [(z * (away / 0.4) ** a).sum(1) for a in (1, 0.5, 2)]
    columns += [hardest[:, i - 1] for i in LEADING]
    columns += [cloud[..., 2].masked_fill(~mask, math.inf).min(1).values]
    columns += [(z * (away < CORE)).sum(1), away.max(1).values]
    columns += [(mask & (cloud[..., 2] < SOFT)).sum(1).double()]
    return torch.stack([*columns, found["e2"], *(found[key] for key in RATIOS)], 1)
