"""Which pictures of a folder are held out: by the hash of their names, and by their captions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ldm.errors import Refusal, nearest, one_of
from ldm.pictures.listing import announce_data

TYPO = 0.75  # likeness of a wrong name to a right one that makes it a slip of the pen
LISTED = 40  # classes that are listed with their counts


def held_out(
    marks: np.ndarray, labels: np.ndarray, texts: list[str], hold: Sequence[str], holdout: int
) -> np.ndarray:
    """Whether each picture is: one in `holdout`, and all of the captions in `hold`, (N,) of bool.

    By the hash of a file's name (`marks`), so that more pictures move none. Never all of a class,
    and at least one of a class of `holdout` pictures.
    """
    asked = np.full(len(marks), "" in hold)
    if texts:
        asked[:] = [text in hold for text in texts]
    out = asked | (marks % holdout == 0)
    free = np.flatnonzero(~asked)
    order = free[np.argsort(labels[free], kind="stable")]
    edges = np.flatnonzero(np.diff(labels[order])) + 1
    for rows in np.split(order, edges):
        taken = out[rows].sum()
        if len(rows) and taken == len(rows):
            out[rows[marks[rows].argmax()]] = False
        elif not taken and len(rows) >= holdout:
            out[rows[marks[rows].argmin()]] = True
    return out


def expect_held(hold: Sequence[str], texts: set[str], root: Path) -> None:
    """Refusal unless captions of `hold` are there.

    Where none is, the config is used for other data, which is announced.
    """
    missing = sorted({*hold} - texts)
    if missing and ({*hold} & texts or any(nearest(text, texts, TYPO) for text in missing)):
        raise Refusal("data.hold: " + one_of("captions", missing[0], sorted(texts)[:20]))
    if missing:
        announce_data(
            f"no picture in '{root}' has a caption of data.hold, first: '{missing[0]}'; "
            "nothing is held out by it"
        )


def announce_classes(names: Sequence[str], labels: np.ndarray, out: np.ndarray) -> None:
    """The classes with their counts, and those that are held out whole."""
    if not names:
        return
    counts = np.bincount(labels, minlength=len(names)).tolist()
    listed = [f"{name or 'no folder'} {counts[i]}" for i, name in enumerate(names[:LISTED])]
    more = f", and {len(names) - LISTED} more" * (len(names) > LISTED)
    announce_data(f"{len(names)} classes: {', '.join(listed)}{more}")
    trained = np.bincount(labels[~out], minlength=len(names))
    lost = [name for name, count in zip(names, trained, strict=True) if not count]
    if lost:
        announce_data(f"{len(lost)} classes are held out whole by data.hold, first: {lost[0]}")
