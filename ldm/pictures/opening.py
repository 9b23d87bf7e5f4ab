"""The one place where a picture is opened: any file -> 8 bits, upright, of the model's size.

Training, tasks and the page all read by a `View`, so that what a model was trained on is what it is
given later.

- Upright: the EXIF orientation is obeyed, all eight of them.
- 16 bits: 0 ... 65535 (12-bit TIFF: 0 ... 4095) become 0 ... 255. 32 bits and floats have no range
  of their own: it is stated (`data.range`), or found once over the whole set. What is not finite
  becomes the range's nearer end, NaN black.
- Transparency lies on white. Palettes become colours. Of an animation or a stack, the first frame.
- A colour profile that is not sRGB is converted to sRGB; one that cannot be used is not. CMYK
  without one: Pillow's way.
"""

import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from ldm.errors import Refusal

Range = tuple[float, float]
Fit = Literal["crop", "pad"]

PIXELS = 89_478_485  # Pillow's own limit: more are refused before they are decoded
GREY_MODES = ("1", "L", "LA", "La")  # and whatever has more than 8 bits
# those that are told by their first bytes, then those of which the name must tell; none that starts
# another program (EPS), draws (WMF), or is a stub
TOLD = (
    "PNG",
    "JPEG",
    "MPO",
    "GIF",
    "WEBP",
    "AVIF",
    "TIFF",
    "BMP",
    "JPEG2000",
    "PSD",
    "QOI",
    "ICO",
    "ICNS",
    "DDS",
)
NAMED = (
    "PPM",
    "DIB",
    "TGA",
    "PCX",
    "SGI",
    "SUN",
    "XBM",
    "XPM",
    "CUR",
    "IM",
    "MSP",
    "FITS",
    "DCX",
    "BLP",
    "FTEX",
    "PIXAR",
)
# sides' ratio beyond which a picture is cut before it is scaled: a line of a million pixels is no
# square of them
LONGEST = 16

# what matters of a damaged file is said by us, once
warnings.filterwarnings("ignore", module=r"PIL\.")


class Unreadable(Exception):
    """A file that is no picture we can read; the message is the reason in a few words."""


class TooLarge(Unreadable):
    """More pixels than are decoded."""


@cache
def formats() -> tuple[str, ...]:
    """What this Pillow reads of TOLD and NAMED."""
    Image.init()
    return tuple(name for name in TOLD + NAMED if name in Image.OPEN)


@cache
def extensions() -> tuple[str, ...]:
    """The ends of names that mean a picture, .png first."""
    known = {end for end, name in Image.registered_extensions().items() if name in formats()}
    first = (
        ".png",
        ".jpg",
        ".jpeg",
        ".webp",
        ".avif",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".jfif",
        ".ico",
    )
    return (*(end for end in first if end in known), *sorted(known - set(first)))


def looks_like(path: Path) -> bool:
    """Whether a file whose name does not say it begins as a picture does."""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
        return any(Image.OPEN[name][1](start) is True for name in formats() if name in TOLD)
    except (OSError, IndexError):
        return False


@contextmanager
def opened(path: Path, pixels: int = PIXELS) -> Iterator[Image.Image]:
    """A file as Pillow opens it, nothing decoded.

    Unreadable for what goes wrong now or inside the `with`. A pipe or a device is not waited for.
    Decoders of damaged files raise whatever they meet, so all of it is caught here.
    """
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode) or not about.st_size:
            raise Unreadable("empty" if stat.S_ISREG(about.st_mode) else "not a file")
        with open(path, "rb") as file, Image.open(file, formats=formats()) as image:
            if image.width * image.height > pixels:
                raise Image.DecompressionBombError
            yield image
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("not a picture that can be read") from None
    except Image.DecompressionBombError:
        raise TooLarge(f"more than {pixels / 1e6:.3g} million pixels") from None
    except MemoryError:
        raise Unreadable("too large for the memory") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the disk's, not a decoder's
            raise Unreadable(error.strerror) from None
        said = str(error).strip() or type(error).__name__
        raise Unreadable(f"damaged, or of an unknown kind: {said.splitlines()[0]}") from None


