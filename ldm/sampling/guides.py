"""Guides: worse models that samples are led away from, found, checked and loaded once.

Karras et al. 2024, "Guiding a diffusion model with a bad version of itself". The guide's x must be
the model's: of one shape, space and schedule. Its network may be another, of fewer conditions too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldm.checkpoints import checkpoint
from ldm.checkpoints.finding import find_checkpoint
from ldm.checkpoints.safe import malformed
from ldm.config import Guide, SampleConfig
from ldm.diffusion.space import Space
from ldm.errors import Refusal
from ldm.sampling.model import Model, fingerprint, restored
from ldm.sampling.worse import INSIDE, Worse

NEAR = 0.02  # of statistics that are measured anew by every run, in standard deviations


def guide_of(model: Model, which: Guide) -> Worse | None:
    """The guide that settings name, loaded at the first use; None where they name none.

    Refusal if there is none, or if its x means something else than the model's.
    """
    if not which.chosen:
        return None
    if which not in model.guides:
        model.guides[which] = load_guide(model, which)
    return model.guides[which]


def recorded(model: Model, settings: SampleConfig) -> dict[str, Any]:
    """How samples were made, for the files that are kept of it: a guide with its weights' hash."""
    how = settings.record()
    if guide := guide_of(model, settings.guide):
        how["guide"] |= {"hash": guide.hash}
    return how


def load_guide(model: Model, which: Guide) -> Worse:
    """The same, read from its file."""
    if which.run == INSIDE.run:
        raise Refusal("guide: this checkpoint holds none; name a run, or weights of this one")
    file = model.file if which.run is None else find_checkpoint(which.run)
    if file is None:
        raise Refusal("guide: this model is of no checkpoint, whose weights could be a guide")
    return worse(model, *read_guide(file, which.weights or "ema", str(model.device)), file)


def read_guide(file: Path, weights: str, device: str) -> tuple[Model, dict[str, Any]]:
    """The model of a guide's checkpoint, and its config."""
    state = checkpoint.read_checkpoint(file)
    checkpoint.expect_stage(state, "diffusion", file)
    try:
        with malformed(file):
            return restored(state, file, weights, device), state["ldm"]["config"]
    except Refusal as error:  # the weights that are asked for here are the guide's
        raise Refusal(str(error).replace("--weights:", "guide: weights:")) from None


def worse(model: Model, other: Model, config: dict[str, Any], file: Path) -> Worse:
    """The guide that another model is. Refusal where it cannot be one."""
    expect_same_x(model, other, file)
    expect_within(model, other, file)
    if _same_weights(model.denoiser, other.denoiser):
        raise Refusal(
            f"guide: {file} is the model itself, and would lead nowhere; name a worse one"
        )
    lacks = [] if other.classes else ["label"]
    lacks += [] if other.text is not None else ["text", "text_mask"]
    digest, width = fingerprint(other.denoiser.net), other.text.dim if other.text else 0
    about: dict[str, Any] = {"config": config, "hash": digest, "lacks": lacks}
    about |= {"classes": len(other.classes), "text": width}
    return Worse(other.denoiser, digest, frozenset(lacks), about)


def expect_same_x(model: Model, other: Model, file: Path) -> None:
    """Refusal unless x_t means the same to both: shape, schedule, space and its statistics."""
    ours, theirs = model.space, other.space
    pairs = {
        "data": ((ours.modality, *ours.data_shape), (theirs.modality, *theirs.data_shape)),
        "space": ((ours.kind, *ours.shape), (theirs.kind, *theirs.shape)),
        "schedule": (model.schedule, other.schedule),
        "stage 1": (_stage1(ours), _stage1(theirs)),
    }
    for what, (here, there) in pairs.items():
        if here != there:
            raise Refusal(f"guide: {what} of {file} is {_said(there)}, the model's {_said(here)}")
    if ours.units is None or theirs.units is None:
        return
    (zero, unit), (zero_there, unit_there) = ours.units, theirs.units
    if zero.shape != zero_there.shape:
        raise Refusal(f"guide: x of {file} is made of the data in another way than the model's")
    off = torch.maximum(((zero_there - zero) / unit).abs(), (unit_there / unit - 1).abs())
    if off.max() > NEAR:
        how = f"differ by {float(off.max()):.2g} standard deviations"
        raise Refusal(f"guide: the statistics of {file} {how}; train it on the model's data")


def expect_within(model: Model, other: Model, file: Path) -> None:
    """Refusal unless what the model is given is enough for the guide."""
    text = None if model.text is None else model.text.hash
    read = None if other.text is None else other.text.hash
    pairs: dict[str, tuple[Any, list[Any]]] = {
        "task": (model.purpose, [other.purpose]),
        "classes": (other.classes, [model.classes, ()]),
        "text encoder": (read, [text, None]),
        "conditions of each sample": (other.features, [model.features]),
    }
    for what, (there, known) in pairs.items():
        if there not in known:
            raise Refusal(f"guide: {what} of {file} is {_said(there)}, not {_said(known[0])}")
    if other.denoiser.loss_config.few:
        raise Refusal(f"guide: {file} is a model of a few steps, whose estimate is no mean")


def _stage1(space: Space) -> str | None:
    return None if space.first_stage is None else fingerprint(space.first_stage)


def _said(value: object) -> str:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value)
    return " ".join(map(str, value)) or "none"


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(
        a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a
    )
