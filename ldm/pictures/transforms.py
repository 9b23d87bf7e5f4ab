"""What is done to an opened picture: 8 bits a value, upright, sRGB, of the model's size."""

import math
from functools import cache
from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageCms, ImageOps

Range = tuple[float, float]
Fit = Literal["crop", "pad"]
# sides' ratio beyond which a picture is cut before it is scaled: a line of a million pixels is no
# square of them
LONGEST = 16


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


def type_range(image: Image.Image) -> Range | None:
    """What the type of the values spans; None for 32 bits and floats, which nothing uses whole."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PPM", "PNG")):
        return None
    bits = getattr(image, "tag_v2", {}).get(258, (16,))
    return (0.0, 4095.0) if image.mode.startswith("I") and tuple(bits) == (12,) else (0.0, 65535.0)


def is_range(given: tuple[float, ...]) -> bool:
    """Two finite numbers, the smaller first."""
    return len(given) == 2 and all(map(math.isfinite, given)) and given[0] < given[1]


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; damaged EXIF is ignored."""
    image.load()
    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:  # its parser, too, raises whatever it meets
        return image


def _stretched(array: np.ndarray, low_high: Range | None) -> np.ndarray:
    """Values from low ... high (by default the picture's own) to 0 ... 255, clipped."""
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
    """Colours of a profile (Display P3, a press' CMYK) as sRGB, where it can be used."""
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, lab, _srgb_profile(), outputMode="RGB")
        return converted or image
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        to = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, source, _srgb_profile(), outputMode=to) or image
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
