"""The run that another starts from (`init`): a checkpoint of the same network, schedule and space.

Its averaged weights are the start, and the teacher of a distillation. A checkpoint of the new run
needs none of it to sample; to resume a distillation the teacher is read again, and is the same.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.checkpoints import checkpoint
from ldm.checkpoints.finding import find_checkpoint
from ldm.checkpoints.safe import malformed
from ldm.config import DiffusionConfig, of_stage, schema
from ldm.diffusion.space import Shape
from ldm.errors import Refusal
from ldm.sampling.model import Model, fingerprint, restored
from ldm.training.stage1 import Stage1, stage1_inside

# what must be equal for the weights to mean the same; that they fit the network is seen by loading
SAME = ("schedule", "space", "condition", "text", "task")
OPEN = ("space.autoencoder", "space.cache", "space.chunk")


@dataclass(frozen=True)
class Origin:
    """The model that a run starts from (`init`), and the hash of its network's weights."""

    model: Model
    hash: str


def find_origin(
    run: DiffusionConfig, shape: Shape, classes: tuple[str, ...]
) -> tuple[Origin, Stage1 | None] | None:
    """The model that `init` names, and the stage 1 inside it; Refusal where it does not fit."""
    if run.init is None:
        return None
    file = find_checkpoint(run.init)
    state = checkpoint.read_checkpoint(file)
    checkpoint.expect_stage(state, "diffusion", file)
    with malformed(file):
        theirs = of_stage(DiffusionConfig, state["ldm"]["config"], str(file))
        model = restored(state, file)
    _expect_same(run, theirs, file)
    found = {
        "classes": (model.classes, classes),
        "data": (model.space.data_shape, tuple(shape)),
    }
    for what, (there, here) in found.items():
        if tuple(there) != tuple(here):
            raise Refusal(f"init: {what} of {file} are {there}, here they are {here}")
    inside = stage1_inside(state, file, shape)
    return Origin(model, fingerprint(model.denoiser.net)), inside


def _expect_same(run: DiffusionConfig, theirs: DiffusionConfig, file: Path) -> None:
    ours, other = schema.to_dict(run), schema.to_dict(theirs)
    parts = lambda d: {k: d[k] for k in SAME} | {"loss": _prediction(d)}  # noqa: E731
    keys = [k for k in schema.differences(parts(other), parts(ours)) if not k.startswith(OPEN)]
    if keys:
        there, here = value_at(other, keys[0]), value_at(ours, keys[0])
        raise Refusal(f"init: {keys[0]} of {file} is {there}, here it is {here}; make them equal")


def _prediction(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config["loss"][key] for key in ("predict", "std")}


def value_at(config: dict[str, Any], path: str) -> Any:
    """What stands at a dotted path of a plain config; None where nothing does."""
    found: Any = config
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def expect_same_origin(run: DiffusionConfig, origin: Origin, state: dict[str, Any]) -> None:
    """A resumed distillation has the teacher that it began with."""
    before = state["ldm"].get("init")
    if before != origin.hash:
        raise Refusal(f"--resume: init {run.init} is {origin.hash}, the run began with {before}")
