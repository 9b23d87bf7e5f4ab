"""How near generated jets are to real ones, by JetNet's protocol (Kansal et al. 2021, 2023; `jetnet.evaluation`).

Own code for the published definitions: the jetnet package imports only with pyarrow < 21 and numpy < 2. What to mind:
- The W1 distances fall with the sample size, so that `w1m_10k` is not `w1m_50k`: the draws stand in every name, and a
  value means something only beside that of two real samples of the same sizes (`evaluate_jets(real, other_real)`).
- jetnet draws from an unseeded generator; here every draw is a function of `seed`.
- W1P sees the features' marginals alone: particles shuffled between jets score at the floor. W1M, W1EFP, FPD see that.
- FPD and KPD hang on a handful of tail particles (4th-degree polynomials, divided by the real maximum): `clip` cuts
  |eta|, |phi| to 0.5 and pt to [0, 1] in both samples alike (as PC-JeDi does); None compares them as they are.
- Coverage and MMD depend on the 100 jets compared; papers that took 1,000 have other numbers.
- FPND compares with the real JetNet gluons, not with `real`.
"""

import math
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor
from tqdm import tqdm

from ldm.errors import Refusal, one_of
from ldm.kinematics import jet_kinematics
from ldm.metrics.efp import efps, four_by_four, up_to_four
from ldm.metrics.emd import cov_mmd
from ldm.metrics.particlenet import fpnd
from ldm.metrics.physics_distances import fpd, kpd

Value = tuple[float, float]  # and its error
COLUMNS = ("eta", "phi", "pt")
CHEAP = ("w1m", "w1p")  # seconds; the others take minutes on 10,000s of jets
ALL = (*CHEAP, "w1efp", "fpd", "kpd", "cov_mmd", "fpnd")


class Cloud(NamedTuple):
    """features (N, P, 3) = eta_rel, phi_rel, pt_rel and mask (N, P) of N jets."""

    features: Tensor
    mask: Tensor

    def clipped(self, angle: float) -> "Cloud":
        """|eta|, |phi| <= angle, 0 <= pt <= 1, and zeros at padding."""
        eta, phi, pt = self.features.unbind(-1)
        cut = torch.stack([eta.clamp(-angle, angle), phi.clamp(-angle, angle), pt.clamp(0, 1)], -1)
        return Cloud(cut.masked_fill(~self.mask[..., None], 0), self.mask)


def w1(real: np.ndarray, generated: np.ndarray, draws: int, batches: int, rng: np.random.Generator) -> np.ndarray:
    """W1 of each column in `batches` draws, with replacement, of `draws` rows of (N, F) each: (batches, F)."""
    rows = [(rng.choice(len(real), draws), rng.choice(len(generated), draws)) for _ in range(batches)]
    return np.array([_columns(real[a], generated[b]) for a, b in rows])


def _columns(x: np.ndarray, y: np.ndarray) -> list[float]:
    return [wasserstein_distance(a, b) for a, b in zip(x.T, y.T, strict=True)]


def w1_particles(real: Cloud, generated: Cloud, draws: int, batches: int, rng: np.random.Generator) -> np.ndarray:
    """W1 of each feature over all real constituents of `draws` jets, drawn with replacement: (batches, 3)."""

    def draw(cloud: Cloud) -> np.ndarray:
        rows = torch.from_numpy(rng.choice(len(cloud.mask), draws))
        return cloud.features[rows][cloud.mask[rows]].numpy()

    return np.array([_columns(draw(real), draw(generated)) for _ in range(batches)])


def average(batches: np.ndarray) -> Value:
    """Mean over the columns; mean and standard deviation of that over the batches."""
    means = batches.mean(1)
    return float(means.mean()), float(means.std())


def short(n: int) -> str:
    """10000 -> 10k, 1500 -> 1500."""
    return f"{n // 1000}k" if n >= 1000 and n % 1000 == 0 else str(n)


