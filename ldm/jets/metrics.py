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
- W1 of tau21, tau32 and D2 (`substructure`) is as W1M; the AUC of a classifier (`twosample`) sees
  all that 22 features of a jet hold, and is 0.5 of real jets.
- FPND compares with the real JetNet jets of the type `kind`, not with `real`; there are references
  of g, q and t.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import wasserstein_distance

from ldm.errors import Refusal, one_of, say
from ldm.jets import twosample
from ldm.jets.distances import fpd, kpd
from ldm.jets.emd import cov_mmd
from ldm.jets.particlenet import fpnd
from ldm.jets.sample import Cloud, Sample
from ldm.metrics.records import thousands
from ldm.system.progress import shown

Value = tuple[float, float]  # and its error
COLUMNS = ("eta", "phi", "pt")
CHEAP = ("w1m", "w1p")  # seconds; the others take minutes on 10,000s of jets
SUBSTRUCTURE = ("w1tau21", "w1tau32", "w1d2")
ALL = (*CHEAP, "w1efp", *SUBSTRUCTURE, "fpd", "kpd", "cov_mmd", "auc", "fpnd")


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

    def w1tau21(self) -> dict[str, Value]:
        return self._w1_of("tau21")

    def w1tau32(self) -> dict[str, Value]:
        return self._w1_of("tau32")

    def w1d2(self) -> dict[str, Value]:
        return self._w1_of("d2")

    def _w1_of(self, name: str) -> dict[str, Value]:
        """W1 of one quantity of `substructure`."""
        pair = [side.substructure[name].numpy()[:, None] for side in (self.real, self.generated)]
        found = w1(pair[0], pair[1], self.draws, self.batches, self.rng(f"w1{name}"))
        return {f"w1{name}_{thousands(self.draws)}": average(found)}

    def auc(self) -> dict[str, Value]:
        n = min(len(self.real), len(self.generated), twosample.MOST)
        pair = self.real.features, self.generated.features
        return {f"auc_{thousands(n)}": twosample.auc(*pair, seed=self.seed, quiet=self.quiet)}

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

    `settings` are `Comparison`'s. w1m, w1p (mean of w1p_eta, _phi, _pt), w1efp (mean of 5),
    w1tau21, w1tau32, w1d2: mean and standard deviation over `batches` draws of `draws` jets; fpd:
    intercept and its error; kpd: median and half the 16-84 % range; cov, mmd: mean and deviation
    over batches of 100; auc: over as many jets of both, and its error; fpnd: no error (NaN),
    against the reference of type `kind`. For the truth-vs-truth floor put a second real sample, as
    large as the generated, in `generated`'s place. What `clip` moves is counted and said. Refusal:
    an unknown metric, an empty sample or jet, a value that is not finite, negative pt.
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
