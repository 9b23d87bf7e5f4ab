"""A checkpoint to give away: averaged weights in half precision and a header, safetensors.

`read_checkpoint` reads one like a run's checkpoint, so whatever samples from a run samples
from it. Nothing in it can run code, and nothing of the optimiser or of the machine that trained it
is kept; it cannot be resumed.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ldm.errors import Refusal

KEY = "ldm"  # of the file's header
LARGEST = 16_000_000  # bytes of a header


def halve(tensor: Tensor) -> Tensor:
    """Matrices and kernels in half precision; vectors, and what would overflow, stay whole."""
    if not tensor.is_floating_point() or tensor.dim() < 2 or not tensor.half().isfinite().all():
        return tensor.contiguous()
    return tensor.half().contiguous()


def in_full(tensor: Tensor) -> Tensor:
    """Float32 again."""
    return tensor.float() if tensor.is_floating_point() else tensor


def write_packed(weights: dict[str, Tensor], about: dict[str, Any], path: Path) -> None:
    """Halved weights, and what is known of them as JSON."""
    path.write_bytes(save(weights, {KEY: json.dumps(about)}))


def read_packed(path: Path) -> dict[str, Any]:
    """The file in the form of a checkpoint, weights in float32; Refusal if it is cut short."""
    try:
        with open(path, "rb") as file:
            if int.from_bytes(file.read(8), "little") > LARGEST:
                raise ValueError("its header claims to be larger than any that is written")
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(KEY)
            keys = file.keys()
            weights = {key: in_full(file.get_tensor(key)) for key in keys}
        about = json.loads(header or "null")
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise Refusal(
            f"checkpoint: {path} is damaged or cut short ({str(error).splitlines()[0]}); get it "
            "anew"
        ) from None
    return {**(about if isinstance(about, dict) else {}), "state_dict": weights}
