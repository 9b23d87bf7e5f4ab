"""Items of a data set given in Python: a picture, a pair, or a dict."""

from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.errors import Refusal
from ldm.pictures.transforms import eight_bits, upright


def rows(dataset: Any, name: str) -> Iterator[Any]:
    """A map-style data set by its numbers, any other iterable as it comes."""
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        return (dataset[i] for i in range(len(dataset)))
    try:
        return iter(dataset)
    except TypeError:
        raise Refusal(f"{name}: a {type(dataset).__name__} is no data set of pictures") from None


def parted(item: Any, where: str) -> tuple[Any, dict[str, Any]]:
    """An item's picture, and all else by its key; Refusal where it is none."""
    if isinstance(item, dict):
        if "image" not in item:
            keys = ", ".join(map(str, item)) or "none"
            raise Refusal(f"{where}: a dict without 'image' (its keys: {keys})")
        said = {key: value for key, value in item.items() if key != "image" and value is not None}
        picture = item["image"]
    elif isinstance(item, (tuple, list)):
        if len(item) not in (1, 2):
            raise Refusal(f"{where}: {len(item)} things; give (picture, class), or a dict")
        said = {"label": item[1]} if len(item) == 2 and item[1] is not None else {}
        picture = item[0]
    else:
        return item, {}
    if "label" in said:
        said["label"] = _label(said["label"], where)
    if not isinstance(said.get("text", ""), str):
        raise Refusal(f"{where}: 'text' is a caption, got {type(said['text']).__name__}")
    if odd := {"index", "moments"} & said.keys():
        raise Refusal(f"{where}: the key '{odd.pop()}' is ldm's own; give it another name")
    return picture, said


def _label(value: Any, where: str) -> int | str:
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        value = value.reshape(-1).tolist()
        value = value[0] if len(value) == 1 else value
    if isinstance(value, str) or (isinstance(value, Integral) and not isinstance(value, bool)):
        return value if isinstance(value, str) else int(value)
    raise Refusal(f"{where}: a class is a number or a name, got {type(value).__name__}")


def tensor_of(picture: Any, where: str) -> Tensor:
    """(C, H, W), uint8 or float32."""
    if isinstance(picture, Image.Image):
        picture = _array(picture)
    if isinstance(picture, np.ndarray):  # its channels are last, as PIL's
        picture = torch.from_numpy(np.array(picture))
        picture = picture.permute(2, 0, 1) if picture.dim() == 3 else picture
    if not isinstance(picture, Tensor):
        raise Refusal(
            f"{where}: a {type(picture).__name__} is no picture (a tensor, array or PIL's)"
        )
    picture = picture[None] if picture.dim() == 2 else picture
    if picture.dim() != 3 or not picture.numel() or picture.is_complex():
        raise Refusal(f"{where}: a picture is (C, H, W), got {tuple(picture.shape)}")
    picture = picture.detach().cpu()
    picture = picture if picture.dtype == torch.uint8 else picture.float()
    if not torch.isfinite(picture).all():
        raise Refusal(f"{where}: values that are not finite")
    return picture.contiguous()


def _array(image: Image.Image) -> np.ndarray:
    """Upright; of 8 bits a value, or as floats where there are more."""
    if image.mode.startswith(("I", "F")):
        return np.asarray(upright(image)).astype(np.float32)
    grey = len(image.getbands()) == 1 and image.mode != "P"
    return np.array(eight_bits(image).convert("L" if grey else "RGB"))
