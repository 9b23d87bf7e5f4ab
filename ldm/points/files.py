"""Points from files: a CSV of one's own, and a picture whose dark parts are where points lie."""

import csv
import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ldm.errors import Refusal, one_of, printable
from ldm.pictures.opening import Unreadable, View

LARGEST, ROWS = 512 * 2**20, 5_000_000  # bytes and rows of a CSV
COLUMNS, CLASSES, FEWEST = 8, 100, 20
FLATTEST = 1e-4  # spread over size of a column: below it float32 has no digits left for it
SIDE = 256  # pixels of a drawn picture


@dataclass(frozen=True)
class Table:
    """Points (N, D) float32, the columns' names, classes (N,) and their names."""

    points: Tensor
    columns: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]


def read_csv(path: Path, label: str = "") -> Table:
    """Numbers between commas, a row a line; a first line of names is optional.

    `label` names the column of classes. Refusal, with its line, of what is no number, of rows of
    different length, of more than 8 columns and of columns that are constant.
    """
    if not path.is_file():
        raise Refusal(f"data.file: no file '{path}'")
    if path.stat().st_size > LARGEST:
        raise Refusal(f"data.file: {path} is larger than {LARGEST // 2**20} MB")
    lines = _lines(path)
    head = lines.pop(0)[1] if lines and not all(map(_is_number, lines[0][1])) else None
    if len(lines) < FEWEST:
        raise Refusal(f"data.file: {path} has {len(lines)} rows; at least {FEWEST} are needed")
    width = len(head if head is not None else lines[0][1])
    names = [name.strip() for name in head or [f"x{i + 1}" for i in range(width)]]
    if odd := next((n for n, row in lines if len(row) != width), None):
        raise Refusal(
            f"data.file: {path}: line {odd} has not {width} values, as the first line has"
        )
    if len(set(names)) < width:
        raise Refusal(f"data.file: {path}: the first line names a column twice")
    texts, classes = _classes(path, lines, names, label)
    return Table(_numbers(path, lines, names), tuple(names), texts, classes)


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Every row that is not empty, with its line."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            found = [(reader.line_num, row) for row in islice(reader, ROWS + 1) if row]
    except UnicodeDecodeError:
        raise Refusal(f"data.file: {path} is no text in UTF-8") from None
    except csv.Error as error:
        raise Refusal(f"data.file: {path} is no CSV ({error})") from None
    if len(found) > ROWS:
        raise Refusal(f"data.file: {path} has more than {ROWS:,} rows")
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _classes(
    path: Path, lines: list[tuple[int, list[str]]], names: list[str], label: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Take the column of classes out of rows and names: (N,) and the classes in order."""
    if not label:
        return torch.zeros(len(lines), dtype=torch.long), ()
    if label not in names:
        raise Refusal(f"{path}: " + one_of("data.label", label, names))
    at = names.index(label)
    names.pop(at)
    texts = [row.pop(at).strip() for _, row in lines]
    classes = sorted(set(texts))
    if not 2 <= len(classes) <= CLASSES or "" in classes:
        raise Refusal(
            f"data.label: column '{label}' of {path} has {len(classes)} classes, empty ones "
            f"counted; 2 to {CLASSES} with names are needed"
        )
    return torch.tensor([classes.index(text) for text in texts]), tuple(classes)


def _numbers(path: Path, lines: list[tuple[int, list[str]]], names: list[str]) -> Tensor:
    if not 1 <= len(names) <= COLUMNS:
        raise Refusal(
            f"data.file: {path} has {len(names)} columns of numbers; 1 to {COLUMNS} can be"
        )
    values = [[_number(path, n, text) for text in row] for n, row in lines]
    points = torch.tensor(values, dtype=torch.float64)
    spread, size = points.std(0), points.abs().amax(0)
    if flat := [name for name, s, m in zip(names, spread, size, strict=True) if s <= FLATTEST * m]:
        raise Refusal(
            f"data.file: column '{printable(flat[0])}' of {path} hardly varies beside its size; "
            "leave it out, or subtract a constant"
        )
    return points.float()


def _number(path: Path, line: int, text: str) -> float:
    value = float(text) if _is_number(text) else math.nan
    if not math.isfinite(value) or abs(value) > 1e18:
        raise Refusal(f"data.file: {path}: line {line}: '{printable(text)[:40]}' is not a number")
    return value


def darkness(file: str) -> Tensor:
    """How dark a picture is, (H, W) in [0, 1], at most SIDE pixels; "": a face that is drawn here.

    Refusal where it is no picture, or has nothing dark.
    """
    if not file:
        return face()
    try:
        picture = View((1, SIDE, SIDE), fit="pad").read(Path(file).expanduser())
    except (Unreadable, OSError) as error:
        raise Refusal(f"data.file: {file} is no picture ({error})") from None
    dark = 1 - picture[0].double() / 255
    if dark.max() < 0.1:
        raise Refusal(f"data.file: {file} has nothing dark; points lie where a picture is dark")
    return torch.where(dark < 0.1, 0, dark)  # paper is not quite white


def face() -> Tensor:
    """A round face of two eyes and a smile: (SIDE, SIDE), 1 where it is drawn."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    radius, below = np.hypot(x, y), y > 0.05
    drawn = (abs(radius - 0.45) < 0.03) | ((abs(radius - 0.28) < 0.03) & below)
    for eye in (-0.17, 0.17):
        drawn |= np.hypot(x - eye, y + 0.12) < 0.05
    return torch.from_numpy(drawn.astype(np.float64))


def from_picture(dark: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points (count, 2) of a density that is a picture's darkness; the longer side is 4 wide."""
    pick = torch.multinomial(dark.flatten(), count, replacement=True, generator=generator)
    within = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    height, width = dark.shape
    x, y = pick % width + within[:, 0], pick // width + within[:, 1]
    unit = 4 / max(height, width)
    return torch.stack([(x - width / 2) * unit, (height / 2 - y) * unit], 1)
