"""Figures, and records of them that say how they were made."""

import hashlib
import importlib.metadata
import json
import platform
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ldm.errors import Refusal

PACKAGES = ("ldm", "torch", "torchvision", "diffusers", "torchmetrics", "torch-fidelity")


@dataclass(frozen=True)
class Figure:
    """A measured value over n samples.

    `floor` is truth-vs-truth: the same for `floor_n` real pictures in their place.
    """

    value: float
    n: int
    floor: float | None = None
    floor_n: int = 0
    std: float | None = None  # over subsets
    floor_std: float | None = None
    note: str = ""


def thousands(n: int) -> str:
    """5000 -> 5k, 1500 -> 1500: in a metric's name, because fid_2k is not fid_50k."""
    return f"{n // 1000}k" if n >= 1000 and n % 1000 == 0 else str(n)


def file_hash(path: Path) -> str:
    """Of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def versions() -> dict[str, str]:
    """Of what computed the figures."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def records(figures: dict[str, Figure], made: dict[str, Any]) -> list[dict[str, Any]]:
    """A plain dict for each figure, whole in itself: the figure, and how it was made."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return [
        {
            "metric": name,
            "value": figure.value,
            "std": figure.std,
            "n": figure.n,
            "truth_vs_truth": {"value": figure.floor, "std": figure.floor_std, "n": figure.floor_n},
            **({"note": figure.note} if figure.note else {}),
            **made,
            "versions": versions(),
            "date": date,
        }
        for name, figure in figures.items()
    ]


def figure_table(figures: dict[str, Figure]) -> str:
    """The figures for a person, truth-vs-truth beside them."""
    rows = [("metric", "value", "truth-vs-truth", "")]
    for name, f in figures.items():
        rows.append((name, _shown(f.value, f.std), _shown(f.floor, f.floor_std), f.note))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(row[:3], widths, strict=True)), row[3]]).rstrip()
        for row in rows
    )


def _shown(value: float | None, std: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" + (f" +- {std:.2g}" if std is not None else "")


def open_log(folder: Path) -> Path:
    """The file that records are appended to; Refusal, before the work, if it cannot be written."""
    path = folder / "records.jsonl"
    made = [part for part in (path, folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "a"):
            pass
        with suppress(OSError):  # another process may use it by now
            for part in made:
                part.rmdir() if part.is_dir() else part.unlink()
        return path
    except OSError as error:
        raise Refusal(
            f"--output: '{folder}' cannot be written ({error.strerror}); name another folder"
        ) from None


def append(path: Path, lines: list[dict[str, Any]]) -> None:
    """A line of JSON for each record; what was there stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
