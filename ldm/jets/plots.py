"""Pictures of jets: histograms with ratio panels, averaged jet images, and the reverse process.

PIL images, made off screen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ldm.jets.kinematics import jet_kinematics
from ldm.jets.metrics import Cloud

REAL, GENERATED = "#4d4d4d", "#d1495b"


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
        "mass": Quantity("relative jet mass", np.linspace(0, 0.22, 45)),
        "pt": Quantity("$p_T^{rel}$ of constituents", np.geomspace(3e-4, 1, 45), True),
        "eta": Quantity(r"$\eta^{rel}$ of constituents", angles),
        "phi": Quantity(r"$\phi^{rel}$ of constituents", angles),
        "multiplicity": Quantity("constituents in a jet", np.arange(constituents + 2) - 0.5),
        **{
            k: Quantity(f"$p_T^{{rel}}$ of constituent {i}", np.linspace(0, top, 41))
            for k, (i, top) in leading.items()
        },
    }


def values(cloud: Cloud) -> dict[str, np.ndarray]:
    """The numbers behind each of `quantities`."""
    particles = cloud.features[cloud.mask]
    hardest = (cloud.features[..., 2] * cloud.mask).sort(1, descending=True).values
    ordered = {f"leading_{i}": hardest[:, i - 1] for i in (1, 2, 5) if i <= hardest.shape[1]}
    each = dict(zip(("eta", "phi", "pt"), particles.unbind(-1), strict=True))
    numbers = {
        "mass": jet_kinematics(*cloud)["mass"],
        "multiplicity": cloud.mask.sum(1),
        **each,
        **ordered,
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


def histograms(
    real: Cloud, generated: Cloud, names: tuple[str, str] = ("real", "generated")
) -> Image.Image:
    """Each quantity's densities, overlaid, and below generated / real with statistical errors.

    How many values of each sample lie outside the axis stands in its name.
    """
    shown = quantities(max(real.mask.shape[1], generated.mask.shape[1]))
    left, right = values(real), values(generated)
    figure = Figure(figsize=(16, 8.4), layout="constrained")
    rows = figure.subplots(4, 4, height_ratios=(3, 1, 3, 1))
    for i, (key, quantity) in enumerate(shown.items()):
        top, bottom = rows[2 * (i // 4)][i % 4], rows[2 * (i // 4) + 1][i % 4]
        if key in left and key in right:
            _overlay(top, left[key], right[key], quantity, names)
            _ratio(bottom, left[key], right[key], quantity)
    rows[0][0].legend(frameon=False)
    figure.suptitle(f"{len(real.mask):,} {names[0]} and {len(generated.mask):,} {names[1]} jets")
    return picture(figure)


def _overlay(
    axes: Axes, real: np.ndarray, generated: np.ndarray, quantity: Quantity, names: tuple[str, str]
) -> None:
    for numbers, name, style in (
        (real, names[0], {"color": REAL, "alpha": 0.35, "fill": True}),
        (generated, names[1], {"color": GENERATED, "linewidth": 1.5}),
    ):
        _density(axes, numbers, quantity, label=name, **style)
    _scales(axes, quantity)
    axes.tick_params(labelbottom=False)


def _density(axes: Axes, numbers: np.ndarray, quantity: Quantity, **style: Any) -> None:
    density = np.histogram(numbers, quantity.edges)[0] / len(numbers) / np.diff(quantity.edges)
    axes.stairs(density, quantity.edges, **style)


def _scales(axes: Axes, quantity: Quantity) -> None:
    axes.set(
        yscale="log",
        xscale="log" if quantity.log_x else "linear",
        xlim=quantity.edges[[0, -1]],
        ylabel="density",
    )


def _ratio(axes: Axes, real: np.ndarray, generated: np.ndarray, quantity: Quantity) -> None:
    quotient, error, band = ratio(real, generated, quantity.edges)
    middles = (quantity.edges[1:] + quantity.edges[:-1]) / 2
    axes.stairs(1 + band, quantity.edges, baseline=1 - band, fill=True, color=REAL, alpha=0.25)
    axes.errorbar(middles, quotient, error, fmt=".", color=GENERATED, markersize=4, linewidth=1)
    # beyond the panel, not gone
    for outside, edge, marker in (
        (quotient > 1.5, 1.46, "^"),
        (quotient < 0.5, 0.54, "v"),
    ):
        axes.plot(
            middles[outside], np.full(outside.sum(), edge), marker, color=GENERATED, markersize=3
        )
    axes.axhline(1, color=REAL, linewidth=0.8)
    scale = "log" if quantity.log_x else "linear"
    left, right = (
        int(((n < quantity.edges[0]) | (n > quantity.edges[-1])).sum()) for n in (real, generated)
    )
    name = quantity.name + (f" ({left} and {right} outside)" if left or right else "")
    axes.set(
        xscale=scale, xlim=quantity.edges[[0, -1]], ylim=(0.5, 1.5), xlabel=name, ylabel="ratio"
    )


def mean_image(cloud: Cloud, side: int = 40, reach: float = 0.4) -> np.ndarray:
    """pt_rel in each pixel of (eta, phi), averaged over jets: (side, side), eta the first axis."""
    eta, phi, pt = cloud.features[cloud.mask].double().numpy().T
    span = [[-reach, reach]] * 2
    return np.histogram2d(eta, phi, bins=side, range=span, weights=pt)[0] / len(cloud.mask)


def jet_images(
    real: Cloud,
    generated: Cloud,
    names: tuple[str, str] = ("real", "generated"),
    reach: float = 0.4,
) -> Image.Image:
    """Averaged jet images of both samples, logarithmic, and their difference over their mean."""
    a, b = mean_image(real, reach=reach), mean_image(generated, reach=reach)
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    axes = figure.subplots(1, 3)
    top = max(a.max(), b.max(), 1e-12)
    scale, extent = LogNorm(top * 1e-6, top), (-reach, reach, -reach, reach)
    for ax, image, name in zip(axes, (a, b), names, strict=False):
        shown = ax.imshow(
            image.T.clip(top * 1e-6), norm=scale, origin="lower", extent=extent, cmap="magma"
        )
        ax.set_title(f"{name}, {len(real.mask if name is names[0] else generated.mask):,} jets")
    figure.colorbar(shown, ax=axes[:2], label="mean $p_T^{rel}$ a pixel")
    total = np.where(a + b > 0, a + b, 1)
    shown = axes[2].imshow(
        (2 * (b - a) / total).T, origin="lower", extent=extent, cmap="RdBu_r", vmin=-1, vmax=1
    )
    axes[2].set_title(f"({names[1]} - {names[0]}) / mean")
    figure.colorbar(shown, ax=axes[2])
    for ax in axes:
        ax.set(xlabel=r"$\eta^{rel}$", ylabel=r"$\phi^{rel}$")
    return picture(figure)


def reverse_process(
    steps: Sequence[Tensor], mask: Tensor, times: Sequence[float], jets: int = 4
) -> Image.Image:
    """A few jets at several times: `steps` are decoded features (B, P, 3), for each of `times`.

    A row is a jet, time runs from noise on the left to data on the right, a disc's area is the
    constituent's pt_rel.
    """
    jets = min(jets, len(mask))
    figure = Figure(figsize=(2.3 * len(steps), 2.4 * jets + 0.3), layout="constrained")
    axes = figure.subplots(jets, len(steps), squeeze=False, sharex=True, sharey=True)
    for row in range(jets):
        for ax, features, t in zip(axes[row], steps, times, strict=True):
            _constituents(ax, features[row][mask[row]])
            if row == 0:
                ax.set_title(f"t = {t:.2f}")
    figure.supxlabel(r"$\eta^{rel}$")
    figure.supylabel(r"$\phi^{rel}$")
    return picture(figure)


def jets(features: Tensor, mask: Tensor, names: Sequence[str], columns: int = 4) -> Image.Image:
    """Jets (B, P, 3), one each panel, as discs in (eta, phi), `names` above them."""
    columns, rows = min(columns, len(mask)), -(-len(mask) // columns)
    figure = Figure(figsize=(2.5 * columns, 2.6 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax, cloud, real, name in zip(axes, features, mask, names, strict=False):
        _constituents(ax, cloud[real])
        ax.set_title(name, fontsize="medium")
    for ax in axes[len(mask) :]:
        ax.set_axis_off()
    figure.supxlabel(r"$\eta^{rel}$")
    figure.supylabel(r"$\phi^{rel}$")
    return picture(figure)


def _constituents(axes: Axes, cloud: Tensor) -> None:
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
    axes.set(xlim=(-0.4, 0.4), ylim=(-0.4, 0.4), aspect="equal")


def distributions(cloud: Cloud) -> Image.Image:
    """Each quantity of one sample as a density, with nothing beside it."""
    shown, found = quantities(cloud.mask.shape[1]), values(cloud)
    figure = Figure(figsize=(14, 6), layout="constrained")
    for ax, (key, quantity) in zip(figure.subplots(2, 4).ravel(), shown.items(), strict=True):
        if key in found:
            _density(ax, found[key], quantity, color=GENERATED, alpha=0.6, fill=True)
        _scales(ax, quantity)
        ax.set_xlabel(quantity.name)
    figure.suptitle(f"{len(cloud.mask):,} generated jets")
    return picture(figure)


def picture(figure: Figure) -> Image.Image:
    """Draw a figure with Agg, whatever display there is: an RGB picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
