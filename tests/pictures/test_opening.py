"""The one opener: every kind of file becomes the picture that a person sees, or is named; nothing
hangs, nothing swells.
"""

import os

import numpy as np
import pytest
from picture_files import RAMP, bad_files, tiff
from PIL import Image, ImageCms

from ldm.errors import Refusal
from ldm.pictures.opening import Head, TooLarge, Unreadable, View, extensions, finite_range

GREY, COLOUR = View((1, 8, 8)), View((3, 8, 8))
UPRIGHT = np.full((8, 8), 40, np.uint8)
UPRIGHT[0, :4], UPRIGHT[4:, 0] = 250, 150  # no turn or mirror of it is the same
# what a camera stores of the upright picture, by its tag (EXIF 2.3, table 6)
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("tag", STORED)
@pytest.mark.parametrize("end", ["png", "tiff", "webp", "jpg"])
def test_pictures_stand_upright(tmp_path, tag, end):
    exif = Image.Exif()
    exif[274] = tag
    stored = Image.fromarray(np.ascontiguousarray(STORED[tag](UPRIGHT)))
    lossless = {"webp": {"lossless": True}, "jpg": {"quality": 100}}.get(end, {})
    (stored.convert("RGB") if end == "webp" else stored).save(
        tmp_path / f"a.{end}", exif=exif, **lossless
    )
    found = GREY.read(tmp_path / f"a.{end}")[0].numpy().astype(int)
    assert np.abs(found - UPRIGHT).max() <= (25 if end == "jpg" else 1)


def test_an_upright_picture_is_not_square(tmp_path):
    """Its sides are those of the upright one: the crop is of the right side."""
    wide = np.zeros((10, 40), np.uint8)
    wide[:, 15:25] = 255
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(wide).save(tmp_path / "a.png", exif=exif)
    pixels, size, mode = GREY.load(tmp_path / "a.png")
    assert size == (10, 40) and mode == "L" and (pixels > 240).all()


def test_damaged_exif_turns_nothing(tmp_path):
    Image.fromarray(UPRIGHT).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(GREY.read(tmp_path / "a.png")[0], UPRIGHT)


@pytest.mark.parametrize("end", ["png", "tiff", "pgm", "jp2"])
def test_sixteen_bits_have_one_range(tmp_path, end):
    """A dark picture stays dark beside a bright one."""
    for name, top in (("dark", 6553.5), ("bright", 65535)):
        values = (RAMP * top).astype(np.uint16)
        if end == "pgm":
            (tmp_path / f"{name}.pgm").write_bytes(
                b"P5 8 8 65535\n" + values.astype(">u2").tobytes()
            )
        else:
            Image.fromarray(values).save(
                tmp_path / f"{name}.{end}", **({"irreversible": False} if end == "jp2" else {})
            )
    assert 24 <= GREY.read(tmp_path / f"dark.{end}").max() <= 27
    bright = GREY.read(tmp_path / f"bright.{end}")[0].numpy()
    assert np.abs(bright - RAMP * 255).max() <= 1
    assert Head.of(tmp_path / f"dark.{end}").range == (0, 65535)


def test_big_endian_sixteen_bits(tmp_path):
    tiff(tmp_path / "a.tif", (RAMP * 65535).astype(">u2"), 16, 1, ">")
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode == "I;16B"
    assert np.abs(GREY.read(tmp_path / "a.tif")[0].numpy() - RAMP * 255).max() <= 1


def test_twelve_bits_fill_their_range(tmp_path):
    values = (RAMP * 4095).astype(int).reshape(-1, 2)
    raw = b"".join((a << 12 | b).to_bytes(3, "big") for a, b in values.tolist())
    tiff(tmp_path / "a.tif", RAMP, 12, 1, raw=raw)
    assert Head.of(tmp_path / "a.tif").range == (0, 4095)
    assert np.abs(GREY.read(tmp_path / "a.tif")[0].numpy() - RAMP * 255).max() <= 1


