"""Reading a stranger's file: nothing in it is run, and no size that it claims is believed."""

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.errors import Refusal
from ldm.system.ranks import first_of_node

# what a pickle of ours is made of: not all that PyTorch allows, some of which claims memory that no
# file holds
PLAIN = re.compile(
    r"collections OrderedDict|torch (Size|\w+Storage)|torch\._utils _rebuild_(tensor_v2|parameter)"
)
NODES, DEPTH = 100_000, 40  # of plain values


@contextmanager
def malformed(path: Path | str) -> Iterator[None]:
    """Whatever goes wrong with what a file holds is one line: it may hold anything."""
    try:
        yield
    except (Refusal, OSError, MemoryError):
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        again = "use another, or train again"
        raise Refusal(f"checkpoint: {path} is malformed ({why}); {again}") from error


def load_plain(path: Path, device: str = "cpu") -> Any:
    """What PyTorch finds in a file with `weights_only=True`, mapped, every record of it checked.

    The first process of a machine reads all of it for that; the others read what they use. Refusal
    of a file that is missing, damaged, or would run code.
    """
    try:
        # anything but PyTorch's zip format is not opened at all
        if path.stat().st_size and not zipfile.is_zipfile(path):
            raise EOFError("not a whole zip file")
        expect_plain_zip(path)
        if first_of_node() and (part := damaged_part(path)):
            raise EOFError(f"record {part} has changed since it was written")
        return torch.load(path, map_location=device, weights_only=True, mmap=True)
    except FileNotFoundError:
        raise Refusal(f"checkpoint: no file '{path}'") from None
    except pickle.UnpicklingError:
        why = "it wants to run code or is no checkpoint"
        raise Refusal(f"checkpoint: {path} is not a plain checkpoint ({why}); not opened") from None
    except MemoryError:
        raise
    except Exception as error:  # of zip, of a pickle, of tensors: each raises what it likes
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Refusal(
            f"checkpoint: {path} is damaged or cut short ({why}); use another, or train again"
        ) from None


def damaged_part(path: Path) -> str | None:
    """The first record whose CRC-32 does not hold, if any: PyTorch's own reader does not look."""
    with zipfile.ZipFile(path) as file:
        return file.testzip()


def expect_plain_zip(path: Path) -> None:
    """ValueError if a record is compressed, or if all claim more than the file has.

    UnpicklingError for a pickle of more than weights and plain values. PyTorch writes no such file,
    and would believe it.
    """
    with zipfile.ZipFile(path) as file:
        records = file.infolist()
        stored = all(r.compress_type == zipfile.ZIP_STORED for r in records)
        if not stored or any(r.compress_size != r.file_size for r in records):
            raise ValueError("a record is compressed, which none of PyTorch's is")
        if len({r.filename for r in records}) < len(records):
            raise ValueError("two records have one name")
        if sum(r.file_size for r in records) > path.stat().st_size:
            raise ValueError("its records claim more than the file has")
        for record in records:
            if record.filename.endswith(".pkl"):
                _expect_plain_pickle(file.read(record))


def _expect_plain_pickle(raw: bytes) -> None:
    try:
        for operation, argument, _ in pickletools.genops(raw):
            unknown = operation.name == "GLOBAL" and not PLAIN.fullmatch(str(argument))
            if unknown or operation.name in ("STACK_GLOBAL", "INST"):
                raise pickle.UnpicklingError(f"it names {argument}")
    except (ValueError, AttributeError) as error:
        raise EOFError(f"its pickle is cut short: {error}") from None


def expect_small(value: Any, depth: int = DEPTH) -> int:
    """The number of nodes of plain nested values, counted as often as they are met.

    ValueError beyond NODES, DEPTH, or for any other kind of value. A list of a list of a list that
    is the same ten times over is as large as it reads.
    """
    if depth < 0:
        raise ValueError(f"nested deeper than {DEPTH}")
    if isinstance(value, dict) and not all(type(key) in (str, int) for key in value):
        raise ValueError("a key that is not text")
    if isinstance(value, (dict, list, tuple)):
        count = 1
        for inside in value.values() if isinstance(value, dict) else value:
            count += expect_small(inside, depth - 1)
            if count > NODES:
                raise ValueError(f"more than {NODES} values")
        return count
    if value is not None and type(value) not in (str, int, float, bool):
        raise ValueError(f"a value of type {type(value).__name__}")
    return 1 + len(value) // 1000 if isinstance(value, str) else 1


def expect_dense(state: Any, path: Path) -> None:
    """ValueError unless all tensors together are what the file holds.

    None sparse, quantised, without numbers, or one number that claims to be many.
    """
    total = 0
    for tensor in tensors_in(state):
        plain = tensor.layout is torch.strided and tensor.device.type != "meta"
        if not plain or tensor.is_quantized or tensor.is_complex() or tensor.is_nested:
            raise ValueError("a weight is not a plain array of numbers")
        size = tensor.numel() * tensor.element_size()
        if size > tensor.untyped_storage().nbytes():
            shape = tuple(tensor.shape)
            raise ValueError(f"a weight of shape {shape} has fewer numbers than it claims")
        total += size
    if total > 4 * path.stat().st_size:  # packed ones are halves in the file
        raise ValueError(f"its weights claim {total / 1e6:.0f} MB, more than the file has")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested dicts, lists and tuples, each container once, even one in itself."""
    left, seen = [value], set[int]()
    while left:
        item = left.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (dict, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            left.extend(item.values() if isinstance(item, dict) else item)