@dataclass(frozen=True)
class Comparison:
    """Two samples, and how to compare them: one method for each name in `ALL`, from nothing to {name: (value, error)}."""

    real: Cloud
    generated: Cloud
    seed: int = 0
    draws: int = 10_000
    batches: int = 5
    kind: str = "g"
    fpnd_folder: str | None = None

    def rng(self, metric: str) -> np.random.Generator:
        """Each metric's own draws: the same whichever others are asked for."""
        return np.random.default_rng([self.seed, *metric.encode()])

    @cached_property
    def polynomials(self) -> tuple[np.ndarray, np.ndarray]:
        """The 36 EFPs of both samples, for FPD and KPD."""
        return up_to_four(*self.real), up_to_four(*self.generated)

    def w1m(self) -> dict[str, Value]:
        masses = [jet_kinematics(*cloud)["mass"].numpy()[:, None] for cloud in (self.real, self.generated)]
        return {f"w1m_{short(self.draws)}": average(w1(*masses, self.draws, self.batches, self.rng("w1m")))}

    def w1p(self) -> dict[str, Value]:
        table = w1_particles(self.real, self.generated, self.draws, self.batches, self.rng("w1p"))
        each = {f"w1p_{name}_{short(self.draws)}": average(table[:, [i]]) for i, name in enumerate(COLUMNS)}
        return {f"w1p_{short(self.draws)}": average(table), **each}

    def w1efp(self) -> dict[str, Value]:
        pair = (efps(*cloud, four_by_four()) for cloud in (self.real, self.generated))
        return {f"w1efp_{short(self.draws)}": average(w1(*pair, self.draws, self.batches, self.rng("w1efp")))}

    def fpd(self) -> dict[str, Value]:
        return {"fpd_50k": fpd(*self.polynomials, seed=42 + self.seed)}

    def kpd(self) -> dict[str, Value]:
        return {"kpd_5k": kpd(*self.polynomials, seed=42 + self.seed)}

    def cov_mmd(self) -> dict[str, Value]:
        jets = ([x[m].numpy() for x, m in zip(*cloud, strict=True)] for cloud in (self.real, self.generated))
        return dict(zip(("cov_100", "mmd_100"), cov_mmd(*jets, seed=self.seed), strict=True))

    def fpnd(self) -> dict[str, Value]:
        size = short(min(50_000, len(self.generated.mask)))
        return {f"fpnd_{size}": (fpnd(*self.generated, self.kind, self.fpnd_folder), math.nan)}


def evaluate_jets(
    real: Cloud,
    generated: Cloud,
    metrics: tuple[str, ...] = ALL,
    clip: float | None = 0.5,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Value]:
    """Every metric's value and error under a name that carries its sample size; `settings` are `Comparison`'s.

    w1m, w1p (mean of w1p_eta, _phi, _pt), w1efp (mean of 5): mean and standard deviation over `batches` draws of `draws`
    jets; fpd: intercept and its error; kpd: median and half the 16-84 % range; cov, mmd: mean and deviation over batches
    of 100; fpnd: no error (NaN). For the truth-vs-truth floor put a second real sample, as large as the generated, in
    `generated`'s place. Refusal: an unknown metric, an empty sample or jet, a value that is not finite, negative pt.
    """
    for metric in metrics:
        if metric not in ALL:
            raise Refusal(one_of("metrics", metric, ALL))
    comparison = Comparison(checked("real", real, clip), checked("generated", generated, clip), **settings)
    pause = 0.1 if sys.stderr.isatty() else 10
    result: dict[str, Value] = {}
    for metric in tqdm(metrics, desc="measuring jets", disable=not progress, leave=False, mininterval=pause):
        result |= getattr(comparison, metric)()
    return result


def checked(name: str, cloud: Cloud, clip: float | None) -> Cloud:
    """The sample on the CPU, padding zeroed, clipped; Refusal where it cannot be measured."""
    features, mask = (tensor.detach().cpu() for tensor in cloud)
    if not len(mask) or not mask.any(1).all():
        raise Refusal(f"{name} jets: each needs a constituent, and there must be some")
    bad = mask & ~(torch.isfinite(features).all(-1) & (features[..., 2] >= 0))
    if bad.any():
        raise Refusal(f"{name} jets: constituent {tuple(bad.nonzero()[0].tolist())} is not finite or has negative pt")
    cloud = Cloud(features.float().masked_fill(~mask[..., None], 0), mask)
    return cloud.clipped(clip) if clip else cloud
