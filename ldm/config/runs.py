"""Typed configuration: the schema is the registry.

A component is its own schema (a dataclass) and a union annotation is the list of choices: `name:`
picks the member (schema.py has the mechanics, choices.py the unions). A config from a stranger
cannot run code. `load` checks everything before anything is built, and says in one line the key's
path and the nearest name.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from ldm.config.choices import (
    AnyAutoencoder,
    AnyData,
    AnyLoss,
    AnyNetwork,
    AnyPerceptual,
    AnyPurpose,
    AnySchedule,
    AnySpace,
    AnyText,
)
from ldm.config.older import today
from ldm.config.plain import check
from ldm.config.schema import typed
from ldm.config.sections import (
    Discriminator,
    Evaluate,
    LoggerConfig,
    Optim,
    SampleConfig,
    TrainerConfig,
)
from ldm.diffusion.denoiser import Loss
from ldm.diffusion.schedules import VP
from ldm.errors import Refusal, one_of, require
from ldm.metrics.perceptual import LPIPS
from ldm.networks.autoencoder import AutoencoderKL
from ldm.networks.text import MiniLM
from ldm.networks.unet import UNet
from ldm.pictures.images import Digits
from ldm.pictures.space import Pixels
from ldm.pictures.trained import Generate
from ldm.system.names import file_name, plain


@dataclass
class RunConfig:
    """What both stages have."""

    name: str = "???"
    stage: str = "diffusion"
    seed: int = 0
    output: str = "checkpoints"  # the run's folder is output/name
    data: AnyData = field(default_factory=Digits)
    optim: Optim = field(default_factory=Optim)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluate: Evaluate = field(default_factory=Evaluate)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, f"seed must be at least 0 and below 2^32, got {self.seed}")
        better = f"'{file_name(self.name)}' would be one"
        require(plain(self.name), f"name '{self.name}' must be a plain folder name; {better}")

    @property
    def folder(self) -> Path:
        return Path(self.output, self.name)

    @property
    def adversarial(self) -> bool:
        """Whether a discriminator is trained beside the network."""
        return False


@dataclass
class AutoencoderConfig(RunConfig):
    """Stage 1: an autoencoder to make latents with."""

    network: AnyAutoencoder = field(default_factory=AutoencoderKL)
    reconstruction: Literal["l1", "l2"] = "l2"
    perceptual: AnyPerceptual = field(default_factory=LPIPS)
    discriminator: Discriminator = field(default_factory=Discriminator)

    def __post_init__(self) -> None:
        super().__post_init__()
        name, modality = type(self.data).__name__, self.network.modality
        what = f"stage autoencoder is for {modality}; data {name} is of stage diffusion"
        require(self.data.modality == modality, what)

    @property
    def adversarial(self) -> bool:
        return self.discriminator.weight > 0


@dataclass
class DiffusionConfig(RunConfig):
    """Stage 2 (space Latents), the pixel baseline (space Pixels), or jets (space PointCloud)."""

    space: AnySpace = field(default_factory=Pixels)
    # what the model is trained for
    task: AnyPurpose = field(default_factory=Generate)
    network: AnyNetwork = field(default_factory=UNet)
    schedule: AnySchedule = field(default_factory=VP)
    loss: AnyLoss = field(default_factory=Loss)
    # a run or checkpoint of the same network, schedule and space: its averaged weights, statistics
    # and stage 1 are where this run starts; the teacher of loss Consistency
    init: str | None = None
    # auto: the label, where the data has classes; text: the captions; both: the two of them
    condition: Literal["auto", "label", "text", "both", "none"] = "auto"
    text: AnyText = field(default_factory=MiniLM)  # what reads captions
    drop: float = 0.1  # share of samples that train without their condition, for guidance
    sample: SampleConfig = field(default_factory=SampleConfig)
    # over the config that space.autoencoder names: stage1.trainer.max_steps=20 is stage 1's length
    stage1: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.drop <= 1, f"drop must be in [0, 1], got {self.drop}")
        self._expect_one_modality()
        self._expect_supported()
        self._expect_times()
        self._expect_few()

    @property
    def autoencoder(self) -> str | None:
        """What `space.autoencoder` names; None where the space has none, or `init` brings it."""
        return None if self.init else self.space.first_stage

    def _expect_one_modality(self) -> None:
        """Data, space and network are of one modality, and the task and the figures too."""
        parts = {"data": self.data, "space": self.space, "network": self.network}
        got = [f"{key} {type(part).__name__} is for {part.modality}" for key, part in parts.items()]
        same = len({part.modality for part in parts.values()}) == 1
        require(same, f"data, space and network do not fit: {', '.join(got)}")
        trained, modality = type(self.task).__name__, self.data.modality
        fits = self.task.modality in (None, modality)
        require(fits, f"task {trained} is for {self.task.modality}, the data are {modality}")
        if self.evaluate.every:
            why = f"{modality} are measured with their panels, sample.every"
            require(self.data.evaluated, f"evaluate.every is for pictures; {why}")
            why = f"a model trained for {trained} makes none: evaluate.every=0"
            plain = self.task.use is None
            require(plain, f"evaluate.every measures unconditional samples; {why}")

    def _expect_supported(self) -> None:
        """The network takes what the model is conditioned on."""
        name = type(self.network).__name__
        if self.condition in ("text", "both") and "text" not in self.network.supports:
            what = f"network {name} does not support captions; {_supporting('text')} does"
            raise ValueError(f"condition={self.condition}: {what}")
        if self.task.use is not None and "concat" not in self.network.supports:
            what = f"takes no channels beside x_t; {_supporting('concat')} does"
            raise ValueError(f"task {type(self.task).__name__}: network {name} {what}")

    def _expect_times(self) -> None:
        """Loss and sampling ask for times that the schedule has."""
        law, predict = type(self.schedule).__name__, self.loss.predict
        law += " with zero_snr" * getattr(self.schedule, "zero_snr", False)
        defined = bool(self.schedule.ends()[1] == 1) or predict not in ("eps", "score")
        why = f"where predicting {predict} is undefined: loss.predict=v or x0"
        require(defined, f"schedule {law} ends in pure noise (alpha_1 = 0), {why}")
        if self.schedule.continuous:
            on_table = self.sample.grid in ("trailing", "leading")
            what = f"sample.grid={self.sample.grid} is of a table of times: schedule Discrete"
            require(not on_table, what)
        times = type(self.loss.times).__name__
        fits = self.schedule.continuous or not self.loss.times.continuous
        require(fits, f"loss.times={times} needs a schedule of continuous time, not {law}")
        try:
            self.schedule.grid(self.sample.steps, "uniform")
        except ValueError as error:
            raise ValueError(f"sample.steps: {error}") from None

    def _expect_few(self) -> None:
        """Models of a few steps have their own solver, and their guidance inside."""
        loss, solver = type(self.loss).__name__, type(self.sample.solver).__name__
        what = f"sample.solver {solver} and loss {loss} do not fit: solver Consistency samples"
        fits = self.sample.solver.few == self.loss.few
        require(fits, f"{what} models trained by loss Consistency, and nothing else does")
        if not self.loss.few:
            return
        taught = self.loss.teachers_guidance is not None
        require(
            not taught or self.init is not None,
            "loss Consistency with guidance needs init: its teacher",
        )
        law, why = type(self.schedule).__name__, "the loss Consistency needs continuous time"
        require(self.schedule.continuous, f"{why}, not schedule {law}")
        undefined = f"loss.predict={self.loss.predict} is undefined at t = 0 of schedule {law}"
        require(self.loss.bounded(self.schedule), f"{undefined}: loss.predict=v")
        self._expect_segments()
        why = "a model of a few steps has its guidance inside, loss.guidance"
        require(self.sample.guidance == 1, f"sample.guidance must be 1: {why}")
        require(not self.sample.guide.chosen, f"sample.guide must be empty: {why}")
        why = "the loss Consistency is for models that generate"
        require(self.task.use is None, f"{why}, not for task {type(self.task).__name__}")

    def _expect_segments(self) -> None:
        """The solver stops where the loss's segments end."""
        trained, sampled = self.loss.pieces, self.sample.solver.pieces
        what = f"sample.solver.segments = {sampled} must be loss.segments = {trained}"
        require(trained == sampled, what)
        if trained == 1:
            return
        what = f"loss Consistency of {trained} segments is sampled in as many steps on its grid"
        fits = self.sample.steps == trained and self.sample.grid == self.loss.spacing
        require(fits, f"{what}: sample.steps={trained} sample.grid={self.loss.spacing}")


def _supporting(what: str) -> str:
    """The networks that take captions ("text"), or channels beside x_t ("concat")."""
    return " or ".join(c.__name__ for c in get_args(AnyNetwork) if what in c.supports)


STAGES: dict[str, type[RunConfig]] = {
    "autoencoder": AutoencoderConfig,
    "diffusion": DiffusionConfig,
}
Config = AutoencoderConfig | DiffusionConfig


def from_dict(raw: dict[str, Any], where: str = "config") -> Config:
    """A plain dict (a YAML file's, a checkpoint's) -> the typed config."""
    check(raw, where)
    raw = today(raw)
    stage = str(raw.get("stage", "diffusion"))
    if stage not in STAGES:
        raise Refusal(f"{where}: " + one_of("stage", str(stage), STAGES))
    return typed(STAGES[stage], raw, "", where)


Kind = TypeVar("Kind", bound=RunConfig)


def of_stage(kind: type[Kind], raw: dict[str, Any], where: str) -> Kind:
    """The same, of one stage; Refusal of another's."""
    run = from_dict(raw, where)
    if not isinstance(run, kind):
        raise Refusal(f"{where}: a config of stage '{run.stage}', not of the one needed here")
    return run
