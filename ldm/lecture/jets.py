"""18. From noise to a jet, and the mass spectrum by solver and number of steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from ldm.diffusion.solvers import DDIM, DDPM, Heun
from ldm.jets.kinematics import jet_kinematics
from ldm.jets.metrics import Cloud
from ldm.jets.plots import ETA, PHI, discs, quantities
from ldm.jets.spectra import AXES, NAME, Reference, Spectra
from ldm.lecture.base import Made, across
from ldm.lecture.box import folder_of, in_the_box
from ldm.lecture.data import few
from ldm.sampling.conditions import Condition
from ldm.sampling.generate import generate, reverse
from ldm.sampling.model import Model
from ldm.system.plots import GENERATED, REAL, floor_line, picture, plain_ticks, say, sheet, styled

SOLVERS: dict[str, tuple[Any, tuple[int, ...]]] = {  # and numbers of steps
    "DDPM": (DDPM(), (5, 10, 20, 40)),
    "DDIM": (DDIM(), (5, 10, 20, 40)),
    "Heun": (Heun("angle"), (3, 5, 10, 20)),
}
JETS, PAIRS, STILLS, FRAMES = 500, 20, 6, 20
CAPTION = (
    "Above: one jet on its way from noise (t = 1) to data; a disc is a particle, its area the "
    "particle's momentum. Left: the mass of 500 generated jets (red, Heun with 39 evaluations) "
    "over that of 19,500 real ones (grey). The mass is no input: it comes right only if all "
    "particles of a jet fit together. Right: the distance to the real spectrum by solver and cost. "
    "Heun reaches the floor (dotted: as many real jets) with 39 evaluations of the network; DDIM, "
    "of first order, and DDPM, which adds noise, are still far above it."
)
BROKEN = (
    "The particles are shuffled between the jets: every particle is as it was, and so is the "
    "spectrum of single particles, but those of a jet no longer belong together. The mass spectrum "
    "is wrong for every solver, however many steps it takes. A model that makes each particle "
    "alone would do this."
)


@dataclass(frozen=True)
class Spectrum:
    """Jet mass in bins: `edges`, and the real jets' share in each."""

    edges: np.ndarray
    real: np.ndarray
    jets: int

    def distance(self, one: np.ndarray, other: np.ndarray) -> float:
        """Wasserstein-1 of two lists of shares: the area between their distribution functions."""
        apart = np.abs(np.cumsum(one - other))
        return float((apart * np.diff(self.edges)).sum())

    def shares(self, masses: np.ndarray) -> np.ndarray:
        """In each bin, those beyond the ends in the last ones."""
        inside = masses.clip(self.edges[0], self.edges[-1])
        return np.histogram(inside, self.edges)[0] / len(masses)

    def floor(self, jets: int) -> float:
        """Mean distance of so many real jets to as many as there are, drawn from the spectrum."""
        random = np.random.default_rng(0)
        draw = lambda n: random.multinomial(n, self.real) / n  # noqa: E731
        pairs = [self.distance(draw(jets), draw(self.jets)) for _ in range(PAIRS)]
        return float(np.mean(pairs))


def shuffled(cloud: Cloud) -> Cloud:
    """The same particles, in other jets."""
    features, mask = cloud.features.clone(), cloud.mask
    real = features[mask]
    features[mask] = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))]
    return Cloud(features, mask)


def made_by(model: Model, solver: Any, steps: int, count: int) -> Cloud:
    """Jets of the seeds 0 ... count - 1."""
    settings = replace(model.settings, solver=solver, steps=steps, batch_size=min(400, count))
    mask = model.space.draw(range(count))["mask"]
    return Cloud(generate(model, settings, range(count), Condition(extras={"mask": mask})), mask)


def masses(cloud: Cloud) -> np.ndarray:
    """m / pt of each jet."""
    return jet_kinematics(*cloud)["mass"].numpy()