@dataclass(frozen=True, slots=True)
class Head:
    """What a file says of its picture before it is decoded."""

    grey: bool
    deep: bool  # more than 8 bits a value
    range: Range | None  # of the values' type; None where it says nothing
    frames: bool  # more than one
    shorter: int  # side

    @classmethod
    def of(cls, path: Path) -> "Head":
        """Unreadable where it cannot be had."""
        with opened(path) as image:
            deep = image.mode.startswith(("I", "F"))
            return cls(
                deep or image.mode in GREY_MODES,
                deep,
                type_range(image),
                _several(image),
                min(image.size),
            )


def _several(image: Image.Image) -> bool:
    """Whether it is an animation or a stack; a phone's second picture, and layers, are not."""
    try:
        return image.format not in ("MPO", "PSD") and bool(getattr(image, "is_animated", False))
    except Exception:  # the second frame is damaged, which is no matter
        return True


def type_range(image: Image.Image) -> Range | None:
    """What the type of the values spans; None for 32 bits and floats, which nothing uses whole."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PPM", "PNG")):
        return None
    bits = getattr(image, "tag_v2", {}).get(258, (16,))
    return (0.0, 4095.0) if image.mode.startswith("I") and tuple(bits) == (12,) else (0.0, 65535.0)


def finite_range(path: Path) -> Range | None:
    """Smallest and largest finite value of a picture; None if it has none."""
    with opened(path) as image:
        array = np.asarray(image)
        array = array[np.isfinite(array)]
        return (float(array.min()), float(array.max())) if array.size else None


@dataclass(frozen=True)
class View:
    """How a file becomes a picture (C, H, W) of the model; kept in its checkpoint.

    fit: crop scales until the picture covers the model's size and cuts the centre; pad scales until
    all of it fits, white around. range: what is black and what is white in pictures of more than 8
    bits, where it was stated; else it is that of their type, and `found`, measured over the set,
    where the type has none. floats: the model's data are floats, -1 and 1 being the ends of
    `range`, and so are its samples.
    """

    shape: tuple[int, int, int]
    fit: Fit = "crop"
    range: Range | None = None
    found: Range | None = None
    # not in the repr, which names what was computed of folders
    floats: bool = field(default=False, repr=False)

    def read(self, path: Path) -> Tensor:
        """uint8 (C, H, W); Unreadable where the file cannot be."""
        return self.load(path)[0]

    def load(self, path: Path, pixels: int = PIXELS) -> tuple[Tensor, tuple[int, int], str]:
        """uint8 (C, H, W), and of the file: width and height, upright, and its mode."""
        with opened(path, pixels) as image:
            mode, image = image.mode, eight_bits(image, self.range, self.found)
            size, image = image.size, image.convert("L" if self.shape[0] == 1 else "RGB")
            array = np.array(fitted(image, self.size, self.fit))
        return (
            torch.from_numpy(array).reshape(*self.shape[1:], self.shape[0]).permute(2, 0, 1),
            size,
            mode,
        )

    @property
    def span(self) -> Range | None:
        """What -1 and 1 are, of a model of floats."""
        return self.range if self.floats else None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.shape[2], self.shape[1]

    def scaled(self, size: tuple[int, int]) -> "View":
        """The same of another height and width."""
        return replace(self, shape=(self.shape[0], *size))

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint, whose shape is in it already."""
        ranges = {k: list(v) if (v := getattr(self, k)) else None for k in ("range", "found")}
        return {"fit": self.fit} | ranges | ({"floats": True} if self.floats else {})

    @classmethod
    def of(cls, shape: tuple[int, ...], about: Any, where: str) -> "View":
        """From a checkpoint's dict, or nothing in an old one; Refusal where it is none of ours."""
        try:
            about = about or {}
            ranges = [tuple(map(float, about.get(key) or ())) for key in ("range", "found")]
            if about.get("fit", "crop") not in ("crop", "pad") or not all(
                is_range(r) for r in ranges if r
            ):
                raise ValueError
            floats = about.get("floats", False)
            if type(floats) is not bool or (floats and not ranges[0]):
                raise ValueError
            return cls(tuple(shape), about.get("fit", "crop"), *(r or None for r in ranges), floats)
        except (AttributeError, TypeError, ValueError):
            raise Refusal(
                f"checkpoint: {where} says how its pictures were read in a way that is not ldm's"
            ) from None


