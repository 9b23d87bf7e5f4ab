"""How near generated jets are to real ones, by JetNet's protocol.

Kansal et al. 2021, 2023; `jetnet.evaluation`. Own code for the published definitions: the jetnet
package imports only with pyarrow < 21 and numpy < 2. What to mind:

- The W1 distances fall with the sample size, so that `w1m_10k` is not `w1m_50k`: the draws stand in
  every name, and a value means something only beside that of two real samples of the same sizes
  (`evaluate_jets(real, other_real)`).
- jetnet draws from an unseeded generator; here every draw is a function of `seed`.
- W1P sees the features' marginals alone: particles shuffled between jets score at the floor. W1M,
  W1EFP, FPD see that.
- Nothing is clipped, as jetnet does. FPD, KPD and W1M then hang on a handful of tail particles,
  which is what they should show of a generator that makes some. `clip` cuts |eta| and |phi| to it
  and pt to [0, 1] in both samples alike (PC-JeDi clips at 0.5), counts what it moves, and says so;
  such figures are no longer JetNet's.
- FPD's intercept and slope are fitted above 0, as jetnet fits them: an FPD of 0 is a limit that was
  met.
- Coverage and MMD depend on the 100 jets compared; papers that took 1,000 have other numbers.
- FPND compares with the real JetNet jets of the type `kind`, not with `real`; there are references
  of g, q and t.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from ldm.errors import Refusal, one_of, say
from ldm.jets.distances import fpd, kpd
from ldm.jets.efp import GRAPHS, efps, four_by_four, with_products
from ldm.jets.emd import cov_mmd
from ldm.jets.kinematics import jet_kinematics
from ldm.jets.particlenet import fpnd
from ldm.metrics.records import thousands
from ldm.system.progress import shown

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

    def moved(self, other: "Cloud") -> int:
        """How many constituents are elsewhere in `other`."""
        return int((self.mask & (self.features != other.features).any(-1)).sum())


def w1(
    real: np.ndarray, generated: np.ndarray, draws: int, batches: int, rng: np.random.Generator
) -> np.ndarray:
    """W1 of each column of (N, F), `draws` rows with replacement, `batches` times: (batches, F)."""
    rows = [
        (rng.choice(len(real), draws), rng.choice(len(generated), draws)) for _ in range(batches)
    ]
    return np.array([_columns(real[a], generated[b]) for a, b in rows])


def _columns(x: np.ndarray, y: np.ndarray) -> list[float]:
    return [wasserstein_distance(a, b) for a, b in zip(x.T, y.T, strict=True)]


def w1_particles(
    real: Cloud,
    generated: Cloud,
    draws: int,
    batches: int,
    rng: np.random.Generator,
    quiet: bool = True,
) -> np.ndarray:
    """W1 of each feature over the constituents of `draws` jets, with replacement: (batches, 3)."""

    def draw(cloud: Cloud) -> np.ndarray:
        rows = torch.from_numpy(rng.choice(len(cloud.mask), draws))
        return cloud.features[rows][cloud.mask[rows]].numpy()

    return np.array(
        [_columns(draw(real), draw(generated)) for _ in shown(range(batches), "w1p", quiet)]
    )


def average(batches: np.ndarray) -> Value:
    """Mean over the columns; mean and standard deviation of that over the batches."""
    means = batches.mean(1)
    return float(means.mean()), float(means.std())


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
    def jets(self) -> list[np.ndarray]:
        """The constituents of each, (n, 3)."""
        return [x[m].numpy() for x, m in zip(*self.cloud, strict=True)]


@dataclass(frozen=True)
class Comparison:
    """Two samples and how to compare them: a method for each of `ALL`: {name: (value, error)}."""

    real: Sample
    generated: Sample
    seed: int = 0
    draws: int = 10_000
    batches: int = 5
    kind: str = "g"
    fpnd_folder: str | None = None
    quiet: bool = True

    def measure(self, metric: str) -> dict[str, Value]:
        """One of `ALL`."""
        return getattr(self, metric)()

    def rng(self, metric: str) -> np.random.Generator:
        """Each metric's own draws: the same whichever others are asked for."""
        return np.random.default_rng([self.seed, *metric.encode()])

    def w1m(self) -> dict[str, Value]:
        pair = self.real.masses, self.generated.masses
        return {
            f"w1m_{thousands(self.draws)}": average(
                w1(*pair, self.draws, self.batches, self.rng("w1m"))
            )
        }

    def w1p(self) -> dict[str, Value]:
        pair = self.real.cloud, self.generated.cloud
        table = w1_particles(*pair, self.draws, self.batches, self.rng("w1p"), self.quiet)
        each = {
            f"w1p_{name}_{thousands(self.draws)}": average(table[:, [i]])
            for i, name in enumerate(COLUMNS)
        }
        return {f"w1p_{thousands(self.draws)}": average(table), **each}

    def w1efp(self) -> dict[str, Value]:
        pair = self.real.squares, self.generated.squares
        return {
            f"w1efp_{thousands(self.draws)}": average(
                w1(*pair, self.draws, self.batches, self.rng("w1efp"))
            )
        }

    def fpd(self) -> dict[str, Value]:
        return {
            "fpd_50k": fpd(
                self.real.products, self.generated.products, seed=42 + self.seed, quiet=self.quiet
            )
        }

    def kpd(self) -> dict[str, Value]:
        return {
            "kpd_5k": kpd(
                self.real.products, self.generated.products, seed=42 + self.seed, quiet=self.quiet
            )
        }

    def cov_mmd(self) -> dict[str, Value]:
        pair = self.real.jets, self.generated.jets
        return dict(
            zip(
                ("cov_100", "mmd_100"),
                cov_mmd(*pair, seed=self.seed, quiet=self.quiet),
                strict=True,
            )
        )

    def fpnd(self) -> dict[str, Value]:
        size = thousands(min(50_000, len(self.generated)))
        return {
            f"fpnd_{size}": (
                fpnd(*self.generated.cloud, self.kind, self.fpnd_folder, quiet=self.quiet),
                math.nan,
            )
        }


