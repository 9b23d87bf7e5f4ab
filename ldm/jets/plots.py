"""Pictures of jets: histograms with ratio panels, averaged jet images, and the reverse process.

PIL images, made off screen, in the style of `ldm.system.plots`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ldm.jets.kinematics import jet_kinematics
from ldm.jets.metrics import Cloud
from ldm.jets.substructure import RATIOS, ratios
from ldm.system.plots import GENERATED, REAL, WIDTH, picture, say, sheet, styled

ETA, PHI, PT = r"$\eta^{rel}$", r"$\phi^{rel}$", r"$p_T^{rel}$"
ORDER = {1: "the hardest", 2: "the 2nd hardest", 5: "the 5th hardest"}
COLUMNS = 3  # of histograms: at a page's width their words are still read


@dataclass(frozen=True)
class Quantity:
    """One histogram: its axis label, its bins' edges and whether they are spaced by logarithm."""

    name: str
    edges: np.ndarray
    log_x: bool = False


def quantities(constituents: int) -> dict[str, Quantity]:
    """What `histograms` shows of jets with up to so many constituents."""
    angles = np.linspace(-0.45, 0.45, 46)
    leading = {f"leading_{i}": (i, top) for i, top in ((1, 0.6), (2, 0.35), (5, 0.14))}
    return {
        "mass": Quantity("relative jet mass, $m / p_T$", np.linspace(0, 0.22, 45)),
        "pt": Quantity(f"{PT} of particles", np.geomspace(3e-4, 1, 45), True),
        "eta": Quantity(f"{ETA} of particles", angles),
        "phi": Quantity(f"{PHI} of particles, radians", angles),
        "multiplicity": Quantity("particles in a jet", np.arange(constituents + 2) - 0.5),
        **{
            k: Quantity(f"{PT} of {ORDER[i]} particle", np.linspace(0, top, 41))
            for k, (i, top) in leading.items()
        },
        "tau21": Quantity(r"N-subjettiness $\tau_{21}$", np.linspace(0, 1, 41)),
        "tau32": Quantity(r"N-subjettiness $\tau_{32}$", np.linspace(0, 1, 41)),
        "d2": Quantity("energy correlation $D_2$", np.linspace(0, 12, 41)),
    }


def values(cloud: Cloud) -> dict[str, np.ndarray]:
    """The numbers behind each of `quantities`."""
    particles = cloud.features[cloud.mask]
    hardest = (cloud.features[..., 2] * cloud.mask).sort(1, descending=True).values
    ordered = {f"leading_{i}": hardest[:, i - 1] for i in (1, 2, 5) if i <= hardest.shape[1]}
    each = dict(zip(("eta", "phi", "pt"), particles.unbind(-1), strict=True))
    inside = ratios(*cloud)
    numbers = {
        "mass": jet_kinematics(*cloud)["mass"],
        "multiplicity": cloud.mask.sum(1),
        **each,
        **ordered,
        **{key: inside[key] for key in RATIOS},
    }
    return {name: tensor.numpy() for name, tensor in numbers.items()}


