"""In-painting: a hole is filled, what is around it stays."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from ldm.errors import Refusal
from ldm.tasks.base import TRAINED, Task
from ldm.tasks.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from ldm.diffusion.solvers import Solver
    from ldm.sampling.model import Model
    from ldm.tasks.cases import Case
    from ldm.tasks.output import Result
    from ldm.tasks.prior import Prior


@dataclass(frozen=True)
class InPainting(Task):
    """Pictures whose pixels with known = 0 are made; the others are as given.

    By the gradient's guidance (`guide`), by projection of x0_hat on what is known (`project`), the
    same with resampling (`repaint`), or in latents by their own mask (`blend`).
    """

    name = "inpaint"
    about = "fills the mask's white"
    page = "In-paint: draw over what is to be made anew"
    methods: ClassVar = {"pixel": ("guide", "project", "repaint"), "latent": ("guide", "blend")}
    mask = True

    resamples: int = option(4, "times that repaint takes a step (default: 4)", "N", int)

    def fitted(self, model: Model) -> Self:
        if not 1 <= self.resamples <= 1000:
            raise Refusal(f"--resamples must be in 1 ... 1000, got {self.resamples:.4g}")
        return self

    def solver(self, solver: Solver) -> Solver:
        from ldm.diffusion.tasks import Repaint

        return Repaint(solver, self.resamples) if self.method == "repaint" else solver

    def make(self, prior: Prior, case: Case) -> Tensor:
        from ldm.diffusion.tasks import Mask, project

        if self.method == "blend":
            return blended(prior, case)
        operator = Mask(case.known)
        y = operator(case.given)
        if self.method == "guide":
            return prior.sample(prior.guided(operator, y))
        solver = self.solver(prior.settings.solver)
        return prior.sample(project(prior.denoise(), operator, y), solver)

    def columns(self, case: Case) -> dict[str, Tensor]:
        import torch

        mask = {"given, mask in white": torch.where(case.known > 0, case.given, 1.0)}
        # of the truth, the mask shows what is used of it
        return (super().columns(case) if case.truth is None else {"truth": case.truth}) | mask

    def result(self, prior: Prior, case: Case, made: Tensor) -> Result:
        """With the known pixels put back where the method does not meet them."""
        if self.method != TRAINED and not prior.latent:
            return super().result(prior, case, made)
        pasted = paste(made, case.given, case.known)
        return dataclasses.replace(super().result(prior, case, pasted), raw=made)


def paste(made: Tensor, images: Tensor, known: Tensor) -> Tensor:
    """The known pixels put back over what was made."""
    return made.where(known == 0, images)


def blended(prior: Prior, case: Case) -> Tensor:
    """By the latents' own mask: a cell is known if all its pixels are; holes are encoded grey."""
    import torch

    from ldm.diffusion.tasks import Mask, project

    known, images = case.known, case.given
    count = known.sum((2, 3), keepdim=True).clamp(min=1)
    middle = (images * known).sum((2, 3), keepdim=True) / count
    latents = prior.space.encode_mean(torch.where(known > 0, images, middle))
    operator = Mask(1 - prior.space.on_grid(1 - known))
    return prior.sample(project(prior.denoise(), operator, operator(latents)))