@pytest.mark.parametrize("bits, kind, type_", [(32, 3, "<f4"), (32, 2, "<i4")])
def test_types_without_a_range_are_read_by_that_of_the_set(tmp_path, bits, kind, type_):
    for name, top in (("dark", 100), ("bright", 1000)):
        tiff(tmp_path / f"{name}.tif", (RAMP * top).astype(type_), bits, kind)
    assert Head.of(tmp_path / "dark.tif").range is None and finite_range(
        tmp_path / "bright.tif"
    ) == (0, 1000)
    view = View((1, 8, 8), found=(0, 1000))
    assert (
        24 <= view.read(tmp_path / "dark.tif").max() <= 27
        and view.read(tmp_path / "bright.tif").max() == 255
    )
    assert (
        View((1, 8, 8), range=(0, 100)).read(tmp_path / "bright.tif")[0, 1:].min() > 200
    )  # stated: clipped


def test_what_is_not_finite_blackens_nothing_else(tmp_path):
    values = RAMP.astype("<f4") * 10
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    tiff(tmp_path / "a.tif", values, 32, 3)
    low, high = finite_range(tmp_path / "a.tif")
    assert high == 10 and 0 < low < 1
    for view in (GREY, View((1, 8, 8), found=(0, 10))):
        found = view.read(tmp_path / "a.tif")[0].numpy()
        assert (found[0, :3] == (0, 255, 0)).all() and np.abs(found[1:] - RAMP[1:] * 255).max() < 14
    tiff(tmp_path / "none.tif", np.full((8, 8), np.nan, "<f4"), 32, 3)
    assert (
        finite_range(tmp_path / "none.tif") is None
        and (GREY.read(tmp_path / "none.tif") == 0).all()
    )


# -- modes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB"])
def test_every_mode_shows_its_colour(tmp_path, mode):
    """A white picture with a black half, through each mode and back."""
    array = np.full((8, 8, 3), 255, np.uint8)
    array[4:] = 0
    image = Image.fromarray(array)
    if mode == "LAB":
        image = ImageCms.profileToProfile(
            image, *map(ImageCms.createProfile, ("sRGB", "LAB")), outputMode="LAB"
        )
    end = "png" if mode in ("1", "L", "LA", "P", "RGB", "RGBA") else "tif"
    (image if mode == "LAB" else image.convert(mode)).save(tmp_path / f"a.{end}")
    for view in (GREY, COLOUR):
        found = view.read(tmp_path / f"a.{end}").numpy().astype(int)
        assert found[:, :4].min() > 235 and found[:, 4:].max() < 40
    assert Head.of(tmp_path / f"a.{end}").grey == (mode in ("1", "L", "LA"))


