"""What a figure of the lecture is: pictures, what to see in them, and the numbers behind them."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ldm.errors import Refusal, one_of


@dataclass(frozen=True)
class Made:
    """One picture, or the frames of one that moves; its caption; its numbers, plain for JSON.

    moving: a GIF beside the picture, which then is the last of the frames.
    """

    picture: Image.Image
    caption: str
    numbers: dict[str, Any]
    moving: Sequence[Image.Image] = field(default=())


@dataclass(frozen=True)
class Topic:
    """A figure of the lecture; `draw(broken, size)` of its module makes it.

    broken: with the mistake that `mistake` names. size: the share of the usual counts, for tests.
    """

    number: int
    name: str
    title: str
    mistake: str

    @property
    def stem(self) -> str:
        return f"{self.number:02d}-{self.name}"

    @property
    def module(self) -> Any:
        """Its file, `ldm/lecture/NAME.py`; imported when it is drawn."""
        return import_module(f"{__package__}.{self.name.replace('-', '_')}")

    def make(self, *, broken: bool = False, size: float = 1.0) -> Made:
        """The figure."""
        draw: Callable[..., Made] = self.module.draw
        return draw(broken=broken, size=size)

    def write(self, folder: Path, *, broken: bool = False) -> Made:
        """STEM.png, .gif where it moves, and .json of caption, command and numbers."""
        start, stem = time.perf_counter(), self.stem + "-broken" * broken
        made = self.make(broken=broken)
        folder.mkdir(parents=True, exist_ok=True)
        small(made.picture).save(folder / f"{stem}.png", optimize=True)
        if made.moving:
            frames = [small(frame, 48) for frame in made.moving]
            lengths = [1200, *[120] * (len(frames) - 2), 1200]
            how: dict[str, Any] = {
                "append_images": frames[1:],
                "duration": lengths,
                "loop": 0,
                "optimize": True,
            }
            frames[0].save(folder / f"{stem}.gif", save_all=True, **how)
        about = {"figure": self.number, "title": self.title, "caption": made.caption}
        about["command"] = f"python -m ldm.lecture {self.number}" + " --break" * broken
        about |= {"seconds": round(time.perf_counter() - start, 1), "numbers": made.numbers}
        (folder / f"{stem}.json").write_text(json.dumps(about, indent=1) + "\n")
        return made


def small(image: Image.Image, colours: int = 160) -> Image.Image:
    """With a palette: a third of the bytes."""
    return image.quantize(colours, dither=Image.Dither.NONE)


def across(figure: Figure, row: Sequence[Axes] | np.ndarray) -> Axes:
    """One wide panel in place of a row, or of a part of it."""
    first, last = row[0].get_subplotspec(), row[-1].get_subplotspec()
    assert first is not None and last is not None  # axes of `sheet` have one
    for ax in row:
        ax.remove()
    rows, columns = first.rowspan, slice(first.colspan.start, last.colspan.stop)
    return figure.add_subplot(first.get_gridspec()[rows.start : rows.stop, columns])


def chosen(topics: Sequence[Topic], word: str) -> list[Topic]:
    """The figures that a number, a name or `all` means; Refusal of others."""
    found = [topic for topic in topics if word in ("all", topic.name, str(topic.number))]
    if not found:
        known = [str(topic.number) for topic in topics] + [topic.name for topic in topics] + ["all"]
        raise Refusal(one_of("FIGURE", word, known))
    return found
