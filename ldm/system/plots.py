"""Figures for people: one style, a title, words and units on every axis, drawn off screen.

    @styled()
    def draw(rows) -> Image.Image:
        figure, axes = sheet("Two solvers on one checkpoint", columns=2)
        axes[0, 0].plot(...)
        say(axes[0, 0], "evaluations of the network", "relative jet mass")
        return picture(figure)

tests/system/test_plots.py calls every function that draws a sheet, and reads its words.
"""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

WIDTH, HEIGHT, DPI = 8.0, 4.2, 120  # inches, and dots an inch: 960 px across a page
REAL, GENERATED = "#4d4d4d", "#d1495b"
# Okabe and Ito 2008: told apart by everyone, without the yellow, which white swallows
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
STYLE: Any = {
    "font.size": 11,
    "figure.titlesize": 13,
    "figure.labelsize": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": f"cycler('color', {COLOURS})",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
}
ONE_AT_A_TIME = RLock()  # matplotlib's settings are the process', and the page draws in threads


@contextmanager
def styled() -> Iterator[None]:
    """Our style while a figure is drawn: `@styled()` above a function, or a with statement."""
    with ONE_AT_A_TIME, rc_context(STYLE):
        yield


def sheet(
    title: str,
    rows: int = 1,
    columns: int = 1,
    size: tuple[float, float] = (WIDTH, HEIGHT),
    **subplots: Any,
) -> tuple[Figure, np.ndarray]:
    """A figure with a title, and its axes (rows, columns). `size` in inches; see `styled`."""
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    letters = max(20, int(size[0] * 72 / (0.55 * STYLE["figure.titlesize"])))  # across, about
    figure.suptitle(textwrap.fill(title, letters))
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def say(axes: Axes, x: str, y: str, title: str = "", **settings: Any) -> None:
    """What the axes show, in words and with units."""
    axes.set(xlabel=x, ylabel=y, title=title, **settings)


def plain_ticks(*axes: Axis) -> None:
    """1, 2, 5, 10, ... along logarithmic axes, and no powers of ten."""
    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())


def floor_line(axes: Axes, value: float) -> None:
    """What real data have against real data: no sample is expected below it."""
    axes.axhline(value, color=REAL, linestyle=":", label="real against real")


def picture(figure: Figure) -> Image.Image:
    """Draw a figure with Agg, whatever display there is: an RGB picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def save(figure: Figure, path: Path) -> None:
    """The same as a file."""
    picture(figure).save(path, optimize=True)
