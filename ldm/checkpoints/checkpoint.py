"""What a checkpoint holds, and how one is read: never by unpickling.

A file is Lightning's checkpoint (weights, optimisers, loops: for resuming) with one more key,
`ldm`: the version, the stage, the resolved config, the data's shape and classes, the averaged
weights, stage 1's hash. Enough to sample from.
"""

import errno
import hashlib
import os
import pickle
import pickletools
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.checkpoints import packed
from ldm.checkpoints.averaging import Weights, reconstruct
from ldm.errors import Refusal
from ldm.system.files import whole

VERSION = 1
META = {
    "version": int,
    "stage": str,
    "config": dict,
    "shape": list | tuple,
    "classes": list | tuple,
    "trained": str,
}
META |= {
    "ema": dict | None,
    "autoencoder": dict | None,
}  # of what a checkpoint says of itself; `text` besides, with captions

# what a pickle of ours is made of: not all that PyTorch allows, some of which claims memory that no
# file holds
PLAIN = re.compile(
    r"collections OrderedDict|torch (Size|\w+Storage)|torch\._utils _rebuild_(tensor_v2|parameter)"
)
NODES, DEPTH = 100_000, 40  # of what a checkpoint says of itself


def find(path: str | Path, prefer: str = "last") -> Path:
    """The checkpoint file that a path names: itself.

    In a run's folder `prefer`.ckpt, else last.ckpt, else the packed one.
    """
    path = Path(path)
    if path.is_file():
        return path
    for name in (f"{prefer}.ckpt", "last.ckpt", "best.ckpt", packed.NAME):
        if (path / name).is_file():
            return path / name
    missing = f"has no last.ckpt in it, nor {packed.NAME}: did its training start?"
    why = missing if path.is_dir() else "is neither a run's folder nor a file"
    raise Refusal(f"checkpoint: '{path}' {why}")


def damaged_part(path: Path) -> str | None:
    """The first record of the file whose CRC-32 does not hold, if any: PyTorch's own reader does not look."""
    with zipfile.ZipFile(path) as file:
        return file.testzip()


def read(path: Path, device: str = "cpu") -> dict[str, Any]:
    """A run's checkpoint, or a packed one; one line if it is damaged, foreign or not ours.

    No size that it claims is believed: what is returned is no larger than the file.
    """
    state = _unpack(path) if path.suffix == ".safetensors" else load(path, device)
    with malformed(path):
        meta = state.get("ldm") if isinstance(state, dict) else None
        whole = isinstance(meta, dict)
        whole = whole and all(isinstance(meta.get(key, ...), kind) for key, kind in META.items())
        whole = whole and isinstance(state.get("state_dict"), dict)
        if not whole or type(state.get("global_step")) is not int or state["global_step"] < 0:
            raise Refusal(f"checkpoint: {path} was not written by ldm")
        if meta["version"] > VERSION:
            raise Refusal(
                f"checkpoint: {path} is of version {meta['version']}, this ldm reads up to "
                f"{VERSION}; update"
            )
        if type(meta["version"]) is not int or meta["version"] < 1:
            raise Refusal(
                f"checkpoint: {path} is of version {meta['version']}, which there never was"
            )
        expect_small({key: value for key, value in meta.items() if key != "ema"})
        expect_dense(state, path)
    return state


@contextmanager
def malformed(path: Path | str) -> Iterator[None]:
    """Whatever goes wrong with what a file holds is one line.

    Whoever wrote it may have written anything.
    """
    try:
        yield
    except (Refusal, OSError):
        raise
    except MemoryError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise Refusal(
            f"checkpoint: {path} is malformed ({why}); use another, or train again"
        ) from error


