"""What a task writes: each result as a PNG, panels of input, results and spread, the two lists."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm.pictures.grid import save_picture
from ldm.pictures.labels import Labels, labelled
from ldm.pictures.transforms import Range
from ldm.sampling.folder import write_lists

SHOWN = 4  # samples in a panel's row
ROWS = 10  # inputs in panel.png
TRUTH, MEAN, SPREAD = "truth", "mean of the results", "spread of the results"  # headings


@dataclass
class Result:
    """One input's results, pictures in [-1, 1].

    before: the panel's first columns by their headings. samples: (K, C, H, W), with their seeds, or
    a frame each. mean: their middle. raw: the samples before known pixels were put back.
    """

    name: str
    before: dict[str, Tensor]
    samples: Tensor
    seeds: list[int]
    mean: Tensor | None = None
    raw: Tensor | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    prompts: Sequence[str] | None = None  # a sample's
    span: Range | None = None  # what -1 and 1 are, of a model of floats
    frames: bool = False

    def columns(self) -> dict[str, Tensor]:
        """Headings and pictures of the panel's row: what is given, what is made, the truth.

        The spread's white is a standard deviation of 1, of the range -1 ... 1.
        """
        before = {key: value for key, value in self.before.items() if key != TRUTH}
        truth = {TRUTH: self.before[TRUTH]} if TRUTH in self.before else {}
        return before | (self._frames() if self.frames else self._made()) | truth

    def _frames(self) -> dict[str, Tensor]:
        return {f"frame {i + 1}": frame for i, frame in enumerate(self.samples)}

    def _made(self) -> dict[str, Tensor]:
        pairs = zip(self.seeds[:SHOWN], self.samples, strict=False)
        shown = {f"result {i + 1}, seed {seed}": x for i, (seed, x) in enumerate(pairs)}
        rest = {} if self.mean is None else {MEAN: self.mean}
        if self.raw is not None:
            rest["result 1 before pasting"] = self.raw[0]
        if len(self.samples) > 1:
            rest[SPREAD] = 2 * self.samples.std(0, correction=0) - 1
        return shown | rest


def panel(results: list[Result], title: str = "") -> Image.Image:
    """One row per input, one column per picture of it, headings above."""
    rows = [result.columns() for result in results]
    headings = list(rows[0])
    height, width = max((picture.shape[-2:] for picture in rows[0].values()), key=max)
    cells = [fit(row[heading], height, width) for row in rows for heading in headings]
    return labelled(torch.stack(cells), len(headings), Labels(title, [headings]))


def fit(picture: Tensor, height: int, width: int) -> Tensor:
    """A smaller picture with its pixels repeated, to stand beside the others."""
    up, across = height // picture.shape[1], width // picture.shape[2]
    return picture.repeat_interleave(up, 1).repeat_interleave(across, 2)


def write_results(
    folder: Path, results: list[Result], settings: dict[str, Any], title: str = ""
) -> None:
    """<input>-<seed>.png, -mean and -spread; panels; samples.jsonl, settings.json.

    -unpasted.png is a sample before known pixels were put back.
    """
    lines = []
    for result in results:
        for i, (sample, seed) in enumerate(zip(result.samples, result.seeds, strict=True)):
            name = f"{result.name}-{seed:08d}"
            save_picture(sample, folder / f"{name}.png", result.span)
            prompt = {"prompt": result.prompts[i]} if result.prompts else {}
            what = {"frame": i} if result.frames else {"seed": seed}
            lines.append(
                {"file": f"{name}.png", "input": result.name} | what | prompt | result.notes
            )
            if result.raw is not None:
                save_picture(result.raw[i], folder / f"{name}-unpasted.png", result.span)
        columns = result.columns()
        for key, name in ((MEAN, "mean"), (SPREAD, "spread")):
            if key in columns:
                save_picture(columns[key], folder / f"{result.name}-{name}.png")
        panel([result], title).save(folder / f"{result.name}-panel.png")
    panel(results[:ROWS], title).save(folder / "panel.png")
    write_lists(folder, lines, settings)
