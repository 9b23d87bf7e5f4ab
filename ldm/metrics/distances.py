"""How far two sets of pictures are from each other, from their features: rows of (N, d)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

PRECISION_K, DENSITY_K = 3, 5  # neighbours: Kynkaanniemi et al. 2019, Naeem et al. 2020
NEEDED = DENSITY_K + 1  # fewer rows have no k-th neighbour
TILE = 2**25  # distances held at once: 128 MB


@dataclass
class Moments:
    """Sums over rows in float64, which add up over batches and ranks, and can be subtracted."""

    n: int
    total: Tensor  # (d,)
    outer: Tensor  # (d, d): sum of x x^T

    @staticmethod
    def of(features: Tensor) -> "Moments":
        x = features.double()
        return Moments(len(x), x.sum(0), x.T @ x)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.n + other.n, self.total + other.total, self.outer + other.outer)

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(self.n - other.n, self.total - other.total, self.outer - other.outer)

    @property
    def mean(self) -> Tensor:
        return self.total / self.n

    @property
    def cov(self) -> Tensor:
        """The unbiased covariance, over n - 1."""
        return (self.outer - torch.outer(self.total, self.mean)) / (self.n - 1)


def root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a covariance, float64; negative eigenvalues count as 0."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017, eq. 6).

    By the symmetric root: tr (S_a S_b)^(1/2) = tr (S_a^(1/2) S_b S_a^(1/2))^(1/2), of real
    eigenvalues.
    """
    half = root(a.cov)
    cross = torch.linalg.eigvalsh(half @ b.cov @ half).clamp(min=0).sqrt().sum()
    return ((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross).item()


def kernel_distance(
    fake: Tensor, real: Tensor, subset: int, subsets: int = 100
) -> tuple[float, float]:
    """Mean and standard deviation over subsets of the unbiased MMD^2 by (x.y / d + 1)^3.

    KID (Binkowski et al. 2018), by torch-fidelity.
    """
    options = dict(kid_subsets=subsets, kid_subset_size=subset, rng_seed=0, verbose=False)
    found = kid_features_to_metric(fake.double(), real.double(), **options)
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]


def precision_recall(fake: Tensor, real: Tensor, k: int = PRECISION_K) -> tuple[float, float]:
    """Share of fakes inside the reals' k-NN balls, and of reals inside the fakes'.

    Kynkaanniemi et al. 2019, by torch-fidelity, a bounded tile of distances at a time.
    """
    centre = real.mean(0)  # distances are by a matrix product, which rounds less about 0
    tile = max(1, TILE // max(len(fake), len(real)))
    options = dict(prc_neighborhood=k, prc_batch_size=tile, save_cpu_ram=True, verbose=False)
    found = prc_features_to_metric(fake - centre, real - centre, **options)
    return found["precision"], found["recall"]


def density_coverage(fake: Tensor, real: Tensor, k: int = DENSITY_K) -> tuple[float, float]:
    """In how many real k-NN balls a fake lies, over k, and the share of them that hold a fake.

    Naeem et al. 2020, eqs. 3 and 4. Both are about 1 for equal distributions; density may be above.
    """
    centre = real.mean(0)
    fake, real = fake - centre, real - centre
    inside, covered = 0, 0
    for part in real.split(max(1, TILE // max(len(fake), len(real)))):
        # the first is the row itself
        radius = torch.cdist(part, real).kthvalue(k + 1, 1).values[:, None]
        within = torch.cdist(part, fake) < radius
        inside += int(within.sum())
        covered += int(within.any(1).sum())
    return inside / (k * len(fake)), covered / len(real)
