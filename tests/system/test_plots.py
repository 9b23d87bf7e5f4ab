"""Every figure has a title and words on its axes; the helper that all of them are drawn with."""

import re

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ldm.metrics.words import in_words
from ldm.system.plots import DPI, STYLE, WIDTH, floor_line, picture, plain_ticks, say, sheet, styled


def wordless(figure: Figure) -> list[str]:
    """What is wrong with a figure's words: none, or names of the code in them."""
    title = figure.get_suptitle()
    texts = [title, figure.get_supxlabel(), figure.get_supylabel()]
    wrong = [] if title else ["no title"]
    for i, axes in enumerate(figure.axes):
        if not axes.axison:
            continue
        texts += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        texts += [text.get_text() for text in _legend(axes)]
        wrong += [f"axes {i}: no {name} label" for name in "xy" if not _named(figure, axes, name)]
    plain = [re.sub(r"\$[^$]*\$", "", text) for text in texts]  # not the indices of formulas
    return wrong + [text for text in plain if "_" in text]


def _legend(axes: Axes) -> list:
    return axes.get_legend().get_texts() if axes.get_legend() else []


def _named(figure: Figure, axes: Axes, name: str) -> bool:
    """An axis has a label of its own or the figure's, or no numbers that need one."""
    shown = getattr(axes, f"{name}axis").get_tick_params()
    numbers = any(shown.get(f"label{side}", True) for side in ("left", "bottom"))
    numbers = numbers and len(getattr(axes, f"get_{name}ticks")()) > 0
    own = getattr(axes, f"get_{name}label")()
    return bool(own or getattr(figure, f"get_sup{name}label")() or not numbers)


@styled()
def drawn(x: str = "evaluations of the network", y: str = "$x_0$") -> Figure:
    figure, axes = sheet("A curve and its floor")
    axes[0, 0].plot([1, 10, 100], [3, 2, 1], label="Heun")
    say(axes[0, 0], x, y, xscale="log")
    plain_ticks(axes[0, 0].xaxis)
    floor_line(axes[0, 0], 0.5)
    axes[0, 0].legend()
    return figure


def test_the_style_is_of_our_figures_alone():
    before = dict(matplotlib.rcParams)
    figure = drawn()
    assert dict(matplotlib.rcParams) == before != STYLE
    assert figure.axes[0].xaxis.label.get_size() == STYLE["axes.labelsize"]
    assert not figure.axes[0].get_legend().get_frame_on()
    image = picture(figure)
    assert image.mode == "RGB" and image.width == WIDTH * DPI
    ticks = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert {"1", "10", "100"} <= set(ticks)
    assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize(("x", "y"), [("", "mass"), ("mass", ""), ("fd_fashion_1k", "mass")])
def test_a_figure_without_words_is_found(x, y):
    assert wordless(drawn()) == []
    assert wordless(drawn(x, y))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fd_fashion_1k", "Fréchet distance (Fashion features, 1,000 samples)"),
        ("fid_50k", "FID (50,000 samples)"),
        ("class_share_150", "share of samples of the class asked for (150 samples)"),
        ("w1m_of_1500", "Wasserstein distance of jet mass (1,500 samples)"),
        ("my_own_figure", "my own figure"),
    ],
)
def test_names_of_figures_in_words(name, words):
    assert in_words(name) == words
