"""Editing: a picture is noised part of the way, and another one is made from there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from ldm.errors import Refusal
from ldm.tasks.base import Task
from ldm.tasks.options import Control, option

if TYPE_CHECKING:
    from torch import Tensor

    from ldm.sampling.model import Model
    from ldm.tasks.cases import Case
    from ldm.tasks.prior import Prior


@dataclass(frozen=True)
class Editing(Task):
    """SDEdit: noised up to t = strength, and down again."""

    name = "edit"
    about = "changes a picture, with --label or --prompt towards it"
    page = "Edit: half-way to noise, and back as another"
    methods: ClassVar = {"pixel": ("edit",), "latent": ("edit",)}
    controls: ClassVar = {
        "strength": Control("slider", "Strength", 0.6, "0 keeps all, 1 nothing", (0.05, 1), most=1)
    }

    strength: float = option(0.6, "0 keeps all, 1 nothing (default: 0.6)", "T", float)

    def fitted(self, model: Model) -> Self:
        if not 0 < self.strength <= 1:
            raise Refusal(
                f"--strength: {self.strength:g} is not above 0 and at most 1; "
                "1 keeps least of the picture"
            )
        return self

    def make(self, prior: Prior, case: Case) -> Tensor:
        from ldm.diffusion.tasks import edit

        latents = prior.space.encode_mean(case.given)
        start = edit(prior.schedule, latents, self.strength, prior.randn())
        return prior.below(prior.denoise(), *start)
