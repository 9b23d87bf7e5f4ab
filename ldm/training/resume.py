"""What may be resumed: never on other data or with other settings."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm import config
from ldm.checkpoints import checkpoint
from ldm.checkpoints.safe import malformed
from ldm.config import RunConfig, schema
from ldm.errors import Refusal, printable
from ldm.system.data import DataSet
from ldm.training.machine import world_size
from ldm.training.ranks import announce, is_first

CHOSEN = "LDM_GOES_ON_FROM"  # run folders and the checkpoints that the first process goes on from
MOST_NAMES = 20  # of a long list that are shown

# what may change between a stop and --resume, and between the training of a stage 1 and its use
_FREE = (
    *("trainer", "sample", "evaluate", "logger", "output", "optim.lr", "optim.clip"),
    *("data.root", "data.workers", "data.download", "data.trust"),
    *("space.chunk", "space.cache", "space.autoencoder", "network.checkpointing", "init"),
)
FREE = (*_FREE, *(f"stage1.{key}" for key in _FREE))


def changed(before: dict[str, Any], now: dict[str, Any], free: tuple[str, ...] = FREE) -> list[str]:
    """Keys in which two plain configs differ, where they must not."""
    return [key for key in schema.differences(before, now) if not key.startswith(free)]


def about_data(images: DataSet) -> dict[str, Any]:
    """What a checkpoint keeps of the data: how many there are, and their identity."""
    return {"train": len(images.train), "held_out": len(images.held_out)} | images.train.identity()


def other_data(meta: dict[str, Any], images: DataSet, asked: Sequence[str] = ()) -> str:
    """How these data differ from those of a checkpoint with `meta`; empty where they do not.

    `asked`: what is used of them besides the pictures or jets, "labels" or "captions". A checkpoint
    of an older ldm knows nothing of its data, and is taken on trust.
    """
    before, now = meta.get("data"), about_data(images)
    before = before if isinstance(before, dict) else {}
    differs = [key for key in ("content", *asked) if before and before.get(key) != now.get(key)]
    if not differs:
        return ""
    if meta["classes"] and list(meta["classes"]) != list(images.classes):
        return _other_classes(meta["classes"], images.classes)
    if differs[0] != "content":
        return f"the {differs[0]} of its data were others"
    count = before.get("train")
    return f"it was trained on {count} pictures or jets, and these {now['train']} are others"


def _other_classes(before: Sequence[str], now: Sequence[str]) -> str:
    return f"its classes were {_listed(before)}; these data have {_listed(now)}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:MOST_NAMES]) or "none"
    more = len(names) - MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def expect_same_data(
    run: RunConfig,
    images: DataSet,
    start: Path,
    meta: dict[str, Any],
    classes: Sequence[str] | None,
    captions: bool,
) -> None:
    """A resumed run goes on with the data it began with; Refusal if these are others.

    `classes`: those that its model is given, None where it is given none whatever the data has.
    """
    why = other_data(meta, images, ["labels"] * bool(classes) + ["captions"] * captions)
    if classes is not None and list(meta["classes"]) != list(classes):
        why = _other_classes(meta["classes"], classes)
    if not why and tuple(meta["shape"]) != tuple(images.shape):
        why = f"it is for data of {tuple(meta['shape'])}, these are {tuple(images.shape)}"
    if why:
        raise Refusal(
            f"--resume: {start} is of other data than {data_name(run)}: {why}; "
            "undo that, or name=OTHER starts another run"
        )


def data_name(run: RunConfig) -> str:
    """A run's data, for a person."""
    root = getattr(run.data, "root", "")
    return type(run.data).__name__ + (f" in '{root}'" if root else "")


def resume_point(run: RunConfig, resume: bool) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint to resume from and its state; None for a new run, else Refusal."""
    if not is_first() and (chosen := _chosen(run.folder)):
        return chosen, checkpoint.read_checkpoint(chosen)
    newest, state, complaints = checkpoint.newest_whole(run.folder)
    if not is_first():  # rank 0 has looked already, and may have written since
        return (newest, state) if resume else (None, {})
    if newest is None:
        if complaints:
            why = f"{run.folder}: no checkpoint is whole ({complaints[0]})"
            raise Refusal(f"{why}; name=OTHER starts another run")
        return None, {}  # a run that saved nothing has nothing to lose
    for complaint in complaints if resume else []:
        announce(f"{complaint}; resuming from {newest} instead")
    step, goal = state["global_step"], run.trainer.max_steps
    if step >= goal:
        raise Refusal(
            f"{run.folder} is finished ({step} steps): sample from it, or train on with "
            "--resume trainer.max_steps=N, or start another with name=OTHER"
        )
    if not resume:
        unfinished = f"{run.folder} holds an unfinished run ({step} of {goal} steps)"
        raise Refusal(f"{unfinished}; add --resume, or name=OTHER")
    _expect_same_config(run, newest, state)
    _choose(run.folder, newest)
    return newest, state


def _choose(folder: Path, start: Path) -> None:
    """Tell the processes that this one will start: they do not read all of a file to check it."""
    said = json.loads(os.environ.get(CHOSEN, "{}"))
    os.environ[CHOSEN] = json.dumps(said | {str(folder): str(start)})


def _chosen(folder: Path) -> Path | None:
    said = json.loads(os.environ.get(CHOSEN, "{}")).get(str(folder))
    return Path(said) if said else None


def _expect_same_config(run: RunConfig, newest: Path, state: dict[str, Any]) -> None:
    checkpoint.expect_resumable(state, newest)
    with malformed(newest):  # with the defaults of keys that are newer than it
        before = config.from_dict(state["ldm"]["config"], str(newest))
    if keys := changed(schema.to_dict(before), schema.to_dict(run)):
        raise Refusal(
            f"--resume: {', '.join(keys)} changed since {newest}; "
            "undo that, or start another run with name=OTHER"
        )


def keep_global_batch(run: RunConfig, state: dict[str, Any]) -> None:
    """A resumed run takes as many micro-batches a step as before, over any number of processes."""
    slots, size = state["ldm"]["slots"], run.data.batch_size
    world, accumulate = world_size(run.trainer), run.trainer.accumulate
    if world * accumulate == slots:
        return
    if slots % world:
        raise Refusal(
            f"--resume: a step was {slots} micro-batches of {size}; "
            f"{world} processes cannot share them"
        )
    run.trainer.accumulate = slots // world
    announce(
        f"resuming on {world} processes: accumulate {accumulate} -> {slots // world} "
        f"keeps the global batch of {slots * size}"
    )