def test_a_transparent_palette_lies_on_white(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.paste(1, (0, 0, 8, 4))
    image.save(tmp_path / "a.png", transparency=0)
    found = COLOUR.read(tmp_path / "a.png")
    assert (found[:, 0, 0].tolist(), found[:, 7, 0].tolist()) == ([255, 0, 0], [255, 255, 255])


@pytest.mark.parametrize("end", ["gif", "webp", "png", "tif"])
def test_the_first_frame_is_taken(tmp_path, end):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    first.save(
        tmp_path / f"a.{end}",
        save_all=True,
        append_images=[second],
        **({"lossless": True} if end == "webp" else {}),
    )
    assert Head.of(tmp_path / f"a.{end}").frames
    red, green, blue = COLOUR.read(tmp_path / f"a.{end}").float().mean((1, 2))
    assert red > 250 and green < 5 and blue < 5


def test_a_colour_profile_is_obeyed(tmp_path):
    """Red and green swapped by a profile of our own; sRGB's own changes no bit, and a damaged one
    does nothing.
    """
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in (("plain", b""), ("srgb", srgb), ("bad", b"no profile")):
        image.save(tmp_path / f"{name}.png", icc_profile=profile)
    plain = COLOUR.read(tmp_path / "plain.png")
    assert (COLOUR.read(tmp_path / "srgb.png") == plain).all() and (
        COLOUR.read(tmp_path / "bad.png") == plain
    ).all()
    swapped = (
        srgb.replace(b"rXYZ", b"____")
        .replace(b"gXYZ", b"rXYZ")
        .replace(b"____", b"gXYZ")
        .replace(b"s\0R\0G\0B", b"o\0t\0h\0r")
    )
    image.save(tmp_path / "swapped.png", icc_profile=swapped.replace(b"sRGB", b"othr"))
    found = COLOUR.read(tmp_path / "swapped.png").int()
    assert (
        (found - plain[[1, 0, 2]].int()).abs().float().mean()
        < 3
        < (found - plain.int()).abs().float().mean()
    )


@pytest.mark.parametrize(
    "end",
    ["png", "jpg", "jfif", "webp", "avif", "gif", "bmp", "tif", "ico", "ppm", "jp2", "tga", "qoi"],
)
def test_whatever_pillow_reads(tmp_path, end):
    if f".{end}" not in extensions():
        pytest.skip(f"this Pillow reads no {end}")
    image = Image.new("RGB", (16, 16), (200, 40, 40))
    image.save(tmp_path / f"a.{end}")
    assert (
        COLOUR.read(tmp_path / f"a.{end}").float().mean((1, 2)) - np.array([200, 40, 40])
    ).abs().max() < 12


# -- size ------------------------------------------------------------------------------------------
def test_crop_fills_and_pad_keeps_all(tmp_path):
    wide = np.full((10, 40), 100, np.uint8)
    wide[:, :10] = wide[:, 30:] = 0
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.T).save(tmp_path / "tall.png")
    assert (GREY.read(tmp_path / "wide.png") == 100).all()
    padded = View((1, 8, 8), "pad").read(tmp_path / "wide.png")[0]
    assert (padded[:3] == 255).all() and (padded[5:] == 255).all()
    assert padded[3, 0] < 20 and 90 <= padded[3, 4] <= 110
    assert (padded == View((1, 8, 8), "pad").read(tmp_path / "tall.png")[0].T).all()
    assert View((1, 4, 8)).read(tmp_path / "wide.png").shape == (1, 4, 8)  # H, W


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_line_of_a_million_pixels_is_a_small_picture(tmp_path, fit):
    """1,048 bytes: scaled as a whole to cover 64 x 64 it would be 64,000,000 pixels wide."""
    Image.new("1", (1_000_000, 1)).save(tmp_path / "line.png")
    before = Image.Image.resize
    seen = []
    try:
        Image.Image.resize = lambda self, size, *a, **k: (
            seen.append(size) or before(self, size, *a, **k)
        )
        assert View((1, 64, 64), fit).read(tmp_path / "line.png").shape == (1, 64, 64)
    finally:
        Image.Image.resize = before
    assert max(side for size in seen for side in size) <= 64 * 17


def test_whatever_cannot_be_read_says_why_in_one_line(tmp_path):
    for name in bad_files(tmp_path):
        with pytest.raises(Unreadable) as error:
            GREY.read(tmp_path / name)
        assert str(error.value) and "\n" not in str(error.value), name
    for name in ("bomb.png", "above.png"):
        with pytest.raises(TooLarge, match=r"more than 89.5 million pixels"):
            Head.of(tmp_path / name)


def test_a_name_that_is_no_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(path, "wb") as file:
        Image.new("L", (8, 8), 7).save(file, "png")
    (found,) = tmp_path.iterdir()
    assert (GREY.read(found) == 7).all()


def test_a_view_survives_its_checkpoint_and_no_other_does(tmp_path):
    for view in (GREY, View((3, 4, 6), "pad", (0, 4095)), View((1, 2, 2), "crop", None, (-1.5, 3))):
        assert View.of(view.shape, view.to_dict(), "x") == view
    assert View.of((1, 8, 8), None, "an old one") == GREY
    for wrong in (
        {"fit": "melt"},
        {"range": [1, 1]},
        {"range": ["nan", 1]},
        {"found": "no"},
        {"range": [1]},
        [1],
        {"range": 3},
    ):
        with pytest.raises(Refusal, match="x says how its pictures were read"):
            View.of((1, 8, 8), wrong, "x")
