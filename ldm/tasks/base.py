"""What every task has: options, inputs, methods, and the way from an input to results.

A task is one class in one file, and a line in `ldm.tasks.TASKS`; the flags of sample.py, the page
and the table of the docs come from there. These files import torch inside methods alone, so that
`sample.py --help` and mistakes in its arguments need not wait for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ldm.errors import Refusal, one_of
from ldm.tasks.options import Control, flags, option

if TYPE_CHECKING:
    from torch import Tensor

    from ldm.config import SampleConfig
    from ldm.diffusion.solvers import Solver
    from ldm.pictures.opening import View
    from ldm.sampling.conditions import Condition
    from ldm.sampling.model import Model
    from ldm.sampling.requests import Seeds, Words
    from ldm.sampling.settings import Overrides
    from ldm.tasks.cases import Case
    from ldm.tasks.output import Result
    from ldm.tasks.prior import Prior

TRAINED = "trained"  # the method of a model that was trained for the task
GUIDED = (
    "guidance",
    "guide",
    "interval",
    "rescale",
    "batch_size",
)  # settings of every way to solve one


@dataclass(frozen=True)
class Task:
    """A use of a model of pictures, with its options. `method` None: the first that is offered.

    name: of --task. about: what it does, for the docs. page: the same in the page's words, empty
    where the page has it not. methods: by the kind of space, the default first. mask: whether an
    input is a picture and a mask. pictures: how many inputs make one case. controls: the page's,
    by the option.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    page: ClassVar[str] = ""
    methods: ClassVar[Mapping[str, tuple[str, ...]]]
    mask: ClassVar[bool] = False
    pictures: ClassVar[int] = 1
    controls: ClassVar[Mapping[str, Control]] = {}

    method: str | None = option(None, "the way it is done (default: the first that fits)", "M")
    degrade: bool = option(False, "make the input from --image, which is the truth")

    # -- what is asked ----------------------------------------------------------------------------
    @classmethod
    def asked(cls, words: Mapping[str, Any]) -> Self:
        """Of what argparse found; None stands for the default."""
        names = [flag.name for flag in flags(cls)]
        return cls(**{key: words[key] for key in names if words.get(key) is not None})

    @classmethod
    def on_page(cls, values: Mapping[str, Any], whole: bool, method: str | None) -> Self:
        """Of what the page's controls say; `whole`: the picture is as large as the model's."""
        return cls(method=method, **values)

    @classmethod
    def offered(cls, model: Model) -> tuple[str, ...]:
        """How a model does it, the default first; a trained one its own task alone, and a student
        of few steps none: it jumps to a sample, where a task asks for means and scores at every t.
        """
        if model.settings.solver.few:
            return ()
        if model.purpose.use is None:
            return cls.methods.get(model.space.kind, ())
        return (TRAINED,) if model.purpose.use == cls.name else ()

    @classmethod
    def choices(cls, model: Model) -> list[int]:
        """What the page's control of kind "choice" offers."""
        return []

    def of(self, model: Model) -> Self:
        """The same with its defaults filled in. Refusal where the model cannot do it so."""
        if model.space.modality != "pictures":
            kind = model.space.modality
            raise Refusal(f"--task {self.name} is of pictures; this checkpoint makes {kind}")
        if model.settings.solver.few:
            raise Refusal(
                f"--task {self.name}: a student of few steps only makes samples; give the "
                "checkpoint of its teacher"
            )
        purpose, offered = model.purpose, self.offered(model)
        if not offered:
            raise Refusal(
                f"--task {self.name}: this checkpoint is trained for {purpose.use} alone and "
                f"needs {purpose.needs}"
            )
        if self.method is not None and self.method not in offered:
            raise Refusal(self._no_method(model, offered))
        for key, value in purpose.fixed.items():
            if getattr(self, key) not in (None, value):
                given = getattr(self, key)
                raise Refusal(f"--{key}: this checkpoint is trained with {value}, not {given}")
        fixed: dict[str, Any] = {"method": self.method or offered[0]} | purpose.fixed
        return dataclasses.replace(self, **fixed).fitted(model)

    def _no_method(self, model: Model, offered: tuple[str, ...]) -> str:
        if self.method == TRAINED:
            return (
                f"--method trained: this checkpoint is not trained for {self.name}; it does it by "
                + ", ".join(offered)
            )
        where = f"in {model.space.kind} space"
        if offered == (TRAINED,):
            where = "by a checkpoint that is trained for it"
        return one_of(f"--method of {self.name} {where}", str(self.method), offered)

    def fitted(self, model: Model) -> Self:
        """The options, those that the model decides filled in. Refusal if they do not fit it."""
        return self

    def expect(self, seeds: Seeds, words: Words, overrides: Overrides) -> None:
        """Refusal of what cannot be asked of the task, and a line about what it does not use."""

    # -- how it is solved -------------------------------------------------------------------------
    def settings(self, model: Model, overrides: Overrides) -> SampleConfig:
        """The checkpoint's settings, with a stochastic solver unless one is named.

        By a deterministic one all seeds of a noisy picture would give the same. Refusal if the
        solver cannot run on the schedule, or not for this task.
        """
        from ldm.diffusion.solvers import DPMpp2MSDE

        defaults = dataclasses.replace(model.settings, solver=DPMpp2MSDE())
        settings = overrides.over(defaults, model.schedule)
        try:
            grid = model.schedule.grid(settings.steps, settings.grid)
            self.solver(settings.solver).bind(model.schedule, grid)
        except ValueError as error:
            raise Refusal(f"sample: {error}") from None
        return settings

    def solver(self, solver: Solver) -> Solver:
        """What steps, given the solver of the settings."""
        return solver

    def describe(self, settings: SampleConfig) -> str:
        """How it is solved, in a few words."""
        return settings.solved

    def title(self, settings: SampleConfig) -> str:
        """What a panel of its results says above them."""
        return f"{self.name.capitalize()} (method {self.method}), {self.describe(settings)}"

    def record(self, how: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """How it is solved, for settings.json, of the record of the settings that it is given."""
        kept = (*GUIDED, "solver", "steps", "grid")
        return {"seed": seed} | {key: how[key] for key in kept if key in how}

    # -- inputs -----------------------------------------------------------------------------------
    def view(self, model: Model) -> View:
        """How its pictures are read: as in training."""
        from ldm.tasks.inputs import view_of

        return view_of(model)

    def ready(self, model: Model, case: Case, seed: int, where: str) -> Case:
        """An input as the task wants it, with --degrade made from the truth."""
        return self.degraded(model, case, seed) if self.degrade else case

    def degraded(self, model: Model, case: Case, seed: int) -> Case:
        """A case whose input is made from the picture, which is the truth."""
        raise Refusal(f"--degrade: --task {self.name} has no way to make its input from a picture")

    def joined(self, cases: list[Case]) -> list[Case]:
        """Inputs put together where several make one case."""
        return cases

    # -- results ----------------------------------------------------------------------------------
    def make(self, prior: Prior, case: Case) -> Tensor:
        """Pictures (B, C, H, W), one for each row of the prior and of the case, a batch."""
        raise NotImplementedError

    def batch(self, prior: Prior, case: Case) -> Tensor:
        """The same, by a trained model as it was trained."""
        return prior.completed(case) if self.method == TRAINED else self.make(prior, case)

    def samples(
        self,
        prior: Prior,
        cases: Sequence[Case],
        progress: Callable[[int], object] = lambda done: None,
    ) -> Tensor:
        """A sample of every case at every seed of the prior: (cases, seeds, C, H, W) on the CPU."""
        return prior.each(cases, self.batch, progress)

    def columns(self, case: Case) -> dict[str, Tensor]:
        """The panel's first columns by their headings: pictures (C, H, W)."""
        truth = {} if case.truth is None else {"truth": case.truth}
        return truth | {"given": case.given}

    def result(self, prior: Prior, case: Case, made: Tensor) -> Result:
        """A case and its samples (seeds, C, H, W), ready to be shown and written."""
        from ldm.tasks.output import Result

        mean, view = made.mean(0) if len(made) > 1 else None, prior.model.view
        prompts = prior.condition.prompts
        return Result(
            case.name,
            self.columns(case),
            made,
            list(prior.seeds),
            mean=mean,
            prompts=prompts,
            span=view.span if view else None,
        )

    def said(self, case: Case) -> str:
        """What is said of a case on the page beside how it was solved."""
        return ""

    def solve(
        self,
        model: Model,
        images: Tensor,
        mask: Tensor | None = None,
        seeds: Sequence[int] = (0,),
        condition: Condition | None = None,
        settings: SampleConfig | None = None,
    ) -> Tensor:
        """A sample of every picture at every seed: (pictures, seeds, C, H, W) in [-1, 1], CPU.

        images: (N, C, H, W) in [-1, 1], or uint8. mask: where to paint, (H, W), (1, H, W) or
        (N, 1, H, W), for a task that takes one. condition: one row per seed, by default the null
        condition. settings: by default the checkpoint's, with the task's own solver. Refusal if
        the model cannot do it.
        """
        from ldm.sampling.conditions import Condition
        from ldm.sampling.settings import Overrides
        from ldm.tasks.cases import cases_of
        from ldm.tasks.prior import Prior

        task = self.of(model)
        settings = settings or task.settings(model, Overrides())
        if (mask is not None) != self.mask:
            raise Refusal(f"mask: {self.name} {'needs one' if self.mask else 'takes none'}")
        cases = cases_of(images, mask)
        ready = [task.ready(model, case, seeds[0], "the picture") for case in cases]
        return task.samples(
            Prior(model, settings, seeds, condition or Condition()), task.joined(ready)
        )