def is_range(given: tuple[float, ...]) -> bool:
    """Two finite numbers, the smaller first."""
    return len(given) == 2 and all(map(math.isfinite, given)) and given[0] < given[1]


# -- what is done to a picture
def eight_bits(
    image: Image.Image,
    stated: Range | None = None,
    found: Range | None = None,
    ground: str = "white",
) -> Image.Image:
    """An opened picture decoded, upright, of 8 bits, transparency on `ground`, colours of sRGB."""
    if image.mode.startswith(("I", "F")):
        low_high = stated or type_range(image) or found
        return Image.fromarray(_stretched(np.asarray(upright(image)), low_high))
    image = upright(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        profile = image.info.get("icc_profile")
        image = _srgb(image.convert("RGBA"), profile)
        return Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    return _srgb(image, image.info.get("icc_profile"))


def upright(image: Image.Image) -> Image.Image:
    """As the EXIF orientation says; damaged EXIF says nothing."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # its parser, too, raises whatever it meets
        return image


def _stretched(array: np.ndarray, low_high: Range | None) -> np.ndarray:
    """Values from low ... high to 0 ... 255, clipped.

    Of the picture itself where no range is known.
    """
    finite = np.isfinite(array)
    if low_high is None:
        low_high = (
            (float(array[finite].min()), float(array[finite].max())) if finite.any() else (0.0, 1.0)
        )
    low, high = low_high
    scaled = np.subtract(array, low, dtype=np.float64)
    scaled *= 255 / max(high - low, np.finfo(float).tiny)
    return np.nan_to_num(scaled, nan=0, posinf=255, neginf=0).clip(0, 255).round().astype(np.uint8)


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours of a profile (Display P3, Adobe RGB, a press' CMYK) as sRGB.

    As they are where it cannot be used.
    """
    if image.mode == "LAB":
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), _srgb_profile(), outputMode="RGB"
        )
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        to = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, source, _srgb_profile(), outputMode=to)
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
        return image


@cache
def _srgb_profile() -> Any:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def fitted(
    image: Image.Image,
    size: tuple[int, int],
    fit: Fit,
    fill: str = "white",
    by: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """Scaled to `size` (width, height): covering it and cut, or inside it and padded by `fill`."""
    image = _shortened(image, size) if fit == "crop" else image
    (width, height), scales = size, (size[0] / image.width, size[1] / image.height)
    scale = max(scales) if fit == "crop" else min(scales)
    sides = [round(side * scale) for side in image.size]
    sides = [
        max(a, b) if fit == "crop" else min(max(a, 1), b) for a, b in zip(sides, size, strict=True)
    ]
    image = image.resize(sides, by, reducing_gap=3)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    if fit == "crop":
        return image.crop((left, top, left + width, top + height))
    canvas = Image.new(image.mode, size, fill)
    canvas.paste(image, (-left, -top))
    return canvas


def _shortened(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of a picture LONGEST times longer than what it is to cover: no more is seen."""
    most = [
        math.ceil(LONGEST * other * mine / its)
        for other, mine, its in zip(image.size[::-1], size, size[::-1], strict=True)
    ]
    left, top = (max(0, side - limit) // 2 for side, limit in zip(image.size, most, strict=True))
    return image.crop((left, top, image.width - left, image.height - top)) if left or top else image