def soft(cloud: Cloud, real: Spectra) -> float:
    """Largest difference of the particles' distribution function of pt to the real one."""
    counts = Spectra.of(cloud, real.constituents).counts["pt"], real.counts["pt"]
    one, other = (np.cumsum(part) / part.sum() for part in counts)
    return float(np.abs(one - other).max())


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    model, count = in_the_box("jets-gluon"), few(JETS, size, 100)
    real = Reference.read(folder_of("jets-gluon") / NAME).classes[""]
    known = real.counts["mass"] / real.counts["mass"].sum()
    spectrum = Spectrum(quantities(real.constituents)["mass"].edges, known, real.jets)
    found: dict[str, dict[int, float]] = {}
    for name, (solver, steps) in SOLVERS.items():
        found[name] = {}
        for n in steps:
            cloud = made_by(model, solver, n, count)
            cloud = shuffled(cloud) if broken else cloud
            calls = 2 * n - 1 if name == "Heun" else n
            found[name][calls] = spectrum.distance(spectrum.shares(masses(cloud)), known)
    floor = spectrum.floor(count)
    numbers = {
        "distance of the mass spectra by evaluations": found,
        "floor": floor,
        "distance of the particles' pt": soft(cloud, real),
    }
    way = reverse(model, model.settings, range(3, 7), frames=few(FRAMES, size, 6))
    frames = [moment(features, way[1], t) for features, t in zip(way[0], way[2], strict=True)]
    made = drawn(way, (spectrum, masses(cloud)), found, floor)
    return Made(made, BROKEN if broken else CAPTION, numbers, frames)


def particles(ax: Axes, jet: Tensor, title: str, *, first: bool) -> None:
    """One jet, its axes named."""
    discs(ax, jet)
    say(ax, ETA, f"{PHI} (radians)" if first else "", title)
    ax.tick_params(labelleft=first)


@styled()
def moment(features: Tensor, mask: Tensor, t: float) -> Image.Image:
    """Four jets at one time: a frame of the GIF."""
    figure, axes = sheet(f"From noise to jets: t = {t:.2f}", columns=4, size=(9, 2.9))
    for i, ax in enumerate(axes[0]):
        particles(ax, features[i][mask[i]], f"jet {i + 1}", first=i == 0)
    return picture(figure)


@styled()
def drawn(
    way: tuple[Sequence[Tensor], Tensor, Sequence[float]],
    mass: tuple[Spectrum, np.ndarray],
    found: dict[str, dict[int, float]],
    floor: float,
) -> Image.Image:
    """One jet's way; the spectrum; distances over the cost."""
    ratios: Any = {"height_ratios": (1, 1.5)}
    figure, axes = sheet("From noise to a jet, and the jets' mass", 2, STILLS, (12, 7), **ratios)
    steps, mask, times = way
    shown = np.linspace(0, len(steps) - 1, STILLS).round().astype(int)
    for ax, i in zip(axes[0], shown, strict=True):
        particles(ax, steps[i][0][mask[0]], f"t = {times[i]:.2f}", first=ax is axes[0, 0])
    half = STILLS // 2
    left = across(figure, axes[1, :half])
    spectrum, made = mass
    edges, width = spectrum.edges, np.diff(spectrum.edges)
    left.stairs(spectrum.real / width, edges, fill=True, color=REAL, alpha=0.35, label="real")
    left.stairs(spectrum.shares(made) / width, edges, color=GENERATED, lw=1.6, label="generated")
    say(left, AXES["mass"], "density (per unit)", xlim=edges[[0, -1]])
    left.legend()
    right = across(figure, axes[1, half:])
    for name, values in found.items():
        right.plot([*values], [*values.values()], "o-", label=name)
    floor_line(right, floor)
    say(right, "evaluations of the network", "distance of the mass spectra", xscale="log")
    right.set_yscale("log")
    plain_ticks(right.xaxis, right.yaxis)
    right.legend()
    return picture(figure)
