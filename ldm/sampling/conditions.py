"""The condition of samples, bound to the denoiser: class, caption and guidance."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ldm.config import SampleConfig
from ldm.diffusion.schedules import expand
from ldm.diffusion.space import Extras
from ldm.diffusion.tasks import Guided, autoguided, cfg
from ldm.sampling.guides import guide_of
from ldm.sampling.model import Model

KEPT = ("mask", "concat")  # of what a denoiser is given, what guidance never leaves out


@dataclass(frozen=True)
class Condition:
    """What each sample is conditioned on, a row each: class, caption; None: the null condition.

    `extras`: what space or task add: a mask, a jet's features, channels beside x_t.
    """

    labels: Sequence[int] | None = None
    prompts: Sequence[str] | None = None
    extras: Extras = field(default_factory=dict)

    def rows(self, rows: Sequence[int]) -> "Condition":
        """Some of the rows."""
        extras = {key: value[list(rows)] for key, value in self.extras.items()}
        return Condition(
            None if self.labels is None else [self.labels[i] for i in rows],
            None if self.prompts is None else [self.prompts[i] for i in rows],
            extras,
        )

    def tensors(self, model: Model, count: int) -> dict[str, Tensor]:
        """What the network is given, `count` rows on the model's device."""
        cond = {key: value.to(model.device) for key, value in self.extras.items()}
        if model.classes:
            null = len(model.classes)
            cond["label"] = torch.tensor(
                [null] * count if self.labels is None else self.labels, device=model.device
            )
        if self.prompts is not None and model.text is not None:
            cond |= model.text.condition(self.prompts, model.device)
        return cond


def completed(model: Model, seeds: Sequence[int], condition: Condition) -> Condition:
    """The condition with defaults: label seed modulo classes, own prompts, the space's draw."""
    labels, prompts = condition.labels, condition.prompts
    if labels is None and model.classes:
        labels = [seed % len(model.classes) for seed in seeds]
    if prompts is None and model.text is not None:
        prompts = model.prompts_of(seeds)
    return replace(
        condition,
        labels=labels,
        prompts=prompts,
        extras=condition.extras or model.space.draw(seeds, labels),
    )


def bind(model: Model, settings: SampleConfig, condition: Condition, count: int) -> Guided:
    """The denoiser of `count` samples, guided from the null condition to theirs.

    Or from the guide that the settings name, under as much of the condition as it takes.
    """
    cond = condition.tensors(model, count)
    chosen = (bool(model.classes) and condition.labels is not None) or condition.prompts is not None
    rows = torch.ones(count, dtype=torch.bool, device=model.device)
    null = (
        without(cond, rows, len(model.classes))
        if chosen or condition.extras.keys() - KEPT
        else None
    )
    low, high = settings.interval
    free = cfg(model.denoiser, cond, null, settings.guidance, (low, high), settings.rescale)
    if (guide := guide_of(model, settings.guide)) is None:
        return free
    taken = {key: value for key, value in cond.items() if key not in guide.lacks}
    return autoguided(free, guide.denoiser, taken)


def without(cond: dict[str, Tensor], rows: Tensor, classes: int) -> dict[str, Tensor]:
    """The condition with the null condition in these rows (B,): no class, features or caption."""
    null = {"label": classes, "jet": float("nan"), "text": 0.0, "text_mask": False}
    return {k: v if k in KEPT else v.masked_fill(expand(rows, v), null[k]) for k, v in cond.items()}
