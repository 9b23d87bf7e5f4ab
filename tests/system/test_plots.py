"""Every figure has a title and words on its axes; the helper that all of them are drawn with."""

import ast
import re
from importlib import import_module
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from figures import caught, cut_off, faults, hidden, wordless
from matplotlib.figure import Figure

from ldm.jets.metrics import Cloud
from ldm.jets.plots import quantities
from ldm.jets.spectra import Spectra
from ldm.metrics.words import in_words
from ldm.system.plots import DPI, STYLE, WIDTH, floor_line, picture, plain_ticks, say, sheet, styled

ROOT = Path(__file__).parents[2]


def cloud(seed: int, beyond: float = 0.0) -> Cloud:
    """20 jets of up to 6 particles, one of which may be beyond every axis."""
    generator = torch.Generator().manual_seed(seed)
    features = 0.1 * torch.rand(20, 6, 3, generator=generator)
    features[0, 0] += beyond
    return Cloud(features, torch.arange(6) < torch.randint(1, 7, (20, 1), generator=generator))


def measured(solver: str, evaluations: int) -> dict:
    figure = {"value": 30 / evaluations, "std": None, "floor": 0.5}
    return {"solver": solver, "evaluations": evaluations, "figures": {"fd_fashion_1k": figure}}


def of_jets(solver: str, evaluations: int) -> dict:
    costs = {"evaluations": evaluations, "ms_per_jet": evaluations / 4}
    return costs | {"solver": solver, "w1m_10k": 1 / evaluations, "fpd_50k": 2 / evaluations}


def side(value: float) -> dict:
    point = {"metric": "fd_fashion_2k", "value": value, "floor": 0.4, "steps": 5, "count": 10}
    return {"curve": [point | {"spent": 60}], "sampling": [point | {"seconds": 2.0}]}


def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return -x * (1 + t)


def led(guide: str, weight: float) -> dict:
    """A row of benchmarks/guidance.py."""
    figures = {"fd": [3.0 - weight, 0.4], "precision": [0.9, 0.9], "recall": [0.6, 0.9]}
    return {"guide": guide, "guidance": weight, "count": 10, "steps": 5, "figures": figures}


MASK, PLANE, ENDS = cloud(0).mask, cloud(0).features[:, 0, :2], [(0.0, 1.0), (0.0, 2.0)]
DRAWN = {  # every function that draws a sheet, and what it is given
    "ldm.jets.plots.histograms": (cloud(0), cloud(1, beyond=2.0), ("held-out", "generated")),
    "ldm.jets.plots.jet_images": (cloud(0), cloud(1)),
    "ldm.jets.plots.reverse_process": ([cloud(0).features] * 2, MASK, (1.0, 0.0)),
    "ldm.jets.plots.jets": (cloud(0).features[:3], MASK[:3], ["seed 0", "seed 1", "seed 2"]),
    "ldm.jets.spectra.portrait": (cloud(0).features[0][MASK[0]], "gluon, seed 0"),
    "ldm.jets.spectra.histogram": ("phi", quantities(6)["phi"], *[Spectra.of(cloud(0))] * 2),
    "ldm.points.plots.scatter": (PLANE, ("x", "y"), ["a", "b"] * 10),
    "ldm.points.plots.samples_over_data": (PLANE, PLANE + 0.01, ("x", "y")),
    "ldm.points.plots.fields": ((field, field), (0.1, 0.5), [PLANE, PLANE], "Two fields"),
    "ldm.points.plots.paths": ([PLANE, PLANE / 2, PLANE / 3], PLANE, ("x", "y")),
    "ldm.points.plots.densities": ({"exact": torch.rand(4, 4)}, ENDS, ("x", "y")),
    "ldm.points.plots.errors_by_time": (torch.rand(4), {"network": torch.rand(4)}, "Errors"),
    "benchmarks.solver_quality.draw": (
        [measured(s, n) for s in ("Heun", "DDPM") for n in (9, 50)],
    ),
    "benchmarks.guidance.draw": ([led("null condition", w) for w in (1, 2)] + [led("small", 2)],),
    "benchmarks.latent_vs_pixel.draw": ({"latent": side(2.0), "pixel": side(3.0)},),
    "benchmarks.gallery.mass": (cloud(0), cloud(1), (4, 3)),
    "benchmarks.judge_jets.draw": (
        [of_jets(s, n) for s in ("Heun", "DPM++2M") for n in (10, 50)],
        {"w1m_10k": 1e-3, "fpd_50k": 2e-3},
        "Two solvers",
    ),
    "benchmarks.judge_types.spectra": (
        {name: (50 + np.arange(9.0), 55 + np.arange(9.0)) for name in ("gluon", "top", "W")},
        np.linspace(0, 250, 63),
    ),
}


def drawing() -> set[str]:
    """Every function of the project that makes a sheet."""
    found = set()
    for file in [*ROOT.glob("ldm/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        text = file.read_text()
        if "sheet" not in text or (file.name == "plots.py" and file.parent.name == "system"):
            continue
        if file.parent.name == "lecture":  # tests/lecture looks at them
            continue
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(text)):
            called = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
            names = {f.id for f in called if isinstance(f, ast.Name)}
            if isinstance(node, ast.FunctionDef) and "sheet" in names:
                found.add(f"{module}.{node.name}")
    return found


def test_every_figure_is_known_here():
    assert drawing() == set(DRAWN)


def test_every_figure_is_a_sheet():
    for file in [*ROOT.glob("ldm/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        if file != ROOT / "ldm" / "system" / "plots.py":
            own = re.search(r"pyplot|\bFigure\(figsize|FigureCanvas", file.read_text())
            assert not own, f"{file}: draw it on a sheet of ldm.system.plots"


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_says_what_it_shows(name):
    """Title, labels, units; no names of the code; nothing is cut off, no legend over lines."""
    module, function = name.rsplit(".", 1)
    with caught() as figures:
        image = getattr(import_module(module), function)(*DRAWN[name])
    assert [faults(figure, image) for figure in figures] == [[]]


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


def test_a_legend_over_a_line_and_a_cut_edge_are_found():
    figure = drawn()
    assert faults(figure, picture(figure)) == []
    figure.axes[0].legend(loc="upper left", frameon=False)
    image = picture(figure)
    assert hidden(figure) == ["axes 0: the legend lies over Heun"]
    image.paste((0, 0, 0), (0, 50, 3, 60))
    assert cut_off(image) == ["cut off at the left"]


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
