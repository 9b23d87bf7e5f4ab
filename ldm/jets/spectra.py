"""Histograms of real jets, small enough to lie beside a checkpoint, and the page's plots of jets.

They are kept as counts in the bins of `plots.quantities`, not as jets: 10 kB that every copy of the
checkpoint can have with it, whatever the licence of the jets.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from ldm.errors import Refusal
from ldm.jets.metrics import Cloud
from ldm.jets.plots import Quantity, discs, quantities, values
from ldm.system.files import atomic_write
from ldm.system.plots import GENERATED, REAL, picture, say, sheet, styled

NAME = "spectra.json"  # beside a checkpoint
LARGEST = 200_000  # bytes of such a file
TITLES = {
    "mass": "Jet mass",
    "pt": "Momentum of a particle",
    "eta": "Angle of a particle along the beam",
    "phi": "Angle of a particle around the beam",
    "multiplicity": "Number of particles",
    "leading_1": "Momentum of the hardest particle",
    "leading_2": "Momentum of the 2nd hardest particle",
    "leading_5": "Momentum of the 5th hardest particle",
    "tau21": "Two prongs rather than one",
    "tau32": "Three prongs rather than two",
    "d2": "Two prongs, by energy correlations",
}
AXES = {
    "mass": "$m / p_T$ of the jet (no unit)",
    "pt": "particle $p_T$ / jet $p_T$ (no unit)",
    "eta": r"$\eta$ - jet $\eta$ (no unit)",
    "phi": r"$\phi$ - jet $\phi$ (radians)",
    "multiplicity": "particles in a jet",
    "tau21": r"$\tau_{21}$, low with two prongs (no unit)",
    "tau32": r"$\tau_{32}$, low with three prongs (no unit)",
    "d2": "$D_2$, low with two prongs (no unit)",
} | {f"leading_{i}": "particle $p_T$ / jet $p_T$ (no unit)" for i in (1, 2, 5)}

UNITS = {"phi": "1 / radian", "multiplicity": "per number"}


@dataclass(frozen=True)
class Spectra:
    """Counts in the bins of each quantity, and of how many values, those outside included."""

    jets: int
    constituents: int
    counts: Mapping[str, np.ndarray]
    numbers: Mapping[str, int]

    @classmethod
    def of(cls, cloud: Cloud, constituents: int | None = None) -> "Spectra":
        """Of jets, in the bins for so many constituents; by default as many as they can have."""
        most, found = constituents or cloud.mask.shape[1], values(cloud)
        counts = {
            key: np.histogram(found[key], quantity.edges)[0]
            for key, quantity in quantities(most).items()
            if key in found
        }
        return cls(len(cloud.mask), most, counts, {key: len(found[key]) for key in counts})

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        counts = {key: count.tolist() for key, count in self.counts.items()}
        return vars(self) | {"counts": counts, "numbers": dict(self.numbers)}

    @classmethod
    def from_plain(cls, found: Any) -> "Spectra":
        """The other way. ValueError where a count, a name or a length is none of ours."""
        jets, most = whole(found["jets"]), whole(found["constituents"], 1, 150)
        bins = {key: len(of.edges) - 1 for key, of in quantities(most).items()}
        counts = {}
        for key, listed in dict(found["counts"]).items():
            if key not in bins or len(listed) != bins[key]:
                raise ValueError(f"{key:.40} has other bins than this ldm draws")
            counts[key] = np.array([whole(one, 0) for one in listed])
        numbers = {key: whole(found["numbers"][key]) for key in counts}
        return cls(jets, most, counts, numbers)

    def density(self, key: str, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values per unit of the axis in each bin, and the statistical error of it."""
        scale = self.numbers[key] * np.diff(edges)
        return self.counts[key] / scale, np.sqrt(self.counts[key]) / scale