def check_jet_metrics(metrics: Iterable[str]) -> tuple[str, ...]:
    """The metrics, each once; Refusal of an unknown name."""
    for metric in metrics:
        if metric not in ALL:
            raise Refusal(one_of("metrics", metric, ALL))
    return tuple(dict.fromkeys(metrics))


def evaluate_jets(
    real: Cloud,
    generated: Cloud,
    metrics: tuple[str, ...] = ALL,
    clip: float | None = None,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Value]:
    """Every metric's value and error under a name that carries its sample size.

    `settings` are `Comparison`'s. w1m, w1p (mean of w1p_eta, _phi, _pt), w1efp (mean of 5): mean
    and standard deviation over `batches` draws of `draws` jets; fpd: intercept and its error; kpd:
    median and half the 16-84 % range; cov, mmd: mean and deviation over batches of 100; fpnd: no
    error (NaN), against the reference of type `kind`. For the truth-vs-truth floor put a second
    real sample, as large as the generated, in `generated`'s place. What `clip` moves is counted and
    said. Refusal: an unknown metric, an empty sample or jet, a value that is not finite, negative
    pt.
    """
    metrics = check_jet_metrics(metrics)
    quiet = not progress
    pair = Sample("real", real, clip, quiet), Sample("generated", generated, clip, quiet)
    if clip:
        say(said_of_clipping(clip, *pair))
    comparison = Comparison(*pair, quiet=quiet, **settings)
    found = [comparison.measure(metric) for metric in shown(metrics, "measuring jets", quiet)]
    return {name: value for part in found for name, value in part.items()}


def said_of_clipping(clip: float, *samples: Sample) -> str:
    """What clipping did to each sample."""
    parts = [
        f"{s.clipped} of {int(s.cloud.mask.sum())} constituents of the {s.name} jets"
        for s in samples
    ]
    moved = f"metrics: clipped at {clip:g}: {', '.join(parts)} moved"
    return f"{moved}; JetNet's figures are of jets as they are"


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
