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

import sys
from collections.abc import Callable
from typing import NamedTuple

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


def _value(batches: np.ndarray) -> Value:
    """Mean over the columns; mean and standard deviation of that over the batches."""
    means = batches.mean(1)
    return float(means.mean()), float(means.std())


def short(n: int) -> str:
    """10000 -> 10k, 1500 -> 1500."""
    return f"{n // 1000}k" if n >= 1000 and n % 1000 == 0 else str(n)


def evaluate_jets(
    real: Cloud,
    generated: Cloud,
    metrics: tuple[str, ...] = ALL,
    seed: int = 0,
    draws: int = 10_000,
    batches: int = 5,
    clip: float | None = 0.5,
    kind: str = "g",
    fpnd_folder: str | None = None,
    progress: bool = True,
) -> dict[str, Value]:
    """Every metric's value and error under a name that carries its sample size.

    w1m, w1p (mean of w1p_eta, _phi, _pt), w1efp (mean of 5): mean and standard deviation over `batches` draws of `draws`
    jets; fpd: intercept and its error; kpd: median and half the 16-84 % range; cov, mmd: mean and deviation over batches
    of 100; fpnd: no error (NaN). For the truth-vs-truth floor put a second real sample, as large as the generated, in
    `generated`'s place. Refusal: an unknown metric, an empty sample, a value that is not finite, negative pt.
    """
    for metric in metrics:
        if metric not in ALL:
            raise Refusal(one_of("metrics", metric, ALL))
    real, generated = (_checked(name, cloud, clip) for name, cloud in (("real", real), ("generated", generated)))
    rng = lambda name: np.random.default_rng([seed, *name.encode()])  # noqa: E731
    features: list[tuple[np.ndarray, np.ndarray]] = []

    def polynomials() -> tuple[np.ndarray, np.ndarray]:  # FPD and KPD share them
        if not features:
            features.append((up_to_four(*real), up_to_four(*generated)))
        return features[0]

    def mass() -> dict[str, Value]:
        masses = [jet_kinematics(*cloud)["mass"].numpy()[:, None] for cloud in (real, generated)]
        return {f"w1m_{short(draws)}": _value(w1(*masses, draws, batches, rng("w1m")))}

    def particles() -> dict[str, Value]:
        table = w1_particles(real, generated, draws, batches, rng("w1p"))
        each = {f"w1p_{name}_{short(draws)}": _value(table[:, [i]]) for i, name in enumerate(COLUMNS)}
        return {f"w1p_{short(draws)}": _value(table), **each}

    def polynomial_w1() -> dict[str, Value]:
        pair = (efps(*cloud, four_by_four()) for cloud in (real, generated))
        return {f"w1efp_{short(draws)}": _value(w1(*pair, draws, batches, rng("w1efp")))}

    def matching() -> dict[str, Value]:
        jets = ([x[m].numpy() for x, m in zip(*cloud, strict=True)] for cloud in (real, generated))
        return dict(zip(("cov_100", "mmd_100"), cov_mmd(*jets, seed=seed), strict=True))

    measure: dict[str, Callable[[], dict[str, Value]]] = {
        "w1m": mass,
        "w1p": particles,
        "w1efp": polynomial_w1,
        "fpd": lambda: {"fpd_50k": fpd(*polynomials(), seed=42 + seed)},
        "kpd": lambda: {"kpd_5k": kpd(*polynomials(), seed=42 + seed)},
        "cov_mmd": matching,
        "fpnd": lambda: {f"fpnd_{short(min(50_000, len(generated.mask)))}": (fpnd(*generated, kind, fpnd_folder), float("nan"))},
    }
    quiet, pause = not progress, 0.1 if sys.stderr.isatty() else 10
    result: dict[str, Value] = {}
    for metric in tqdm(metrics, desc="measuring jets", disable=quiet, leave=False, mininterval=pause):
        result |= measure[metric]()
    return result


def _checked(name: str, cloud: Cloud, clip: float | None) -> Cloud:
    features, mask = (tensor.detach().cpu() for tensor in cloud)
    if not mask.any(1).all() or not len(mask):
        raise Refusal(f"{name} jets: each needs a constituent, and there must be some")
    bad = ~(torch.isfinite(features).all(-1) & (features[..., 2] >= 0)) & mask
    if bad.any():
        raise Refusal(f"{name} jets: constituent {tuple(bad.nonzero()[0].tolist())} is not finite or has negative pt")
    cloud = Cloud(features.float().masked_fill(~mask[..., None], 0), mask)
    return cloud.clipped(clip) if clip else cloud
