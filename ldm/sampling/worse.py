"""A worse model of the same x, to be guided away from; and the one that a checkpoint holds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.checkpoints.weights import build_fitting, hash_of_weights, under
from ldm.config import DiffusionConfig, Guide, of_stage
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.space import Shape
from ldm.errors import Refusal

INSIDE = Guide("inside")  # the guide that a checkpoint holds


@dataclass(frozen=True)
class Worse:
    """A worse model of the same x, to be guided away from, and which conditions it does not take.

    hash: of its network's weights. about: what a checkpoint that holds it says of it.
    """

    denoiser: Denoiser
    hash: str
    lacks: frozenset[str] = frozenset()
    about: dict[str, Any] = field(default_factory=dict)

    def state(self) -> dict[str, Tensor]:
        """Its weights, as they lie in a checkpoint that holds it."""
        return {f"guide.{key}": value for key, value in self.denoiser.net.state_dict().items()}


def guides_inside(
    state: dict[str, Any], x: tuple[Shape, Schedule], file: Path, device: str = "cpu"
) -> dict[Guide, Worse]:
    """The guide that a checkpoint of x, its shape and schedule, holds, if any.

    Refusal where its weights are not of its hash, or its x is another.
    """
    about = state["ldm"].get("guide")
    if about is None:
        return {}
    where, (shape, schedule), width = f"the guide inside {file}", x, about["text"]
    config = of_stage(DiffusionConfig, about["config"], where)
    if config.schedule != schedule:
        raise Refusal(f"checkpoint: {where} is of schedule {config.schedule}, not {schedule}")
    net = build_fitting(
        lambda: config.network.build(
            shape, about["classes"], width, config.task.channels(shape[0])
        ),
        under(state["state_dict"], "guide."),
        where,
    )
    if hash_of_weights(net.state_dict().items()) != about["hash"]:
        raise Refusal(
            f"checkpoint: {where} is not the one it was written with; the file is damaged"
        )
    denoiser = Denoiser(net, config.schedule, config.loss).eval().requires_grad_(False).to(device)
    return {INSIDE: Worse(denoiser, about["hash"], frozenset(about["lacks"]), about)}
