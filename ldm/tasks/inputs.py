"""Pictures and masks from files, read as in training; what is done to them is said."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.errors import Refusal, printable, say
from ldm.pictures.listing import Notes, listing
from ldm.pictures.opening import Unreadable, View, opened
from ldm.pictures.transforms import eight_bits, fitted
from ldm.sampling.model import Model
from ldm.system.batches import as_floats

# by which the sides' ratio of a mask may differ from its picture's: whole pixels of small ones do
SAME_SHAPE = 0.02


@dataclass(frozen=True)
class InputPicture:
    """A picture of the user's: what it became, (C, H, W) in [-1, 1]; its width and height."""

    path: Path
    pixels: Tensor
    size: tuple[int, int]


def view_of(model: Model) -> View:
    """How a model's pictures are read, as in training."""
    channels, height, width = model.space.data_shape
    return model.view or View((channels, height, width))


def _warn(line: str) -> None:
    """One line, whatever is in a file's name."""
    say(printable(line))


def files(path: str, flag: str) -> list[Path]:
    """The file, or the pictures of a folder, sorted; what else lies there is said."""
    found = Path(path)
    if found.is_file():
        return [found]
    if not found.is_dir():
        raise Refusal(f"{flag}: '{path}' is neither a file nor a folder")
    inside = listing(found, notes := Notes(found), deep=False)
    if not inside.pictures:
        there = f" (there: {inside.kinds()})" if inside.others else ""
        raise Refusal(f"{flag}: the folder '{path}' holds no pictures{there}")
    for line in notes.lines() + ([f"not read: {inside.kinds()}"] if inside.others else []):
        _warn(f"{flag}: {path}: {line}")
    return inside.pictures


def masks_for(images: list[Path], path: str) -> list[Path]:
    """One mask for all, or from a folder the one of each picture's name, whatever its suffix."""
    masks = files(path, "--mask")
    if Path(path).is_file():
        return masks * len(images)
    by_name = {mask.stem: mask for mask in masks}
    if twice := [name for name, n in Counter(mask.stem for mask in masks).items() if n > 1]:
        raise Refusal(f"--mask: the folder '{path}' holds two masks called {twice[0]}; keep one")
    lacking = [image.name for image in images if image.stem not in by_name]
    if lacking:
        raise Refusal(
            f"--mask: the folder '{path}' lacks a mask for {len(lacking)} of {len(images)} "
            f"pictures, {lacking[0]} first"
        )
    return [by_name[image.stem] for image in images]


def read_pictures(paths: list[Path], view: View, hint: str = "") -> list[InputPicture]:
    """Pictures as a view has them.

    One of several that cannot be read is named and left out, one alone is a Refusal.

    `hint` ends what is said of a picture that has to be changed.
    """
    found = []
    for path in paths:
        try:
            array, size, mode = view.load(path)
        except Unreadable as why:
            if len(paths) == 1:
                raise Refusal(f"--image: {path} cannot be read ({why})") from None
            _warn(f"--image: {path} cannot be read ({why}); skipped")
            continue
        for line in changes(view, size, mode):
            _warn(f"--image: {path} {line}, as in training{hint}")
        found.append(InputPicture(path, as_floats(array), size))
    if not found:
        raise Refusal(f"--image: none of the {len(paths)} pictures can be read")
    return found


def changes(view: View, size: tuple[int, int], mode: str) -> list[str]:
    """What a view does to a picture of this width, height and mode, in words."""
    found = []
    if size != view.size:
        cut = "cut to its middle" if view.fit == "crop" else "padded with white"
        cut = f", {cut}" if size[0] * view.size[1] != size[1] * view.size[0] else ""
        found.append(
            f"is {size[0]} x {size[1]} pixels: scaled{cut}, to {view.size[0]} x {view.size[1]}"
        )
    grey = mode in ("1", "L", "LA", "La") or mode.startswith(("I", "F"))
    if grey != (view.shape[0] == 1):
        found.append(f"is of mode {mode}: made {'grey' if view.shape[0] == 1 else 'RGB'}")
    if mode.startswith(("I", "F")):
        known = view.range or (view.found if mode in ("F", "I") else None)
        own = (
            "from its own darkest to its brightest"
            if mode in ("F", "I")
            else "by the range of its type"
        )
        found.append(
            f"has more than 8 bits: read {'from {:g} to {:g}'.format(*known) if known else own}"
        )
    return found


def read_mask(path: Path, view: View, picture: tuple[int, int]) -> Tensor:
    """White where to paint, black where the picture is known -> known, (1, H, W) of 0 and 1.

    For a picture whose width and height were `picture`: a mask of those, or of their ratio, is
    scaled and cut with it, and then thresholded at half; one of the model's own size is taken as it
    is. Transparent is black.
    """
    mask = _mask(path)
    if mask.size != view.size:
        if abs(mask.width * picture[1] / (mask.height * picture[0]) - 1) > SAME_SHAPE:
            raise Refusal(
                f"--mask: {path} is {mask.width} x {mask.height} pixels (width x height), the "
                f"picture {picture[0]} x {picture[1]}; make the mask of the picture's size"
            )
        mask = fitted(mask, view.size, view.fit, "black", Image.Resampling.BOX)
        _warn(
            f"--mask: {path} is scaled with its picture, and white where at least half of a "
            "pixel is"
        )
        mask = mask.point(lambda value: 255 * (value >= 128))
    return _known(path, np.asarray(mask))


def _mask(path: Path) -> Image.Image:
    try:
        with opened(path) as image:
            return eight_bits(image, ground="black").convert("L")
    except Unreadable as why:
        raise Refusal(f"--mask: {path} cannot be read ({why})") from None


def _known(path: Path, mask: np.ndarray) -> Tensor:
    values = np.unique(mask)
    if not set(values.tolist()) <= {0, 255}:
        grey = next(v for v in values if v not in (0, 255))
        raise Refusal(
            f"--mask: {path} is not binary (it has grey {grey}); white (255) where to paint, "
            "black (0) elsewhere"
        )
    if len(values) == 1:
        what = (
            "black: nothing to paint"
            if values[0] == 0
            else "white: nothing is known; sample without --task"
        )
        raise Refusal(f"--mask: {path} is all {what}")
    return torch.from_numpy((mask == 0).astype(np.float32))[None]