def expect_small(value: Any, depth: int = DEPTH) -> int:
    """The number of nodes of plain nested values.

    ValueError beyond NODES, DEPTH, or for any other kind of value. Counted as often as they are
    met: a list of a list of a list that is the same ten times over is as large as it reads.
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
    """ValueError unless all tensors together are what the file holds: none sparse, quantised, without numbers, or one
    number that claims to be many."""
    total = 0
    for tensor in tensors_in(state):
        plain = tensor.layout is torch.strided and tensor.device.type != "meta"
        if not plain or tensor.is_quantized or tensor.is_complex() or tensor.is_nested:
            raise ValueError("a weight is not a plain array of numbers")
        size = tensor.numel() * tensor.element_size()
        if size > tensor.untyped_storage().nbytes():
            raise ValueError(
                f"a weight of shape {tuple(tensor.shape)} has fewer numbers than it claims"
            )
        total += size
    if total > 4 * path.stat().st_size:  # packed ones are halves in the file
        raise ValueError(f"its weights claim {total / 1e6:.0f} MB, more than the file has")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested dicts, lists and tuples, each container once, also where one holds itself."""
    left, seen = [value], set[int]()
    while left:
        item = left.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (dict, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            left.extend(item.values() if isinstance(item, dict) else item)


def _unpack(path: Path) -> dict[str, Any]:
    """A packed file, its weights checked against the hash that was packed with them."""
    if not path.is_file():
        raise Refusal(f"checkpoint: no file '{path}'")
    state = packed.read(path)
    if "ldm" in state and state.get("hash") != fingerprint(state["state_dict"].items()):
        raise Refusal(
            f"checkpoint: {path} is damaged (its weights have changed since it was packed); get it "
            "anew"
        )
    return state


def load(path: Path, device: str = "cpu") -> Any:
    """What PyTorch finds in a file with `weights_only=True`, every record of it checked."""
    try:
        # anything but PyTorch's zip format is not opened at all
        if path.stat().st_size and not zipfile.is_zipfile(path):
            raise EOFError("not a whole zip file")
        expect_plain_zip(path)
        if part := damaged_part(path):
            raise EOFError(f"record {part} has changed since it was written")
        return torch.load(path, map_location=device, weights_only=True, mmap=True)
    except FileNotFoundError:
        raise Refusal(f"checkpoint: no file '{path}'") from None
    except pickle.UnpicklingError:
        raise Refusal(
            f"checkpoint: {path} is not a plain checkpoint (it wants to run code or is no "
            "checkpoint); not opened"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # of zip, of a pickle, of tensors: each raises what it likes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Refusal(
            f"checkpoint: {path} is damaged or cut short ({reason}); use another, or train again"
        ) from None


def expect_plain_zip(path: Path) -> None:
    """ValueError if a record is compressed, or all claim more than the file has; UnpicklingError for a pickle of more
    than weights and plain values. PyTorch writes no such file, and would believe it."""
    with zipfile.ZipFile(path) as file:
        records = file.infolist()
        if any(
            r.compress_type != zipfile.ZIP_STORED or r.compress_size != r.file_size for r in records
        ):
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
            if operation.name in ("STACK_GLOBAL", "INST") or (
                operation.name == "GLOBAL" and not PLAIN.fullmatch(argument)
            ):
                raise pickle.UnpicklingError(f"it names {argument}")
    except (ValueError, AttributeError) as error:
        raise EOFError(f"its pickle is cut short: {error}") from None


def write(state: Mapping[str, Any], path: Path) -> None:
    """Save whole or not at all: to a file beside it, to the disk, then renamed.

    The one before stays as previous.ckpt.
    """
    try:
        with whole(path, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
            if path.name == "last.ckpt" and path.exists():
                _keep(path, path.with_name("previous.ckpt"))
    except (
        OSError,
        RuntimeError,
    ) as error:  # torch reports a full disk as a RuntimeError of its zip writer
        free = shutil.disk_usage(path.parent).free
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Refusal(
            f"checkpoint: {path} could not be written, {free / 1e6:.0f} MB are free there; the one "
            "before is whole: "
            "make room and run again with --resume"
        ) from None


def _keep(path: Path, name: Path) -> None:
    """A second name for the file, so that at no moment there is neither."""
    spare = name.with_suffix(".spare")
    spare.unlink(missing_ok=True)
    try:
        os.link(path, spare)
    except OSError:  # a file system without hard links keeps one checkpoint only
        return
    os.replace(spare, name)


def newest_whole(folder: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """The furthest of last, previous and best that is whole, its state, and what was wrong with others.

    Only files that are looked at are checked byte by byte: the furthest, and those found damaged on
    the way to it.
    """
    complaints: list[str] = []
    paths = [
        path for name in ("last", "previous", "best") if (path := folder / f"{name}.ckpt").exists()
    ]
    for path in sorted(paths, key=_claimed_step, reverse=True):
        try:
            return path, read(path), complaints
        except Refusal as error:
            complaints.append(str(error))
    return None, {}, complaints


def _claimed_step(path: Path) -> float:
    """The step that a file says it is of, read from its index alone.

    One that cannot be read comes first, to be named.
    """
    try:
        expect_plain_zip(path)
        return float(
            torch.load(path, map_location="meta", weights_only=True, mmap=True)["global_step"]
        )
    except Exception:  # whatever is wrong with it, `read` says it
        return float("inf")


RESUMED = {
    "epoch": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}


def expect_resumable(state: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint that can be sampled from and not gone on with: its optimiser's state or its place is lacking."""
    lacking = [key for key, kind in RESUMED.items() if not isinstance(state.get(key), kind)]
    lacking += [
        key
        for key in ("slots", "images_seen")
        if type(state["ldm"].get(key)) is not int or state["ldm"][key] < 1
    ]
    if lacking:
        raise Refusal(
            f"--resume: {path} lacks '{lacking[0]}': one can sample from it, not go on; name=OTHER "
            "starts another run"
        )


def expect_stage(state: Mapping[str, Any], stage: str, path: Path) -> None:
    """Refuse a checkpoint of the other stage."""
    found = state["ldm"]["stage"]
    if found != stage:
        uses = {
            "autoencoder": "name it as space.autoencoder of a latent config",
            "diffusion": "sample.py reads it",
        }
        use = f"; {uses[found]}" if found in uses else ""
        raise Refusal(f"checkpoint: {path} is of stage '{found}', '{stage}' is wanted here{use}")


def under(state: Weights, prefix: str) -> Weights:
    """The weights whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def weights(state: Mapping[str, Any], which: str, path: Path) -> Weights:
    """The trained network's weights: `raw`, `ema` (raw in a run that kept none), or `ema:NUMBER`.

    From 0.5 up the number is a decay that the run kept (optim.ema, optim.ema_more); below, the
    relative width of a power profile, made of the snapshots beside the checkpoint (optim.posthoc).
    Refusal if there is no such average.
    """
    if which not in ("ema", state.get("weights", which)):
        raise Refusal(
            f"--weights: {path} was packed with its {state['weights']} weights alone, not {which}"
        )
    ema = state["ldm"]["ema"]
    raw = under(state["state_dict"], state["ldm"]["trained"] + ".")
    if which in ("ema", "raw"):
        return raw | ema["weights"] if which == "ema" and ema else raw
    number = _number(which)
    if number < 0.5:
        return raw | reconstruct(
            path.parent / "snapshots", state["global_step"], _power(state), number
        )
    kept = dict([(ema["decay"], ema["weights"]), *ema.get("more", [])]) if ema else {}
    if number not in kept:
        listed = ", ".join(f"ema:{d:g}" for d in kept) or "none"
        raise Refusal(f"--weights: no average of decay {number:g} in {path} (kept: {listed})")
    return raw | kept[number]


def _power(state: Mapping[str, Any]) -> dict[float, Weights]:
    return dict((state["ldm"]["ema"] or {}).get("power", []))


def _number(which: str) -> float:
    try:
        return float(which.removeprefix("ema:") if which.startswith("ema:") else "")
    except ValueError:
        raise Refusal(
            f"--weights: '{which}' is not ema, raw, ema:DECAY or ema:WIDTH (ema:0.05, say)"
        ) from None


def expect_fit(module: nn.Module, found: Weights, what: str) -> None:
    """Refusal unless these are a module's weights: by name, by shape, of its kind of number, all finite.

    The module may be without memory, on the meta device: so a config is held against its weights
    before it is believed.
    """
    expected = module.state_dict()
    for key in [*expected, *found]:
        if key not in found or key not in expected:
            raise Refusal(
                f"{what}: weight '{key}' is {'missing' if key in expected else 'unexpected'}; it "
                "is of another model"
            )
        if not isinstance(found[key], Tensor):
            raise Refusal(
                f"{what}: weight '{key}' is {type(found[key]).__name__}, no array of numbers"
            )
        if expected[key].shape != found[key].shape:
            shapes = f"{tuple(found[key].shape)}, not {tuple(expected[key].shape)}"
            raise Refusal(f"{what}: weight '{key}' has shape {shapes}; it is of another model")
        if expected[key].is_floating_point() != found[key].is_floating_point():
            raise Refusal(
                f"{what}: weight '{key}' is of type {found[key].dtype}, not {expected[key].dtype}"
            )
        if not torch.isfinite(found[key]).all():
            raise Refusal(f"{what}: weight '{key}' has numbers that are not finite")


def load_strict(module: nn.Module, found: Weights, what: str) -> None:
    """Load every weight or refuse with the first that does not fit."""
    expect_fit(module, found, what)
    module.load_state_dict(found)


def build_fitting(build: Callable[[], nn.Module], found: Weights, what: str) -> nn.Module:
    """What `build` makes, with these weights.

    Nothing is allocated before they are known to fit it.
    """
    with torch.device("meta"):
        expect_fit(build(), found, what)
    module = build()
    module.load_state_dict(found)
    return module


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of named weights, the same on every device: which autoencoder these latents are of."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors):
        digest.update(name.encode())
        digest.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:16]
