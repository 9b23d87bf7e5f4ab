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

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ldm.errors import Refusal
from ldm.pictures.transforms import Fit, Range, eight_bits, fitted, is_range, type_range, upright

PIXELS = 89_478_485  # Pillow's own limit: more are refused before they are decoded
GREY_MODES = ("1", "L", "LA", "La")  # and whatever has more than 8 bits
# formats known by their first bytes, then those known by the file's name; none that starts another
# program (EPS), draws (WMF), or is a stub
BY_BYTES = (
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
BY_NAME = (
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

# damaged files are reported here, once
warnings.filterwarnings("ignore", module=r"PIL\.")


class Unreadable(Exception):
    """A file that is no picture we can read; the message is the reason in a few words."""


class TooLarge(Unreadable):
    """More pixels than are decoded."""


@cache
def formats() -> tuple[str, ...]:
    """The formats of BY_BYTES and BY_NAME that this Pillow reads."""
    Image.init()
    return tuple(name for name in BY_BYTES + BY_NAME if name in Image.OPEN)


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
    """Whether a file begins as a picture does, whatever its name."""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
        checks = [Image.OPEN[name][1] for name in formats() if name in BY_BYTES]
        return any(accepts is not None and accepts(start) is True for accepts in checks)
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
    """The header of a picture, before it is decoded."""

    grey: bool
    deep: bool  # more than 8 bits a value
    range: Range | None  # of the values' type; None where it has none
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
        """uint8 or floats in [-1, 1], (C, H, W); the file's width and height, upright; its mode."""
        if self.shape[0] not in (1, 3):
            raise Unreadable(f"the model's pictures have {self.shape[0]} channels, files 1 or 3")
        with opened(path, pixels) as image:
            mode = image.mode
            if self.floats and mode.startswith(("I", "F")):
                image = self._as_floats(image)
            else:
                image = eight_bits(image, self.range, self.found)
                image = image.convert("L" if self.shape[0] == 1 else "RGB")
            size, array = image.size, np.array(fitted(image, self.size, self.fit))
        picture = torch.from_numpy(array).reshape(*self.shape[1:], -1).permute(2, 0, 1)
        return picture.expand(self.shape), size, mode

    def _as_floats(self, image: Image.Image) -> Image.Image:
        """A picture of more than 8 bits in [-1, 1], as a model of floats reads it."""
        low, high = self.range or (0.0, 1.0)
        values = np.nan_to_num(np.asarray(upright(image)).astype(np.float32))
        return Image.fromarray((2 * (values - low) / (high - low) - 1).clip(-1, 1))

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
            stated, found = (_range_of(about.get(key)) for key in ("range", "found"))
            fit, floats = about.get("fit", "crop"), about.get("floats", False)
            if fit not in ("crop", "pad") or type(floats) is not bool or (floats and not stated):
                raise ValueError
            channels, height, width = shape
            return cls((channels, height, width), fit, stated, found, floats)
        except (AttributeError, TypeError, ValueError):
            raise Refusal(
                f"checkpoint: {where} says how its pictures were read in a way that is not ldm's"
            ) from None


def _range_of(given: Any) -> Range | None:
    """Of a checkpoint; ValueError for what is none."""
    if not given:
        return None
    low, high = map(float, given)
    if not is_range((low, high)):
        raise ValueError
    return low, high
