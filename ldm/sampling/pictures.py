"""Samples that are pictures: a folder of files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ldm.pictures.grid import to_picture
from ldm.sampling.folder import write_lists


def write(
    folder: Path,
    images: Tensor,
    seeds: Sequence[int],
    labels: Sequence[str] | None,
    settings: dict[str, Any],
    prompts: Sequence[str] | None = None,
) -> None:
    """DIR/<seed, 8 digits>.png at the data's own size, grid.png, samples.jsonl (a line each), settings.json."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    told = {"label": labels, "prompt": prompts}
    for i, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        name = f"{seed:08d}.png"
        pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(folder / name)
        lines.append({"file": name, "seed": seed} | {key: of[i] for key, of in told.items() if of})
    columns = len(set(prompts or []))  # prompts come in turn: a column each
    to_picture(images[:400], columns if 1 < columns <= 16 else 0).save(folder / "grid.png")
    write_lists(folder, lines, settings)
