"""The headers of a folder's files, before they are read."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from ldm.errors import Refusal
from ldm.pictures.folder_set import skipped
from ldm.pictures.listing import announce_data
from ldm.pictures.opening import Head, Unreadable, finite_range
from ldm.pictures.transforms import Range

NAMED = 20  # unreadable pictures that are named at the start, beside their number
BLOCK = 4096  # files that are asked for at once


def heads_of(root: Path, paths: list[Path]) -> dict[Path, Head]:
    """The header of each file; those that cannot be opened are named and left out."""
    heads: dict[Path, Head] = {}
    bad: list[tuple[Path, str]] = []
    with ThreadPoolExecutor(8) as threads:  # a network's disk answers many as fast as one
        found = chain.from_iterable(
            threads.map(_head, paths[i : i + BLOCK]) for i in range(0, len(paths), BLOCK)
        )
        bar = tqdm(
            found, total=len(paths), desc="data: looking at", unit="picture", delay=3, leave=False
        )
        for path, head in zip(paths, bar, strict=True):
            if isinstance(head, str):
                bad.append((path, head))
            else:
                heads[path] = head
    if not heads:
        raise Refusal(
            f"data.root: none of the {len(paths)} pictures in '{root}' can be read; first: "
            f"{bad[0][0]} ({bad[0][1]})"
        )
    for path, why in bad[:NAMED]:
        announce_data(skipped(path, why))
    if bad:
        announce_data(f"{len(bad)} of {len(paths)} pictures cannot be read and are left out")
    return heads


def _head(path: Path) -> Head | str:
    try:
        return Head.of(path)
    except Unreadable as why:
        return str(why)


def measured_range(paths: list[Path]) -> Range | None:
    """From the smallest to the largest finite value of all pictures whose type has no range."""
    found: list[Range | None] = []
    for path in tqdm(paths, desc="data: range of", unit="picture", delay=3, leave=False):
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
