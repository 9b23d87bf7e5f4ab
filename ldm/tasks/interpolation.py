"""Interpolation: the way from one picture to another through the flow's noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ldm.errors import Refusal, say
from ldm.tasks.base import GUIDED, Task

if TYPE_CHECKING:
    from torch import Tensor

    from ldm.config import SampleConfig
    from ldm.sampling.requests import Seeds, Words
    from ldm.sampling.settings import Overrides
    from ldm.tasks.cases import Case
    from ldm.tasks.output import Result
    from ldm.tasks.prior import Prior

TOLERANCE = 1e-4  # of the solver, absolute and relative


@dataclass(frozen=True)
class Interpolation(Task):
    """As many pictures from one to another as there are seeds, both ends among them.

    Both are carried to noise by the probability flow, mixed on the sphere, and carried back.
    """

    name = "interpolate"
    about = "makes the way between two pictures, --count frames"
    methods: ClassVar = {"pixel": ("flow",), "latent": ("flow",)}
    pictures = 2

    def expect(self, seeds: Seeds, words: Words, overrides: Overrides) -> None:
        if len(seeds.listed(2)) < 2:
            raise Refusal(
                "--count: the way between two pictures has two ends; give at least 2 frames"
            )
        if words.prompt_file is not None:
            raise Refusal("--prompt-file: --task interpolate takes one prompt, --prompt TEXT")
        keys = ("solver", "solver_option", "eta", "steps", "grid")
        if unused := [key for key in keys if getattr(overrides, key) is not None]:
            flags = ", ".join(f"--{key.replace('_', '-')}" for key in unused)
            say(
                f"{flags}: not used, --task interpolate follows the flow by its own adaptive solver"
            )

    def describe(self, settings: SampleConfig) -> str:
        return f"dopri5 to {TOLERANCE:g}"

    def record(self, how: Mapping[str, Any], seed: int) -> dict[str, Any]:
        solver = {"name": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE}
        return {"solver": solver} | {key: how[key] for key in GUIDED if key in how}

    def joined(self, cases: list[Case]) -> list[Case]:
        import torch

        if len(cases) != 2:
            raise Refusal("--task interpolate needs two pictures; one of them cannot be read")
        first, second = cases
        pair = torch.stack([first.given, second.given])
        return [dataclasses.replace(first, name=f"{first.name}-{second.name}", given=pair)]

    def samples(
        self,
        prior: Prior,
        cases: Sequence[Case],
        progress: Callable[[int], object] = lambda done: None,
    ) -> Tensor:
        import torch

        with torch.no_grad():
            frames = [self.make(prior, case).cpu() for case in cases]
        progress(sum(map(len, frames)))
        return torch.stack(frames)

    def make(self, prior: Prior, case: Case) -> Tensor:
        """Frames from the first to the second of the case's pictures (2, C, H, W)."""
        import torch

        from ldm.diffusion.flow import Ode, from_noise, slerp, to_noise
        from ldm.diffusion.solvers import Unreached

        flow, condition = Ode(TOLERANCE, TOLERANCE), lambda n: prior.rows([0] * n).denoise()
        try:
            ends = prior.space.encode_mean(case.given.to(prior.device))
            first, second = to_noise(condition(2), ends, flow).split(1)
            weights = torch.linspace(0, 1, len(prior.seeds)).tolist()
            noise = torch.cat([slerp(first, second, weight) for weight in weights])
            parts = noise.split(prior.settings.batch_size)
            made = [from_noise(condition(len(part)), part, flow) for part in parts]
            return torch.cat([prior.space.decode(part) for part in made])
        except Unreached as error:
            raise Refusal(f"interpolate: {error}") from None

    def columns(self, case: Case) -> dict[str, Tensor]:
        return {"from": case.given[0], "to": case.given[1]}

    def result(self, prior: Prior, case: Case, made: Tensor) -> Result:
        """Frames, counted from 0."""
        result, frames = super().result(prior, case, made), list(range(len(made)))
        return dataclasses.replace(result, seeds=frames, mean=None, frames=True)
