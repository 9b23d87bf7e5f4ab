"""A diffusion model as the prior p(x) of a task: between a space's encoder and its decoder.

Pictures are (B, C, H, W) in [-1, 1], one row per sample, whose noise comes from its own seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import cast

import torch
from torch import Tensor

from ldm.config import SampleConfig
from ldm.diffusion import solvers, tasks
from ldm.diffusion.schedules import Schedule
from ldm.errors import Refusal
from ldm.pictures.space import PictureSpace
from ldm.sampling.conditions import Condition, bind
from ldm.sampling.model import Model
from ldm.system.randomness import SampleNoise
from ldm.tasks.cases import Case, stacked

DECODER_STD = 0.05  # of a decoder's own error: no latent decodes to a picture exactly
Make = Callable[["Prior", Case], Tensor]


@dataclass
class Prior:
    """A model and its settings, with one row per sample: its seed and condition.

    `watch(step, x_s, x0_hat)` sees every step.
    """

    model: Model
    settings: SampleConfig
    seeds: Sequence[int]
    condition: Condition = field(default_factory=Condition)
    watch: solvers.Watch | None = None

    def __post_init__(self) -> None:
        self.randn = SampleNoise(self.seeds, self.model.space.shape, self.device)
        try:
            self.times = self.schedule.grid(self.settings.steps, self.settings.grid)
        except ValueError as error:
            raise Refusal(f"sample: {error}") from None

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def schedule(self) -> Schedule:
        return self.model.schedule

    @property
    def space(self) -> PictureSpace:
        """The model's space: `Task.of` has refused those of other data than pictures."""
        return cast(PictureSpace, self.model.space)

    @property
    def latent(self) -> bool:
        return self.space.kind == "latent"

    def rows(self, rows: Sequence[int], watch: solvers.Watch | None = None) -> "Prior":
        """Some of the rows."""
        seeds, condition = [self.seeds[i] for i in rows], self.condition.rows(rows)
        return Prior(self.model, self.settings, seeds, condition, watch)

    @torch.no_grad()
    def each(self, cases: Sequence[Case], make: Make, progress: Callable[[int], object]) -> Tensor:
        """A sample of every case at every seed, by `make`: (cases, seeds, C, H, W) on the CPU.

        A sample depends on its case, its seed and the seed's condition alone: rows of one noise
        level share a batch, and the last one is filled up by repeats. `progress(n)` is called
        after every batch, and with 0 after every step; `watch` after every step of the first.
        """
        level = lambda row: cases[row[0]].noise_std  # noqa: E731
        rows = [(i, k) for i in range(len(cases)) for k in range(len(self.seeds))]
        done: dict[tuple[int, int], Tensor] = {}
        for _, group in groupby(sorted(rows, key=level), key=level):
            members = list(group)
            size = min(self.settings.batch_size, len(members))
            for start in range(0, len(members), size):
                part = members[start : start + size]
                filled = (part * size)[:size]
                seen = _seen(progress, None if done else self.watch)
                prior = self.rows([k for _, k in filled], seen)
                with self.model.cast():
                    made = make(prior, stacked([cases[i] for i, _ in filled], self.device))
                made = made.float().cpu()
                done |= dict(zip(part, made, strict=False))
                progress(len(part))
        every = torch.stack([done[row] for row in rows])
        return every.unflatten(0, (len(cases), len(self.seeds)))

    def denoise(self, **extras: Tensor) -> tasks.Guided:
        """The model under the condition, guided as the settings say; `extras` are given besides."""
        condition = replace(self.condition, extras=extras)
        return bind(self.model, self.settings, condition, len(self.seeds))

    def guided(self, operator: tasks.Operator, y: Tensor, std: float = 0.0) -> solvers.Denoise:
        """p(x | y = A x + n) by the gradient of the network, in latents through the decoder too.

        n ~ N(0, std^2). Without noise A x = y is met exactly in pixels.
        """
        if self.latent:
            std = (std**2 + operator.gram * DECODER_STD**2) ** 0.5
            return tasks.guide_through(self.denoise(), self.space.picture, operator, y, std)
        guided = tasks.guide(self.denoise(), operator, y, std)
        return guided if std else tasks.project(guided, operator, y)

    def sample(self, denoise: solvers.Denoise, solver: solvers.Solver | None = None) -> Tensor:
        """Pictures from noise alone."""
        x_1 = solvers.start(self.schedule, self.times[0], self.randn())
        return self.run(denoise, x_1, self.times, solver)

    def below(self, denoise: solvers.Denoise, t: Tensor, x_t: Tensor) -> Tensor:
        """Pictures from x_t, by as many steps as from noise."""
        return self.run(denoise, x_t, tasks.below(self.times, t))

    def run(
        self,
        denoise: solvers.Denoise,
        x: Tensor,
        times: Tensor,
        solver: solvers.Solver | None = None,
    ) -> Tensor:
        """From x at times[0] to pictures. Refusal if they are not finite."""
        solver = solver or self.settings.solver
        try:
            x = solvers.sample(solver, denoise, x, times, self.randn, self.watch)
        except solvers.Unreached as error:
            raise Refusal(f"sample: {error}") from None
        if not torch.isfinite(x).all():
            raise Refusal(
                "the task gave numbers that are not finite; try more steps or another solver"
            )
        return self.space.decode(x)

    def completed(self, case: Case) -> Tensor:
        """Pictures by a model that was trained to complete them."""
        extras = self.model.purpose.extras(self.space, case.given, case.known)
        return self.sample(self.denoise(**extras))


def _seen(progress: Callable[[int], object], watch: solvers.Watch | None) -> solvers.Watch:
    """What sees every step of a batch: how many there are, only the task knows."""

    def see(step: int, x_s: Tensor, x0_hat: Tensor) -> None:
        progress(0)
        if watch is not None:
            watch(step, x_s, x0_hat)

    return see
