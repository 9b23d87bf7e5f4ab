"""Super-resolution: a small picture is made large."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ldm.errors import Refusal
from ldm.tasks.base import TRAINED, Task
from ldm.tasks.options import Control, option

if TYPE_CHECKING:
    from torch import Tensor

    from ldm.pictures.opening import View
    from ldm.sampling.model import Model
    from ldm.tasks.cases import Case
    from ldm.tasks.prior import Prior

FACTOR = 4


@dataclass(frozen=True)
class SuperResolution(Task):
    """Pictures whose means over squares of `factor` pixels are the given ones."""

    name = "super-resolve"
    about = "enlarges a small picture"
    page = "Super-resolve: the picture is shrunk, and made large again"
    methods: ClassVar = {"pixel": ("guide", "project"), "latent": ("guide",)}
    controls: ClassVar = {"factor": Control("choice", "Times larger", FACTOR)}

    factor: int | None = option(
        None, f"times larger (default: {FACTOR}, or the checkpoint's)", "F", int
    )

    @classmethod
    def on_page(cls, values: Mapping[str, Any], whole: bool, method: str | None) -> Self:
        return cls(method=method, degrade=whole, **values)

    @classmethod
    def choices(cls, model: Model) -> list[int]:
        most = min(model.space.data_shape[1:]) // 2
        return [factor for factor in divisors(model) if factor <= most] or [2]

    @property
    def times(self) -> int:
        """How many times larger."""
        return FACTOR if self.factor is None else self.factor

    def fitted(self, model: Model) -> Self:
        if self.times not in (fits := divisors(model)):
            _, height, width = model.space.data_shape
            raise Refusal(
                f"--factor: {self.times} does not divide the model's {width} x {height} pixels; "
                f"these do: {fits}"
            )
        return dataclasses.replace(self, factor=self.times)

    def view(self, model: Model) -> View:
        """Small pictures are read as they are, whole ones with --degrade."""
        whole = super().view(model)
        _, height, width = whole.shape
        return whole if self.degrade else whole.scaled((height // self.times, width // self.times))

    def degraded(self, model: Model, case: Case, seed: int) -> Case:
        """Shrunk by means of squares, or as the model's training shrinks."""
        from ldm.diffusion.tasks import AveragePool

        if self.method == TRAINED:
            small, _ = model.purpose.degrade(case.given[None], [])
        else:
            small = AveragePool(self.times)(case.given[None])
        return dataclasses.replace(case, given=small[0], truth=case.given)

    def make(self, prior: Prior, case: Case) -> Tensor:
        from ldm.diffusion.tasks import AveragePool, project

        operator = AveragePool(self.times)
        if self.method == "guide":
            return prior.sample(prior.guided(operator, case.given))
        return prior.sample(project(prior.denoise(), operator, case.given))


def divisors(model: Model) -> list[int]:
    """How many times smaller the model's pictures can be, above 1."""
    _, height, width = model.space.data_shape
    return [f for f in range(2, min(height, width) + 1) if height % f == width % f == 0]
