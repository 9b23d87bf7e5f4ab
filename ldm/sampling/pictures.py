"""Samples that are pictures: a folder of files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.pictures.grid import save_picture, to_picture
from ldm.pictures.opening import Range
from ldm.sampling.folder import write_lists


def write(
    folder: Path,
    images: Tensor,
    seeds: Sequence[int],
    given: Mapping[str, Sequence[str] | None],
    settings: dict[str, Any],
    span: Range | None = None,
) -> None:
    """DIR/<seed, 8 digits>.png at the data's own size (and .npy: `save_picture`), grid.png,
    samples.jsonl (a line each, with its `label` and `prompt` where they are given), settings.json."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        name = f"{seed:08d}.png"
        save_picture(image, folder / name, span)
        lines.append({"file": name, "seed": seed} | {key: of[i] for key, of in given.items() if of})
    columns = len(set(given.get("prompt") or []))  # prompts come in turn: a column each
    to_picture(images[:400], columns if 1 < columns <= 16 else 0).save(folder / "grid.png")
    write_lists(folder, lines, settings)
