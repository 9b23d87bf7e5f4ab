"""Maps under which a jet's marginals are normal: the distance from the axis, and the logit of pt.

x = F^-1(G(v)) with the training set's distribution G of v and the F that is wanted: a logit becomes
standard normal, and a distance r a Rayleigh distance, so that (eta, phi) with its direction kept is
a standard normal pair where directions are even. A sharp edge of the data (no constituent beyond
the jet's radius) is then the far end of a normal, and no edge that a network has to learn. The
maps are linear between knots, so they are inverted exactly, and continue evenly beyond the last.
"""

import numpy as np
import torch
from torch import Tensor

from ldm.diffusion.space import Reduce
from ldm.jets.statistics import LARGEST, SMALLEST, raw_features

KNOTS = 65
FAR = 4.5  # of a normal; of 300,000 constituents one or two lie beyond
WIDEST = 4.0  # largest distance with a bin of its own; JetNet's jets have a radius of 0.4
BINS = 8192  # of the histograms, even in the root of the distance: finer where constituents crowd
LOWEST, HIGHEST = torch.logit(torch.tensor([SMALLEST, LARGEST], dtype=torch.float64)).tolist()


def levels(device: torch.device | str = "cpu") -> Tensor:
    """The values of x at the knots, (2, KNOTS): of distances 0 ... FAR, of logits -FAR ... FAR."""
    even = torch.linspace(0, 1, KNOTS, device=device)
    return torch.stack([FAR * even, FAR * (2 * even - 1)])


class Marginals:
    """Histograms of the training constituents' distances and logits; they add up over ranks."""

    def __init__(self) -> None:
        self.counts = torch.zeros(2, BINS, dtype=torch.float64)

    def add(self, features: Tensor, mask: Tensor) -> None:
        """Add a batch: features (B, P, 3), mask (B, P)."""
        raw = raw_features(features)[mask].double().cpu()
        distance = (raw[:, :2].norm(dim=1) / WIDEST).sqrt()
        logit = (raw[:, 2] - LOWEST) / (HIGHEST - LOWEST)
        for counts, share in zip(self.counts, (distance, logit), strict=True):
            place = (share * BINS).long().clamp(0, BINS - 1)
            counts += torch.bincount(place, minlength=BINS)

    def knots(self, all_reduce: Reduce) -> Tensor:
        """Quantiles of distance and logit at `levels`, (2, KNOTS), strictly increasing."""
        counts = all_reduce(self.counts).cpu().numpy()
        even = np.linspace(0, 1, BINS + 1)
        edges = WIDEST * even**2, LOWEST + (HIGHEST - LOWEST) * even
        rho, z = levels().double()
        shares = 1 - torch.exp(-rho.square() / 2), torch.special.ndtr(z)
        found = [quantiles(*one) for one in zip(counts, edges, shares, strict=True)]
        found[0][0] = 0  # the axis stays where it is
        return torch.from_numpy(np.stack([increasing(one) for one in found])).float()


def are_knots(knots: Tensor) -> bool:
    """Whether they can have been measured: finite, increasing, distances from 0."""
    return bool(knots.isfinite().all() and (knots.diff() > 0).all() and knots[0, 0] == 0)


def quantiles(counts: np.ndarray, edges: np.ndarray, shares: Tensor) -> np.ndarray:
    """Where a histogram's distribution function reaches `shares` of all, linear within a bin."""
    reached = np.concatenate([[0.0], counts.cumsum() / max(counts.sum(), 1)])
    return np.interp(shares.numpy(), reached, edges)


def increasing(knots: np.ndarray) -> np.ndarray:
    """The knots with at least a millionth of their range between neighbours."""
    least = 1e-6 * max(float(knots[-1] - knots[0]), 1.0)
    return np.maximum.accumulate(knots) + least * np.arange(len(knots))


def mapped(values: Tensor, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """A piecewise linear map from knots `here` (K,) to `there` (K,), and its slope at `values`.

    Beyond the ends its slope is the mean one: an odd value far out is not thrown farther.
    """
    place = torch.searchsorted(here, values.contiguous(), right=True)
    steps = (there[1:] - there[:-1]) / (here[1:] - here[:-1])
    mean = (there[-1:] - there[:1]) / (here[-1:] - here[:1])
    slope = torch.cat([mean, steps, mean])[place]
    start = (place - 1).clamp(min=0)
    return there[start] + (values - here[start]) * slope, slope


def radial(angles: Tensor, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 2) with mapped distance and the same direction, and log |det| (...,) of that map."""
    distance = angles.norm(dim=-1).clamp(min=1e-20)
    far, slope = mapped(distance, here, there)
    ratio = torch.where(distance > here[0] + 1e-12, far / distance, slope)
    return angles * ratio[..., None], ratio.log() + slope.log()


def to_normal(raw: Tensor, knots: Tensor) -> tuple[Tensor, Tensor]:
    """(eta, phi, logit) -> x (..., 3), and log |det d x / d raw| (...,)."""
    return _both(raw, knots, levels(raw.device).to(raw))


def from_normal(x: Tensor, knots: Tensor) -> Tensor:
    """x (..., 3) -> (eta, phi, logit)."""
    return _both(x, levels(x.device).to(x), knots)[0]


def _both(values: Tensor, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    angles, log_det = radial(values[..., :2], here[0].to(values), there[0].to(values))
    logit, slope = mapped(values[..., 2], here[1].to(values), there[1].to(values))
    return torch.cat([angles, logit[..., None]], -1), log_det + slope.log()
