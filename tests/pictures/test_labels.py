"""Grids that say what they show: a column for each name, the names written, pixels untouched."""

import numpy as np
import pytest
import torch
from helpers import grey, here
from PIL import Image

from ldm.pictures.labels import (
    GAP,
    LARGEST,
    LINES,
    SMALL,
    SMALLEST,
    TEXT,
    TITLE,
    Labels,
    font,
    gallery,
    labelled,
    period,
    side_of,
    whole_words,
    wrapped,
)

CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Bag", "Ankle boot"]


def shades(count, names, side=28):
    """uint8 pictures of one grey value each, its name's place in `names`."""
    values = torch.tensor([10 + 20 * (i % names) for i in range(count)], dtype=torch.uint8)
    return values[:, None, None, None].expand(-1, 1, side, side)


def cells(picture, columns, rows, side):
    """The middles of all pictures, from below: (rows, columns)."""
    pixels = np.asarray(picture.convert("L"), int)
    down = [pixels.shape[0] - GAP - side // 2 - (rows - 1 - r) * (side + GAP) for r in range(rows)]
    # a row brings the white below it along
    down = [y - GAP * (rows - 1 - r) for r, y in enumerate(down)]
    across = [pixels.shape[1] - (columns - c) * (side + GAP) + side // 2 for c in range(columns)]
    return pixels[np.ix_(down, across)]


def written(picture, box):
    """How many pixels of letters lie in a box."""
    return int((np.asarray(picture.crop(box).convert("L")) < 128).sum())


def test_a_class_has_a_column_and_its_name_stands_above_it():
    n, count = len(CLOTHES), 3 * len(CLOTHES)
    picture = gallery(shades(count, n), [CLOTHES[i % n] for i in range(count)], "Samples")
    side = side_of(28, n)
    assert side == 140 // 28 * 28
    assert (cells(picture, n, 3, side) == [[10 + 20 * i for i in range(n)]] * 3).all()
    plain = gallery(shades(count, n), None)
    assert plain.height == len(range(0, count, 5)) * (side_of(28, 5) + 2 * GAP)  # and no text
    step, top = side + GAP, picture.height - 3 * (side + 2 * GAP)
    for i, name in enumerate(CLOTHES):
        box = (GAP + i * step, 20, GAP + (i + 1) * step, top)
        assert written(picture, box) > 5 * len(name.replace(" ", "")), name
    assert written(picture, (0, 0, picture.width, 20)) > 40  # the title
    short = gallery(shades(count - 2, n), [CLOTHES[i % n] for i in range(count - 2)])
    assert cells(short, n, 3, side)[2, n - 2 :].tolist() == [255, 255]


def test_few_classes_have_several_columns_each():
    """About a square, in the order of the seeds."""
    picture = gallery(shades(64, 4), ["a", "b", "c", "d"] * 16, "Samples at seeds 0 to 63")
    shown = cells(picture, 8, 8, side_of(28, 8))
    assert (shown == [[10 + 20 * (i % 4) for i in range(8)]] * 8).all()
    assert 0.8 < picture.width / picture.height < 1.25


def test_captions_of_many_classes_stand_above_each_picture():
    names = [f"class {i}" for i in range(20)]
    picture = gallery(shades(20, 5, side=8), names)
    plain = gallery(shades(20, 5, side=8), None)
    assert picture.width == plain.width and picture.height - plain.height == 5 * (TEXT + 5)
    one = gallery(shades(9, 1, side=8), ["Bag"] * 9)
    assert one.height - gallery(shades(9, 1, side=8), None).height == TITLE + 5  # in the title


@pytest.mark.parametrize(
    ("names", "turn"), [("", 0), ("aaa", 1), ("abcabc", 3), ("abcab", 3), ("abca", 3), ("abcad", 5)]
)
def test_whose_turn_it_is(names, turn):
    assert period(names) == turn


@pytest.mark.parametrize("side", [1, 8, 28, 32, 64, 100, 256])
@pytest.mark.parametrize("columns", [1, 4, 10, 40])
def test_small_pictures_are_enlarged_by_whole_factors(side, columns):
    shown = side_of(side, columns)
    assert shown % side == 0
    assert shown == side or SMALLEST / 2 < shown <= 1.5 * LARGEST
    noise = torch.randint(0, 256, (columns, 1, side, side), dtype=torch.uint8)
    picture = labelled(noise, columns, Labels("Noise", [["a"] * columns], ["row"]))
    for i, one in enumerate(noise):
        right = picture.width - (columns - i) * (shown + GAP)
        seen = picture.crop(
            (right, picture.height - GAP - shown, right + shown, picture.height - GAP)
        )
        exact = Image.fromarray(one[0].numpy()).resize((shown, shown), Image.Resampling.NEAREST)
        assert np.array_equal(np.asarray(seen.convert("L")), np.asarray(exact))


@pytest.mark.parametrize(
    "text",
    ["", "short", "a red heart on a white ground with two yellow arrows through it", "x" * 400,
     "a\nb\tc", "\x1b[31mred\u202e", "\udcff", "größer café Ж ñ", " " * 500, "word " * 200],
)  # fmt: skip
@pytest.mark.parametrize("width", [12, 60, 200])
def test_text_stays_in_its_place(text, width):
    lines = wrapped(text, width)
    assert len(lines) <= LINES and all(font().getlength(line) <= max(width, 24) for line in lines)
    assert bool(lines) == bool(text.strip())
    if width == 200 and len(text) < 12 and text.isascii() and text.isprintable():
        assert " ".join(lines) == text
    labelled(shades(2, 2), 2, Labels(text, [[text, "b"]], [text]))


def test_words_of_narrow_columns_are_not_broken():
    assert whole_words(["a", "heart"], 60) == TEXT > whole_words(["mushroom"], 60) >= SMALL
    assert whole_words(["x" * 1000], 60) == SMALL
    assert wrapped("mushroom", 60, whole_words(["mushroom"], 60)) == ["mushroom"]


def test_letters_have_accents():
    boxes = {char: font().getmask(char).getbbox() for char in "é\uffff"}
    marks = [bytes(font().getmask(char)) for char in "éßñα\uffff"]
    assert len(set(marks)) == len(marks) and all(boxes.values())


def test_the_grid_of_samples_has_its_classes_and_the_samples_stay_as_they_are(pixel_run, tmp_path):
    """10 classes, 12 samples: 10 columns; the files hold what the model made, at its own size."""
    import ldm

    done = here("sample.py", "--checkpoint", pixel_run, "--output", tmp_path / "a", "--count", 12)
    assert done.returncode == 0, done.stderr
    made = ldm.load(pixel_run).sample(12, seed=0)
    for i, image in enumerate(made):
        assert np.array_equal(grey(tmp_path / "a" / f"{i:08d}.png"), image[0].numpy())
    with Image.open(tmp_path / "a" / "grid.png") as grid:
        side = side_of(8, 10)
        assert grid.width == 10 * (side + GAP) + GAP and grid.height > 2 * (side + GAP) + 35
        shown = cells(grid, 10, 2, side)
    middle = made[:, 0, 4, 4].tolist()
    assert shown.tolist() == [middle[:10], [*middle[10:], *[255] * 8]]
