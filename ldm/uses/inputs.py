"""Pictures and masks from files, for a model of one shape; what does not fit is one line that says the sizes."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ldm.data.folders import EXTENSIONS
from ldm.errors import Refusal

COLOURS = {1: "grey", 3: "RGB"}


def files(path: str, flag: str) -> list[Path]:
    """The file, or the pictures of a folder, sorted."""
    found = Path(path)
    if found.is_file():
        return [found]
    if not found.is_dir():
        raise Refusal(f"{flag}: '{path}' is neither a file nor a folder")
    inside = sorted(p for p in found.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not inside:
        raise Refusal(f"{flag}: the folder '{path}' holds no pictures ({' '.join(EXTENSIONS)})")
    return inside


def masks_for(images: list[Path], path: str) -> list[Path]:
    """One mask for all, or from a folder the one of each picture's name, whatever its suffix."""
    masks = files(path, "--mask")
    if Path(path).is_file():
        return masks * len(images)
    by_name = {mask.stem: mask for mask in masks}
    lacking = [image.name for image in images if image.stem not in by_name]
    if lacking:
        raise Refusal(
            f"--mask: the folder '{path}' lacks a mask for {len(lacking)} of {len(images)} pictures, {lacking[0]} first"
        )
    return [by_name[image.stem] for image in images]


def _open(path: Path, flag: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except UnidentifiedImageError:
        raise Refusal(f"{flag}: {path} is not a picture that can be read") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Refusal(f"{flag}: {path} is damaged ({error}); get it again") from None


def _channels(image: Image.Image) -> int:
    """1 for grey, 3 for colours, without an opaque alpha; 0 for what cannot be told."""
    mode = image.mode
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return 3 if np.asarray(image.convert("RGBA"))[..., 3].min() == 255 and mode == "RGBA" else 0
    return {"1": 1, "L": 1, "RGB": 3, "P": 3, "CMYK": 3, "YCbCr": 3}.get(mode, 0)


def read_picture(path: Path, channels: int, sizes: list[tuple[int, int]], hint: str) -> Tensor:
    """A picture as (C, H, W) in [-1, 1], of one of `sizes` (H, W); Refusal with the sizes and `hint` where it is not."""
    image = _open(path, "--image")
    if _channels(image) != channels:
        raise Refusal(
            f"--image: {path} is of mode {image.mode}, the model makes {COLOURS.get(channels, f'{channels}-channel')} pictures "
            f"of {channels} channel{'s' * (channels > 1)} of 8 bits; convert it first, transparency off"
        )
    if (image.height, image.width) not in sizes:
        wanted = " or ".join(f"{w} x {h}" for h, w in sizes)
        raise Refusal(f"--image: {path} is {image.width} x {image.height} pixels (width x height), {wanted} needed; {hint}")
    pixels = torch.from_numpy(np.array(image.convert("L" if channels == 1 else "RGB")))
    return pixels.reshape(image.height, image.width, channels).permute(2, 0, 1).float() / 127.5 - 1


def read_mask(path: Path, size: tuple[int, int]) -> Tensor:
    """White where to paint, black where the picture is known -> known, (1, H, W) of 0 and 1."""
    mask = np.asarray(_open(path, "--mask").convert("L"))
    if mask.shape != size:
        raise Refusal(
            f"--mask: {path} is {mask.shape[1]} x {mask.shape[0]} pixels (width x height), the picture {size[1]} x {size[0]}; "
            "make the mask of the picture's size"
        )
    values = np.unique(mask)
    if not set(values.tolist()) <= {0, 255}:
        grey = next(v for v in values if v not in (0, 255))
        raise Refusal(f"--mask: {path} is not binary (it has grey {grey}); white (255) where to paint, black (0) elsewhere")
    if len(values) == 1:
        what = "black: nothing to paint" if values[0] == 0 else "white: nothing is known; sample without --task"
        raise Refusal(f"--mask: {path} is all {what}")
    return torch.from_numpy((mask == 0).astype(np.float32))[None]
