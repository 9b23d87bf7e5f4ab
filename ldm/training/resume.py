"""What may go on: a run from its checkpoint, a stage 1 under a run; never on other data or with other settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from ldm import config
from ldm.checkpoints import checkpoint
from ldm.config import Config, schema
from ldm.errors import Refusal, printable, say
from ldm.system.data import DataSet
from ldm.training.trainer import world_size

LISTED = 20  # names of a long list that are shown

# what may change between a stop and --resume, and between the training of a stage 1 and its use
FREE = (
    "trainer",
    "sample",
    "evaluate",
    "logger",
    "output",
    "data.root",
    "data.workers",
    "data.download",
)
FREE += ("space.chunk", "space.cache", "space.autoencoder", "optim.lr", "optim.clip")
FREE += tuple(f"stage1.{key}" for key in FREE)


def changed(before: dict[str, Any], now: dict[str, Any], free: tuple[str, ...] = FREE) -> list[str]:
    """Keys in which two plain configs differ, where they must not."""
    return [key for key in schema.differences(before, now) if not key.startswith(free)]


def about_data(images: DataSet) -> dict[str, Any]:
    """What a checkpoint keeps of the data: how many there are, and their identity (data/identity.py)."""
    return {"train": len(images.train), "held_out": len(images.held_out)} | images.train.identity()


def other_data(meta: dict[str, Any], images: DataSet, told: Sequence[str] = ()) -> str:
    """How these data differ from those of a checkpoint that says `meta` of itself; empty where they do not.

    `told`: what is asked of them besides the pictures or jets themselves, "labels" or "captions". A checkpoint of an older
    ldm knows nothing of its data, and is taken on trust.
    """
    before, now = meta.get("data"), about_data(images)
    before = before if isinstance(before, dict) else {}
    differs = [key for key in ("content", *told) if before and before.get(key) != now.get(key)]
    if not differs:
        return ""
    if meta["classes"] and list(meta["classes"]) != list(images.classes):
        return _other_classes(meta["classes"], images.classes)
    if differs[0] != "content":
        return f"the {differs[0]} of its data were others"
    return f"it was trained on {before.get('train')} pictures or jets, and these {now['train']} are others"


def _other_classes(before: Sequence[str], now: Sequence[str]) -> str:
    return f"its classes were {_listed(before)}; these data have {_listed(now)}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:LISTED]) or "none"
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED} more"


def expect_same_data(
    run: Config,
    images: DataSet,
    start: Path,
    state: dict[str, Any],
    told: Sequence[str],
    classes: Sequence[str] | None,
) -> None:
    """A resumed run goes on with the data it began with; Refusal if they are others, or others are said of them.

    `classes`: those that its model is told, None where it is told of none whatever the data has.
    """
    meta = state["ldm"]
    why = other_data(meta, images, told)
    if classes is not None and list(meta["classes"]) != list(classes):
        why = _other_classes(meta["classes"], classes)
    if not why and tuple(meta["shape"]) != tuple(images.shape):
        why = f"it is for data of {tuple(meta['shape'])}, these are {tuple(images.shape)}"
    if why:
        raise Refusal(
            f"--resume: {start} is of other data than {named(run)}: {why}; undo that, or name=OTHER starts another run"
        )


def named(run: Config) -> str:
    """A run's data, for a person."""
    root = getattr(run.data, "root", "")
    return type(run.data).__name__ + (f" in '{root}'" if root else "")


def resume_point(run: Config, resume: bool) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint to resume from and its state, or None for a new run; never another run's folder."""
    newest, state, complaints = checkpoint.newest_whole(run.folder)
    if rank_zero_only.rank != 0:  # rank 0 has looked already, and may have written since
        return (newest, state) if resume else (None, {})
    if newest is None:
        if complaints:
            raise Refusal(
                f"{run.folder}: no checkpoint is whole ({complaints[0]}); name=OTHER starts another run"
            )
        return None, {}  # a run that saved nothing has nothing to lose
    for complaint in complaints if resume else []:
        say(f"{complaint}; resuming from {newest} instead")
    step, goal = state["global_step"], run.trainer.max_steps
    if step >= goal:
        raise Refusal(
            f"{run.folder} is finished ({step} steps): sample from it, or train on with --resume trainer.max_steps=N, "
            "or start another with name=OTHER"
        )
    if not resume:
        raise Refusal(
            f"{run.folder} holds an unfinished run ({step} of {goal} steps); add --resume, or name=OTHER"
        )
    checkpoint.expect_resumable(state, newest)
    with checkpoint.malformed(newest):
        before = config.from_dict(
            state["ldm"]["config"], str(newest)
        )  # with the defaults of keys that are newer than it
    if keys := changed(schema.to_dict(before), schema.to_dict(run)):
        raise Refusal(
            f"--resume: {', '.join(keys)} changed since {newest}; undo that, or start another run with name=OTHER"
        )
    return newest, state


def keep_global_batch(run: Config, state: dict[str, Any]) -> None:
    """A resumed run takes as many micro-batches a step as before, over however many processes there are now."""
    slots = state["ldm"]["slots"]
    world, accumulate = world_size(run.trainer), run.trainer.accumulate
    if world * accumulate == slots:
        return
    if slots % world:
        raise Refusal(
            f"--resume: a step was {slots} micro-batches of {run.data.batch_size}; {world} processes cannot share them"
        )
    run.trainer.accumulate = slots // world
    say(
        f"resuming on {world} processes: accumulate {accumulate} -> {slots // world} "
        f"keeps the global batch of {slots * run.data.batch_size}"
    )
