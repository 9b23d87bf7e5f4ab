"""What a checkpoint holds, and how one is read: never by unpickling.

A file is Lightning's checkpoint (weights, optimisers, loops: for resuming) with one more key,
`ldm`: the version, the stage, the resolved config, the data's shape and classes, the averaged
weights, stage 1's hash. Enough to sample from.
"""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ldm.checkpoints import packed
from ldm.checkpoints.averaging import reconstruct
from ldm.checkpoints.safe import (
    expect_dense,
    expect_plain_zip,
    expect_small,
    load_plain,
    malformed,
)
from ldm.checkpoints.weights import Weights, hash_of_weights, under
from ldm.errors import Refusal
from ldm.system.files import atomic_write

VERSION = 1
# keys of a checkpoint's `ldm`; `text` besides, with captions, `guide` where it holds one
META: dict[str, tuple[type, ...]] = {
    "version": (int,),
    "stage": (str,),
    "config": (dict,),
    "shape": (list, tuple),
    "classes": (list, tuple),
    "trained": (str,),
    "ema": (dict, type(None)),
    "autoencoder": (dict, type(None)),
}
# of what a run needs to go on
RESUMED: dict[str, type] = {
    "epoch": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}


def read_checkpoint(path: Path, device: str = "cpu") -> dict[str, Any]:
    """A run's checkpoint, or a packed one; Refusal if it is damaged, foreign or not ours.

    No size that it claims is believed: what is returned is no larger than the file.
    """
    state = _unpack(path) if path.suffix == ".safetensors" else load_plain(path, device)
    with malformed(path):
        meta = state.get("ldm") if isinstance(state, dict) else None
        if not isinstance(meta, dict) or not _is_ours(state, meta):
            raise Refusal(f"checkpoint: {path} was not written by ldm")
        version, is_of = meta["version"], f"checkpoint: {path} is of version {meta['version']}"
        if version > VERSION:
            raise Refusal(f"{is_of}, this ldm reads up to {VERSION}; update")
        if type(version) is not int or version < 1:
            raise Refusal(f"{is_of}, which there never was")
        expect_small({key: value for key, value in meta.items() if key != "ema"})
        expect_dense(state, path)
    return state


def _is_ours(state: dict[str, Any], meta: dict[str, Any]) -> bool:
    step = state.get("global_step")
    return (
        all(isinstance(meta.get(key, ...), kinds) for key, kinds in META.items())
        and isinstance(state.get("state_dict"), dict)
        and type(step) is int
        and step >= 0
    )


def _unpack(path: Path) -> dict[str, Any]:
    """A packed file, its weights checked against the hash that was packed with them."""
    if not path.is_file():
        raise Refusal(f"checkpoint: no file '{path}'")
    state = packed.read_packed(path)
    if "ldm" in state and state.get("hash") != hash_of_weights(state["state_dict"].items()):
        why = "its weights have changed since it was packed"
        raise Refusal(f"checkpoint: {path} is damaged ({why}); get it anew")
    return state


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write atomically: to a file beside it, to the disk, then renamed.

    The one before last.ckpt stays as previous.ckpt.
    """
    try:
        with atomic_write(path, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
            if path.name == "last.ckpt" and path.exists():
                _keep(path, path.with_name("previous.ckpt"))
    except (OSError, RuntimeError) as error:  # the latter of torch's zip writer, on a full disk
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB are free there"
        raise Refusal(
            f"checkpoint: {path} could not be written, {free}; the one before is whole: "
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
    """The furthest of last, previous and best that is whole, its state, and others' faults.

    Only files that are looked at are checked byte by byte: the furthest, and those found damaged on
    the way to it.
    """
    complaints: list[str] = []
    paths = [
        path for name in ("last", "previous", "best") if (path := folder / f"{name}.ckpt").exists()
    ]
    for path in sorted(paths, key=_claimed_step, reverse=True):
        try:
            return path, read_checkpoint(path), complaints
        except Refusal as error:
            complaints.append(str(error))
    return None, {}, complaints


def _claimed_step(path: Path) -> float:
    """The step stored in a file, read from its index alone.

    One that cannot be read comes first, to be named.
    """
    try:
        expect_plain_zip(path)
        return float(
            torch.load(path, map_location="meta", weights_only=True, mmap=True)["global_step"]
        )
    except Exception:  # `read_checkpoint` refuses it, whatever is wrong
        return float("inf")


def expect_resumable(state: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint that lacks its optimiser's state or its place: none to go on with."""
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
        kinds = {"autoencoder": "a stage-1 autoencoder", "diffusion": "a diffusion model"}
        which = kinds.get(found, f"of stage '{found}'")
        raise Refusal(f"checkpoint: {path} is {which}; {kinds[stage]} is needed here{use}")


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
