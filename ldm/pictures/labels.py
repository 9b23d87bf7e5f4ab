"""Grids of pictures that say what they show: a title, headings, names of rows; drawn by Pillow."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from ldm.errors import printable
from ldm.pictures.grid import to_picture

WIDE = 960  # px that a grid aims at: what a page shows
SMALLEST, LARGEST = 64, 128  # px that a small picture is enlarged to, about
GAP = 2  # px of white between pictures
TEXT, TITLE, SMALL = 14, 17, 11  # px of the letters; of headings with words that are too wide
LINES = 3  # of a text, then it is cut
NAMES = 110  # px at most of the rows' names
MOST = 16  # columns of one name each; of more, each picture has its own text
LONGEST = 300  # characters of a text that are measured


@dataclass(frozen=True)
class Labels:
    """What is written around a grid: `title` above all, `rows` at the left.

    captions: for each row, from the first on, the texts above its pictures; one row is headings.
    """

    title: str = ""
    captions: Sequence[Sequence[str]] = ()
    rows: Sequence[str] = ()


def labelled(images: Tensor, columns: int, labels: Labels) -> Image.Image:
    """Pictures (N, C, H, W) in a grid, small ones enlarged by a whole factor, with their labels.

    Of other than 1 or 3 channels, each is a grey picture beside the others, under one text.
    """
    channels = 1 if images.shape[1] in (1, 3) else images.shape[1]
    grid = to_picture(images, columns, side_of(max(images.shape[2:]), columns * channels))
    if len(images) == 1:
        grid = ImageOps.expand(grid, GAP, "white")  # as torchvision does with more than one
    rows = -(-len(images) // columns)
    step, height = (grid.width - GAP) // columns, (grid.height - GAP) // rows
    names = [wrapped(name, NAMES) for name in labels.rows] or [[]] * rows
    left = max((round(font().getlength(line)) + 8 for name in names for line in name), default=0)
    title = wrapped(labels.title, grid.width + left - 8, TITLE)
    strips = [_texts(grid.width + left, [(4, title)], TITLE)]
    for row in range(rows):
        texts = labels.captions[row] if row < len(labels.captions) else ()
        size = whole_words([word for text in texts for word in text.split()], step - 6)
        places = [(left + GAP + i * step, wrapped(t, step - 6, size)) for i, t in enumerate(texts)]
        strips.append(_texts(grid.width + left, places, size))
        piece = grid.crop((0, row * height, grid.width, (row + 1) * height + GAP))
        strips.append(_pictures(piece, names[row], left))
    return _stacked(strips)


def gallery(images: Tensor, names: Sequence[str] | None, title: str = "") -> Image.Image:
    """A grid of samples with a column for each name that comes in turn, and the names written.

    Of few names, several columns each, so that the grid is about square. Names in no turn, or of
    more than MOST, stand above each picture; a single one in the title.
    """
    names = list(names or [])[: len(images)]
    turn = period(names)
    if 1 < turn <= MOST:
        columns = turn * max(1, round(len(images) ** 0.5 / turn))
        return labelled(images, columns, Labels(title, [names[:columns]]))
    columns = max(1, round(len(images) ** 0.5))
    if turn <= 1:
        said = [part for part in (title, *names[:turn]) if part]
        return labelled(images, columns, Labels(": ".join(said)))
    rows = [names[i : i + columns] for i in range(0, len(names), columns)]
    return labelled(images, columns, Labels(title, rows))


def period(names: Sequence[str]) -> int:
    """After how many names the first follows again, all of them in turn; 0 of none."""
    fits = lambda n: all(name == names[i % n] for i, name in enumerate(names))  # noqa: E731
    return next((n for n in range(1, len(names) + 1) if fits(n)), 0)


def side_of(side: int, columns: int) -> int:
    """px of a picture's longer side in a grid of so many columns: a whole factor of its own."""
    aim = min(max(WIDE // columns, SMALLEST), LARGEST)
    return max(1, round(aim / side)) * side


@cache
def font(size: int = TEXT) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, the letters of our figures: Pillow's own have neither accents nor Greek."""
    (folder,) = getattr(find_spec("matplotlib"), "submodule_search_locations", None) or [""]
    # found, and not imported, which is slow
    return ImageFont.truetype(str(Path(folder, "mpl-data/fonts/ttf/DejaVuSans.ttf")), size)


def whole_words(words: Sequence[str], width: int) -> int:
    """px of letters, TEXT or a little smaller, with which no word has to be broken."""
    fits = lambda size: all(font(size).getlength(word[:LONGEST]) <= width for word in words)  # noqa: E731
    return next((size for size in range(TEXT, SMALL, -1) if fits(size)), SMALL)


def wrapped(text: str, width: int, size: int = TEXT, most: int = LINES) -> list[str]:
    """The text in lines of at most `width` px, broken between words where it can be, then cut."""
    fits = lambda line: font(size).getlength(line) <= width  # noqa: E731
    whole = printable(" ".join(text.split()))
    lines = [""]
    for word in whole[:LONGEST].split(" "):
        if lines[-1] and not fits(f"{lines[-1]} {word}"):
            lines.append("")
        lines[-1] += " " * bool(lines[-1]) + word
        while len(lines[-1]) > 1 and len(lines) <= most and not fits(lines[-1]):  # a wider word
            end = next(n for n in range(len(lines[-1]) - 1, 0, -1) if n == 1 or fits(lines[-1][:n]))
            lines[-1:] = [lines[-1][:end], lines[-1][end:]]
        if len(lines) > most:
            break
    if len(lines) <= most and len(whole) <= LONGEST:
        return lines if whole else []
    last = lines[:most][-1]
    while last and not fits(last + "..."):
        last = last[:-1]
    return [*lines[:most][:-1], last.rstrip() + "..."]


def _texts(width: int, places: Sequence[tuple[int, list[str]]], size: int = TEXT) -> Image.Image:
    """White, as high as the longest of the texts; each from its place on, shorter ones lower."""
    most = max((len(lines) for _, lines in places), default=0)
    strip = Image.new("RGB", (width, most * (size + 3) + 2 * bool(most)), "white")
    for x, lines in places:
        _write(strip, x, (most - len(lines)) * (size + 3), lines, size)
    return strip


def _pictures(piece: Image.Image, name: Sequence[str], left: int) -> Image.Image:
    """A row of the grid, its name in the middle of the `left` px before it."""
    strip = Image.new("RGB", (left + piece.width, piece.height), "white")
    strip.paste(piece, (left, 0))
    _write(strip, 4, (piece.height - len(name) * (TEXT + 3)) // 2, name, TEXT)
    return strip


def _write(picture: Image.Image, x: int, y: int, lines: Sequence[str], size: int) -> None:
    for i, line in enumerate(lines):
        ImageDraw.Draw(picture).text((x, y + i * (size + 3)), line, fill="black", font=font(size))


def _stacked(strips: Sequence[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)), "white")
    y = 0
    for strip in strips:
        whole.paste(strip, (0, y))
        y += strip.height
    return whole
