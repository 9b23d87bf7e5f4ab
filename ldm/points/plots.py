"""Pictures of points: samples over data, fields of arrows, paths, densities, errors by time.

PIL images, made off screen. Points of more than two columns are shown by their first two.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from ldm.system.plots import COLOURS, picture, say, sheet, styled

DATA, MADE, EXACT = "#9aa0a6", "#d1495b", "#1d3557"
ARROWS = 13  # of a field along an axis
Field = Callable[[Tensor, Tensor], Tensor]  # x (B, 2), t -> arrows (B, 2)
Ends = Sequence[tuple[float, float]]  # of each axis


def limits(points: Tensor, margin: float = 0.15) -> list[tuple[float, float]]:
    """Ends of each axis: all but a thousandth of the points, and a margin."""
    low, high = (torch.quantile(points[:100_000].double(), q, dim=0) for q in (0.0005, 0.9995))
    more = margin * (high - low).clamp(min=1e-9)
    return [*zip((low - more).tolist(), (high + more).tolist(), strict=True)]


def mesh(ends: Ends, count: int) -> Tensor:
    """A square mesh of count x count points over the first two axes: (count^2, 2) float32."""
    x, y = (torch.linspace(*end, count) for end in ends[:2])
    return torch.cartesian_prod(x, y)


def cloud(
    ax: Axes, points: Tensor, colour: str, most: int = 10_000, size: float = 3, name: str = ""
) -> None:
    """A scatter of the first two columns."""
    x, y = points[:most, 0], points[:most, 1]
    ax.scatter(x, y, s=size, color=colour, alpha=0.5, linewidths=0, label=name or None)


def window(ax: Axes, ends: Ends, columns: Sequence[str] = ("x", "y"), title: str = "") -> None:
    """The plane between two ends."""
    say(ax, columns[0], columns[1], title, xlim=ends[0], ylim=ends[1])
    ax.grid(visible=False)


@styled()
def scatter(points: Tensor, columns: Sequence[str], classes: Sequence[str] | None) -> Image.Image:
    """Points by themselves, a colour for each class."""
    names = sorted(set(classes)) if classes else [""]
    figure, axes = sheet(f"{len(points):,} samples", size=(6, 6))
    ax, one = axes[0, 0], points.shape[1] == 1
    for k, name in enumerate(names):
        part = points[[not classes or classes[i] == name for i in range(len(points))]]
        if one:
            ax.hist(part[:, 0].numpy(), 80, alpha=0.6, label=name)
        else:
            cloud(ax, part, COLOURS[k % len(COLOURS)], size=6, name=name)
    say(ax, columns[0], "samples" if one else columns[1])
    if classes and len(names) <= 12:
        ax.legend(markerscale=2)
    return picture(figure)


@styled()
def samples_over_data(data: Tensor, made: Tensor, columns: Sequence[str]) -> Image.Image:
    """Points of the data and generated ones side by side; of one column, both as densities."""
    title = f"{len(made):,} samples beside {len(data):,} points of the data"
    if data.shape[1] == 1:
        figure, axes = sheet(title)
        edges = np.linspace(*limits(data)[0], 81)
        for part, name, colour in ((data, "data", DATA), (made, "samples", MADE)):
            density = np.histogram(part[:, 0].numpy(), edges, density=True)[0]
            axes[0, 0].stairs(density, edges, color=colour, fill=name == "data", label=name)
        say(axes[0, 0], columns[0], "density")
        axes[0, 0].legend()
        return picture(figure)
    figure, axes = sheet(title, columns=2, sharex=True, sharey=True)
    for ax, part, name, colour in zip(
        axes[0], (data, made), ("data", "samples"), (DATA, MADE), strict=True
    ):
        cloud(ax, part, colour)
        window(ax, limits(data), columns, name)
    return picture(figure)


def arrows(ax: Axes, at: Tensor, learnt: Tensor, exact: Tensor, cell: float) -> None:
    """Learnt arrows, thin and red, over exact ones, thick and black; the longest 1.6 cells."""
    unit = exact.norm(dim=1).max().item() / (1.6 * cell)
    how: Any = {"angles": "xy", "scale_units": "xy", "scale": unit}
    ax.quiver(*at.T, *exact.T, color="black", width=0.012, label="exact", **how)
    ax.quiver(*at.T, *learnt.T, color=MADE, width=0.005, label="learnt", **how)


@styled()
def fields(
    pair: tuple[Field, Field], times: Sequence[float], spread: Sequence[Tensor], title: str
) -> Image.Image:
    """A learnt field over the exact one at a few times, over the noisy data in grey.

    spread: points x_t (N, 2) at each of the times, which fix the window.
    """
    figure, axes = sheet(title, columns=len(times), size=(3.3 * len(times), 4))
    for ax, t, x_t in zip(axes[0], times, spread, strict=True):
        ends, now = limits(x_t), torch.tensor(t, dtype=torch.float64)
        at = mesh(ends, ARROWS)
        cloud(ax, x_t, DATA, 2000)
        cell = (ends[0][1] - ends[0][0]) / ARROWS
        learnt, exact = (field(at, now) for field in pair)
        arrows(ax, at, learnt, exact, cell)
        window(ax, ends, title=f"t = {t:.2f}")
    axes[0, 0].legend(loc="upper left")
    return picture(figure)


@styled()
def paths(steps: Sequence[Tensor], data: Tensor, columns: Sequence[str]) -> Image.Image:
    """Ways of a few particles from noise (hollow) to data (full), over the data in grey.

    Of one column time is the other axis.
    """
    way, one = torch.stack([step[:40] for step in steps]), data.shape[1] == 1
    figure, axes = sheet("Paths of particles from noise to data", size=(6.5, 6))
    ax = axes[0, 0]
    if one:
        time = torch.linspace(0, 1, len(way))[:, None, None].expand(-1, way.shape[1], 1)
        way = torch.cat([time, way], 2)
    else:
        cloud(ax, data, DATA, 3000)
    for i in range(way.shape[1]):
        ax.plot(*way[:, i, :2].T, color=MADE, lw=0.7, alpha=0.7)
    for at, colour, name in ((0, "none", "noise, t = 1"), (-1, EXACT, "sample, t = 0")):
        x, y = way[at, :, 0], way[at, :, 1]
        ax.scatter(x, y, s=16, facecolors=colour, edgecolors=EXACT, label=name, zorder=3)
    say(ax, "steps done" if one else columns[0], columns[0 if one else 1])
    ax.legend(loc="upper right", frameon=True)
    return picture(figure)


@styled()
def densities(maps: Mapping[str, Tensor], ends: Ends, columns: Sequence[str]) -> Image.Image:
    """Densities (count, count) over a mesh, side by side by one scale."""
    figure, axes = sheet("Density of the points", columns=len(maps), size=(9, 4.2))
    highest = max(part.max().item() for part in maps.values())
    for ax, (name, part) in zip(axes[0], maps.items(), strict=True):
        heat = level(ax, part, ends, highest)
        window(ax, ends, columns, name)
    figure.colorbar(heat, ax=axes, label="density")
    return picture(figure)


def level(ax: Axes, values: Tensor, ends: Ends, highest: float) -> Any:
    """Values (count, count) over a mesh as colours from 0 to `highest`."""
    extent = (*ends[0], *ends[1])
    how: Any = {"origin": "lower", "aspect": "auto", "interpolation": "bilinear"}
    return ax.imshow(values.T, extent=extent, vmin=0, vmax=highest, **how)


@styled()
def errors_by_time(times: Tensor, errors: Mapping[str, Tensor], title: str) -> Image.Image:
    """RMS errors of denoisers over t."""
    figure, axes = sheet(title)
    ax = axes[0, 0]
    for name, values in errors.items():
        ax.plot(times, values, label=f"{name}: {values.mean():.3f} on average")
    ax.axhline(0.05, color=DATA, ls="--", lw=1, label="5 % of the data's spread")
    say(ax, "time t (0 = data, 1 = noise)", r"RMS of $\hat x_0 - E[x_0\,|\,x_t]$")
    ax.set_ylim(bottom=0)
    ax.legend()
    return picture(figure)
