"""Which pictures of a folder can be read, and the range of those whose type has none."""

from pathlib import Path

import numpy as np

from ldm.errors import Refusal
from ldm.pictures.filelist import BAD, Files
from ldm.pictures.folder_set import skipped
from ldm.pictures.listing import announce_data
from ldm.pictures.opening import Unreadable, finite_range
from ldm.pictures.transforms import Range
from ldm.system.progress import shown

NAMED = 20  # unreadable pictures that are named at the start, beside their number


def readable(files: Files, pictures: np.ndarray) -> np.ndarray:
    """The pictures that can be opened; the others are named and left out."""
    bad = pictures[(files["flags"][pictures] & BAD) != 0].tolist()
    if len(bad) == len(pictures):
        raise Refusal(
            f"data.root: none of the {len(pictures)} pictures in '{files.root}' can be read; "
            f"first: {files.path(bad[0])} ({files.why(bad[0])})"
        )
    for i in bad[:NAMED]:
        announce_data(skipped(files.path(i), files.why(i)))
    if bad:
        announce_data(f"{len(bad)} of {len(pictures)} pictures cannot be read and are left out")
    return pictures[(files["flags"][pictures] & BAD) == 0]


def measured_range(paths: list[Path]) -> Range | None:
    """From the smallest to the largest finite value of all pictures whose type has no range."""
    found: list[Range | None] = []
    for path in shown(paths, "data: range of values", unit="pictures"):
        try:
            found.append(finite_range(path))
        except Unreadable:
            continue  # named when its turn comes to be read
    ranges = [each for each in found if each is not None]
    if not ranges:
        return None
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    announce_data(
        f"{len(paths)} pictures of 32 bits are read from {low:g} to {high:g}, found over all of "
        "them; data.range states it"
    )
    return (low, high) if low < high else (low, low + 1)
