"""What every figure must have: a title, words on its axes, nothing cut off, no legend over lines."""

import re
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


@contextmanager
def caught():
    """The figures that are drawn inside."""
    figures, draw = [], FigureCanvasAgg.draw

    def seen(canvas):
        figures.append(canvas.figure)
        return draw(canvas)

    FigureCanvasAgg.draw = seen
    try:
        yield figures
    finally:
        FigureCanvasAgg.draw = draw


def faults(figure: Figure, image) -> list[str]:
    """All that is wrong with a figure and the picture of it."""
    return wordless(figure) + hidden(figure) + cut_off(image)


def cut_off(image) -> list[str]:
    """Something dark at an edge of the picture."""
    edge = np.asarray(image.convert("L"))
    ends = {"top": edge[0], "bottom": edge[-1], "left": edge[:, 0], "right": edge[:, -1]}
    return [f"cut off at the {name}" for name, line in ends.items() if line.min() <= 200]


def hidden(figure: Figure) -> list[str]:
    """A legend over the title or, without a frame, over a line of its axes."""
    (title,) = [t for t in figure.texts if t.get_text() == figure.get_suptitle()]
    over = [x for x in figure.legends if title.get_window_extent().overlaps(x.get_window_extent())]
    wrong = ["a legend over the title"] * len(over)
    for i, axes in enumerate(figure.axes):
        if axes.get_legend() and not axes.get_legend().get_frame_on():
            box = axes.get_legend().get_window_extent()
            for line in axes.get_lines():
                path = line.get_transform().transform_path(line.get_path())
                if path.intersects_bbox(box, filled=False):
                    wrong.append(f"axes {i}: the legend lies over {line.get_label()}")
    return wrong


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
    numbers = shown.get(f"label{'bottom' if name == 'x' else 'left'}", True)
    numbers = numbers and len(getattr(axes, f"get_{name}ticks")()) > 0
    own = getattr(axes, f"get_{name}label")()
    return bool(own or getattr(figure, f"get_sup{name}label")() or not numbers)