def ratio(
    real: np.ndarray, generated: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generated / real density in each bin, its Poisson error, the real's relative one; or NaN."""
    a, b = np.histogram(real, edges)[0], np.histogram(generated, edges)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.where(a > 0, (b / len(generated)) / (a / len(real)), np.nan)
        return (
            quotient,
            quotient / np.sqrt(np.where(b > 0, b, np.nan)),
            1 / np.sqrt(np.where(a > 0, a, np.nan)),
        )


@styled()
def histograms(
    real: Cloud, generated: Cloud, names: tuple[str, str] = ("real", "generated")
) -> Image.Image:
    """Each quantity's densities, overlaid, and below generated / real with statistical errors.

    How many values of each sample lie beyond an axis stands in its label.
    """
    shown = quantities(max(real.mask.shape[1], generated.mask.shape[1]))
    left, right = values(real), values(generated)
    both = {key: quantity for key, quantity in shown.items() if key in left and key in right}
    title = f"{len(real.mask):,} {names[0]} and {len(generated.mask):,} {names[1]} jets"
    rows = -(-(len(both) + 1) // COLUMNS)  # the legend has a place of its own
    figure, axes = sheet(title, 2 * rows, COLUMNS, (9, 3.3 * rows), height_ratios=(3, 1) * rows)
    for i, (key, quantity) in enumerate(both.items()):
        top, bottom = (
            axes[2 * (i // COLUMNS)][i % COLUMNS],
            axes[2 * (i // COLUMNS) + 1][i % COLUMNS],
        )
        _overlay(top, left[key], right[key], quantity, names)
        _ratio(bottom, left[key], right[key], quantity, names)
    _legend(figure, axes, len(both), names)
    return picture(figure)


def _legend(figure: Figure, axes: np.ndarray, after: int, names: tuple[str, str]) -> None:
    """In the place after the last histogram; those after it stay empty."""
    for i in range(after, axes.size // 2):
        for ax in axes[2 * (i // COLUMNS) :, i % COLUMNS][:2]:
            ax.set_axis_off()
    found = [ax.get_legend_handles_labels() for ax in (axes[0][0], axes[1][0])]
    handles, words = ([*above, *below] for above, below in zip(*found, strict=True))
    place = axes[2 * (after // COLUMNS)][after % COLUMNS]
    place.legend(handles, words, loc="upper left")


def _overlay(
    axes: Axes, real: np.ndarray, generated: np.ndarray, quantity: Quantity, names: tuple[str, str]
) -> None:
    for numbers, name, style in (
        (real, names[0], {"color": REAL, "alpha": 0.35, "fill": True}),
        (generated, names[1], {"color": GENERATED, "linewidth": 1.5}),
    ):
        _density(axes, numbers, quantity, label=f"{name} jets", **style)
    _scales(axes, quantity)
    axes.tick_params(labelbottom=False)


def _density(axes: Axes, numbers: np.ndarray, quantity: Quantity, **style: Any) -> None:
    density = np.histogram(numbers, quantity.edges)[0] / len(numbers) / np.diff(quantity.edges)
    axes.stairs(density, quantity.edges, **style)


def _scales(axes: Axes, quantity: Quantity) -> None:
    scale, ends = "log" if quantity.log_x else "linear", quantity.edges[[0, -1]]
    say(axes, "", "density", yscale="log", xscale=scale, xlim=ends)


def _ratio(
    axes: Axes, real: np.ndarray, generated: np.ndarray, quantity: Quantity, names: tuple[str, str]
) -> None:
    quotient, error, band = ratio(real, generated, quantity.edges)
    middles = (quantity.edges[1:] + quantity.edges[:-1]) / 2
    noise: dict[str, Any] = {
        "label": f"statistical error of {names[0]}",
        "color": REAL,
        "alpha": 0.25,
    }
    axes.stairs(1 + band, quantity.edges, baseline=1 - band, fill=True, **noise)
    dots: dict[str, Any] = {"fmt": ".", "color": GENERATED, "markersize": 4, "linewidth": 1}
    axes.errorbar(middles, quotient, error, label=f"{names[1]} / {names[0]}", **dots)
    _beyond(axes, middles, quotient)
    axes.axhline(1, color=REAL, linewidth=0.8)
    scale, ends = "log" if quantity.log_x else "linear", quantity.edges[[0, -1]]
    say(axes, quantity.name, "ratio", xscale=scale, xlim=ends, ylim=(0.5, 1.5))
    outside = [int(((n < ends[0]) | (n > ends[1])).sum()) for n in (real, generated)]
    if any(outside):
        few = " and ".join(map(str, outside))
        axes.set_xlabel(f"{quantity.name}\n({few} beyond the axis)")


def _beyond(axes: Axes, middles: np.ndarray, quotient: np.ndarray) -> None:
    """Triangles at the edge for the ratios that are beyond it."""
    for outside, edge, marker in ((quotient > 1.5, 1.46, "^"), (quotient < 0.5, 0.54, "v")):
        at = np.full(outside.sum(), edge)
        axes.plot(middles[outside], at, marker, color=GENERATED, markersize=3)


def mean_image(cloud: Cloud, side: int = 40, reach: float = 0.4) -> np.ndarray:
    """pt_rel in each pixel of (eta, phi), averaged over jets: (side, side), eta the first axis."""
    eta, phi, pt = cloud.features[cloud.mask].double().numpy().T
    span = [[-reach, reach]] * 2
    return np.histogram2d(eta, phi, bins=side, range=span, weights=pt)[0] / len(cloud.mask)


@styled()
def jet_images(
    real: Cloud,
    generated: Cloud,
    names: tuple[str, str] = ("real", "generated"),
    reach: float = 0.4,
) -> Image.Image:
    """Averaged jet images of both samples, logarithmic, and their difference over their mean."""
    a, b = mean_image(real, reach=reach), mean_image(generated, reach=reach)
    counts = f"{len(real.mask):,} {names[0]} and {len(generated.mask):,} {names[1]} jets"
    figure, rows = sheet(f"Mean image of {counts}", 1, 3, (10, 3.5), sharey=True)
    axes, top = rows[0], max(a.max(), b.max(), 1e-12)
    place: dict[str, Any] = {"origin": "lower", "extent": (-reach, reach, -reach, reach)}
    scale, total = LogNorm(top * 1e-6, top), np.where(a + b > 0, a + b, 1)
    for ax, image in zip(axes, (a, b), strict=False):
        shown = ax.imshow(image.T.clip(top * 1e-6), norm=scale, cmap="magma", **place)
    figure.colorbar(shown, ax=axes[:2], label=f"mean {PT} in a pixel")
    limits: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}
    shown = axes[2].imshow((2 * (b - a) / total).T, **limits, **place)
    figure.colorbar(shown, ax=axes[2], label="difference / mean")
    for ax, name in zip(axes, (*names, f"{names[1]} - {names[0]}"), strict=True):
        say(ax, ETA, PHI if ax is axes[0] else "", name)
        ax.grid(False)
    return picture(figure)


@styled()
def reverse_process(
    steps: Sequence[Tensor], mask: Tensor, times: Sequence[float], jets: int = 4
) -> Image.Image:
    """A few jets at several times: `steps` are decoded features (B, P, 3), for each of `times`.

    A row is a jet, time runs from noise on the left to data on the right, a disc's area is the
    constituent's pt_rel.
    """
    jets, width = min(jets, len(mask)), max(WIDTH, 1.5 * len(steps))
    title = "The reverse process: from noise (t = 1) to jets (t = 0)"
    size = width, 0.96 * width / len(steps) * jets + 1
    figure, axes = sheet(title, jets, len(steps), size, sharex=True, sharey=True)
    for row in range(jets):
        for ax, features, t in zip(axes[row], steps, times, strict=True):
            discs(ax, features[row][mask[row]])
            if row == 0:
                ax.set_title(f"t = {t:.2f}")
    _angles(figure)
    return picture(figure)


@styled()
def jets(features: Tensor, mask: Tensor, names: Sequence[str], columns: int = 4) -> Image.Image:
    """Jets (B, P, 3), one each panel, as discs in (eta, phi), `names` above them."""
    columns, rows = min(columns, len(mask)), -(-len(mask) // columns)
    size = max(4, 2.3 * columns + 0.4), 2.4 * rows + 0.8
    figure, panels = sheet("Generated jets", rows, columns, size, sharex=True, sharey=True)
    axes = panels.ravel()
    for ax, cloud, real, name in zip(axes, features, mask, names, strict=False):
        discs(ax, cloud[real])
        ax.set_title(name)
    for ax in axes[len(mask) :]:
        ax.set_axis_off()
    _angles(figure)
    return picture(figure)


def _angles(figure: Figure) -> None:
    """The two axes of all panels, and what a disc is."""
    figure.supxlabel(f"{ETA} (a disc is a particle, its area {PT})")
    figure.supylabel(f"{PHI} in radians")


def discs(axes: Axes, cloud: Tensor) -> None:
    """A disc of area pt_rel for each of (n, 3)."""
    eta, phi, pt = cloud.detach().cpu().unbind(-1)
    axes.scatter(
        eta,
        phi,
        s=4 + 900 * pt,
        c=pt.log10(),
        cmap="viridis",
        vmin=-3,
        vmax=-0.5,
        alpha=0.7,
        linewidths=0,
    )
    ends, ticks = (-0.4, 0.4), (-0.3, 0, 0.3)
    axes.set(xlim=ends, ylim=ends, xticks=ticks, yticks=ticks, aspect="equal")
