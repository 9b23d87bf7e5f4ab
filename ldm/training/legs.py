"""The legs of a run: its stages, each from its start or from the checkpoint it goes on from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from ldm.checkpoints.finding import find_checkpoint
from ldm.config import AutoencoderConfig, Config, DiffusionConfig, stage1_of
from ldm.errors import Refusal, one_of
from ldm.system.data import DataSet
from ldm.training.arithmetic import work
from ldm.training.autoencoder import AutoencoderModule
from ldm.training.diffusion import DiffusionModule
from ldm.training.given import Captions, captions_of, classes_of
from ldm.training.origin import Origin, expect_same_origin, find_origin
from ldm.training.resume import about_data, expect_same_data, keep_global_batch, resume_point
from ldm.training.stage import Stage
from ldm.training.stage1 import Stage1, find_stage1, is_finished, shared_stage1, stage1_inside

# the checkpoint to go on from and its state, and why a dry run could not begin in its folder
Point = tuple[Path | None, dict[str, Any], Refusal | None]


def point_of(run: Config, resume: bool, dry_run: bool) -> Point:
    """Where a stage begins. Refusal where its folder is another run's, but in a dry run."""
    try:
        return *resume_point(run, resume), None
    except Refusal as refusal:
        if not dry_run:
            raise
        return None, {}, refusal


@dataclass
class Leg(ABC):
    """One stage of a plan: what is trained, and from which checkpoint on."""

    run: Config
    images: DataSet
    start: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)
    refused: Refusal | None = None  # why it cannot begin in its folder, in a dry run
    module: Stage = field(init=False, repr=False)  # or a sketch of it, once the plan is made

    def begin(self, point: Point) -> None:
        """Go on from a checkpoint, or begin; the data are held against those it began with."""
        self.start, self.state, self.refused = point
        self.read_conditions()
        if self.start is not None:
            meta, given = self.state["ldm"], self.given()
            expect_same_data(self.run, self.images, self.start, meta, *given)
            keep_global_batch(self.run, self.state)

    def read_conditions(self) -> None:  # noqa: B027  (nothing, of most stages)
        """What the model is given of the data beside the pictures or jets themselves."""

    def given(self) -> tuple[Sequence[str] | None, bool]:
        """The classes that the model is given, None for none ever, and whether captions are."""
        return None, False

    def check(self) -> None:  # noqa: B027
        """Refusal for settings of this stage that would fail later."""

    def notes(self) -> list[str]:
        """What the plan shows of the stage beside its parts."""
        return []

    def ready(self) -> Stage:
        """The module to train, its stage 1 there; made now where it was a sketch."""
        if any(weight.is_meta for weight in self.module.parameters()):
            self.module = self.build()
        return self.module

    def build(self) -> Stage:
        """A new module, seeded."""
        pl.seed_everything(self.run.seed, verbose=False)
        made = self.make()
        made.data, made.data_about = about_data(self.images), self.images.about()
        return made

    @abstractmethod
    def make(self) -> Stage:
        """A new module."""

    def sketch(self) -> Stage:
        """The same in shapes alone, while its stage 1 is still to be trained."""
        return self.build()

    def first(self, resume: bool) -> AutoencoderConfig | None:
        """The stage 1 that is to be trained before."""
        return None

    def worth(self, later: Sequence["Leg"]) -> dict[str, float]:
        """How many steps of this stage the work of each later one is worth, by name."""
        if not later:
            return {}
        step = work(self.module)
        return {leg.run.name: leg.run.trainer.max_steps * work(leg.module) / step for leg in later}


@dataclass
class AutoencoderLeg(Leg):
    """Stage 1."""

    run: AutoencoderConfig

    def make(self) -> AutoencoderModule:
        return AutoencoderModule(self.run, self.images.shape, self.images.classes)


@dataclass
class DiffusionLeg(Leg):
    """Stage 2, the pixel baseline or jets."""

    run: DiffusionConfig
    stage1: AutoencoderConfig | None = None  # under it, where its config names it
    classes: tuple[str, ...] = ()
    captions: Captions | None = None

    def read_conditions(self) -> None:
        self.classes = classes_of(self.run, self.images)
        self.captions = captions_of(self.run, self.images)

    def given(self) -> tuple[Sequence[str] | None, bool]:
        return self.classes, self.captions is not None

    def first(self, resume: bool) -> AutoencoderConfig | None:
        if self.start is None and (stage1 := stage1_of(self.run)):
            self.stage1 = shared_stage1(self.run, self.images, stage1, resume)
        return self.stage1 if self.stage1 and not is_finished(self.stage1) else None

    def make(self) -> DiffusionModule:
        origin, inside = self._origin()
        if self.start:  # a module to load a checkpoint into
            inside = stage1_inside(self.state, self.start, self.images.shape)
        if inside is None:
            inside = find_stage1(self.run, self.images, self.stage1)
        return self._module(inside, origin)

    def _origin(self) -> tuple[Origin | None, Stage1 | None]:
        """The model of `init` and its stage 1; on a resume only where it is a teacher."""
        taught = self.run.loss.teachers_guidance is not None
        if self.start is not None and not taught:
            return None, None
        found = find_origin(self.run, self.images.shape, self.classes) or (None, None)
        if self.start is not None and found[0] is not None:
            expect_same_origin(self.run, found[0], self.state)
        return found

    def sketch(self) -> DiffusionModule:
        assert self.stage1 is not None, "what is not sketched is built"
        with torch.device("meta"):
            autoencoder = self.stage1.network.build(self.images.shape)
            return self._module(Stage1(autoencoder, self.stage1))

    def check(self) -> None:
        """The times and the solver that panels will ask for."""
        sample, schedule = self.run.sample, self.run.schedule
        try:
            sample.solver.bind(schedule, schedule.grid(sample.steps, sample.grid))
        except ValueError as error:
            raise Refusal(f"sample: {error}") from None
        self._expect_guide()

    def _expect_guide(self) -> None:
        """The guide of panels' samples is there, or is an average that the run keeps."""
        guide, optim = self.run.sample.guide, self.run.optim
        if guide.run is not None:
            find_checkpoint(guide.run)
        elif guide.chosen:
            kept = [f"ema:{decay:g}" for decay in optim.ema_more]
            if not kept:
                raise Refusal("sample.guide: this run keeps one average; optim.ema_more=[0.9], say")
            if guide.decay not in optim.ema_more:
                raise Refusal(f"sample.guide: {one_of('weights', str(guide.weights), kept)}")

    def notes(self) -> list[str]:
        guidance, init = self.run.loss.teachers_guidance, self.run.init
        taught = "" if guidance is None else f", the teacher at guidance {guidance:g}"
        said = [f"init       {init}{taught}"] if init else []
        if self.stage1 is None or not is_finished(self.stage1):
            return said
        return [*said, f"stage 1    {self.stage1.folder}/, finished"]

    def _module(self, stage1: Stage1 | None, origin: Origin | None = None) -> DiffusionModule:
        rest = stage1, self.captions, origin
        made = DiffusionModule(self.run, self.images.shape, self.classes, *rest)
        made.space.note(self.images.about())
        return made


def leg_of(run: Config, images: DataSet) -> Leg:
    """The leg of a config's stage."""
    if isinstance(run, DiffusionConfig):
        return DiffusionLeg(run, images)
    return AutoencoderLeg(run, images)