def whole(value: Any, low: int = 1, high: int = 2**53) -> int:
    """A whole number of a file. ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{value!r:.40} is not a count")
    return value


@dataclass(frozen=True)
class Reference:
    """Spectra of real jets: one for each class, by its name ("" of jets without classes)."""

    source: str
    classes: Mapping[str, Spectra]

    def write(self, path: Path) -> None:
        """As JSON."""
        plain = {name: spectra.plain() for name, spectra in self.classes.items()}
        text = json.dumps({"source": self.source, "classes": plain})
        with atomic_write(path) as file:
            file.write(text + "\n")

    @classmethod
    def read(cls, path: Path) -> "Reference":
        """Refusal where the file is too large, damaged, or of other bins: nothing is believed."""
        try:
            if path.stat().st_size > LARGEST:
                raise ValueError(f"it is larger than {LARGEST / 1000:.0f} kB")
            found = json.loads(path.read_text(encoding="utf-8"))
            classes = {str(k): Spectra.from_plain(v) for k, v in dict(found["classes"]).items()}
            return cls(str(found["source"])[:200], classes)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            why = " ".join(f"{error}".split())[:200] or type(error).__name__
            what = "remove it, or write it anew by python -m benchmarks.jet_spectra"
            raise Refusal(f"{path}: these are no spectra of real jets ({why}); {what}") from None


@styled()
def portrait(jet: Tensor, title: str) -> Image.Image:
    """One jet (n, 3) as discs in (eta, phi): small enough for a phone."""
    figure, axes = sheet(title, size=(2.9, 3.0))
    discs(axes[0, 0], jet)
    say(axes[0, 0], r"$\eta$ - jet $\eta$", r"$\phi$ - jet $\phi$ (radians)")
    return picture(figure)


def compared(generated: Spectra, real: Spectra | None) -> list[Image.Image]:
    """A histogram of each quantity: real jets in grey where there are any, generated ones over."""
    shown = quantities(generated.constituents)
    return [histogram(key, shown[key], generated, real) for key in generated.counts if key in shown]


@styled()
def histogram(key: str, of: Quantity, generated: Spectra, real: Spectra | None) -> Image.Image:
    """One quantity, with generated / real below where there are real jets."""
    behind = real if real is not None and key in real.counts else None
    rows: dict[str, Any] = {"height_ratios": (3, 1)} if behind is not None else {}
    figure, axes = sheet(TITLES[key], 1 + len(rows), 1, (4.6, 3.8), sharex=True, **rows)
    top, bottom = axes[0, 0], axes[-1, 0]
    scale, ends = "log" if of.log_x else "linear", of.edges[[0, -1]]
    say(top, "", f"density ({UNITS.get(key, 'per unit')})", yscale="log", xscale=scale, xlim=ends)
    if behind is not None:
        density, _ = behind.density(key, of.edges)
        name = f"{behind.jets:,} real jets"
        top.stairs(density, of.edges, fill=True, color=REAL, alpha=0.35, label=name)
        _ratio(bottom, key, of.edges, (generated, behind))
    density, _ = generated.density(key, of.edges)
    name = f"{generated.jets:,} generated jets"
    top.stairs(density, of.edges, color=GENERATED, linewidth=1.6, label=name)
    top.legend(fontsize="small")
    bottom.set_xlabel(AXES[key])
    if not of.log_x:
        bottom.locator_params(axis="x", nbins=6)
    return picture(figure)


def _ratio(axes: Axes, key: str, edges: np.ndarray, both: tuple[Spectra, Spectra]) -> None:
    """Generated / real in each bin, with the statistical error of both, where real jets are."""
    (made, error), (real, noise) = (one.density(key, edges) for one in both)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.where(real > 0, made / real, math.nan)
        spread = quotient * np.hypot(error / made, noise / real)
    middles = (edges[1:] + edges[:-1]) / 2
    axes.errorbar(middles, quotient, spread, fmt=".", color=GENERATED, markersize=4, linewidth=1)
    axes.axhline(1, color=REAL, linewidth=0.8)
    say(axes, "", "gen. / real", ylim=(0.4, 1.6))
