"""What a task writes: each result as a PNG, panels of input, results and spread, the two lists."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ldm.pictures.grid import save_picture, to_picture
from ldm.pictures.transforms import Range
from ldm.sampling.folder import write_lists

SHOWN = 4  # samples in a panel's row
ROWS = 10  # inputs in panel.png


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
        """Headings and pictures of the panel's row.

        The spread's white is a standard deviation of 1, of the range -1 ... 1.
        """
        if self.frames:
            return self.before | {f"{i + 1}": frame for i, frame in enumerate(self.samples)}
        shown = {
            f"seed {seed}": sample
            for seed, sample in zip(self.seeds[:SHOWN], self.samples, strict=False)
        }
        rest = {} if self.mean is None else {"mean": self.mean}
        if self.raw is not None:
            rest["unpasted"] = self.raw[0]
        if len(self.samples) > 1:
            rest["spread"] = 2 * self.samples.std(0, correction=0) - 1
        return self.before | shown | rest


def panel(results: list[Result], side: int = 84) -> Image.Image:
    """One row per input, one column per picture of it, headings above."""
    rows = [result.columns() for result in results]
    headings = list(rows[0])
    height, width = max((picture.shape[-2:] for picture in rows[0].values()), key=max)
    cells = [fit(row[heading], height, width) for row in rows for heading in headings]
    grid = to_picture(torch.stack(cells), len(headings), side).convert("RGB")
    canvas = Image.new("RGB", (grid.width, grid.height + 14), "white")
    canvas.paste(grid, (0, 14))
    for i, heading in enumerate(headings):
        ImageDraw.Draw(canvas).text(
            (4 + i * (grid.width - 2) / len(headings), 1), heading, fill="black"
        )
    return canvas


def fit(picture: Tensor, height: int, width: int) -> Tensor:
    """A smaller picture with its pixels repeated, to stand beside the others."""
    up, across = height // picture.shape[1], width // picture.shape[2]
    return picture.repeat_interleave(up, 1).repeat_interleave(across, 2)


def write_results(folder: Path, results: list[Result], settings: dict[str, Any]) -> None:
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
        for key in ("mean", "spread"):
            if key in columns:
                save_picture(columns[key], folder / f"{result.name}-{key}.png")
        panel([result]).save(folder / f"{result.name}-panel.png")
    panel(results[:ROWS]).save(folder / "panel.png")
    write_lists(folder, lines, settings)
