"""Typed configuration: the schema is the registry.

A component is its own schema (a dataclass) and a union annotation is the list of choices: `name:` picks the member
(schema.py has the mechanics). A config from a stranger cannot run code. `load` checks everything before anything is
built, and says in one line the key's path and the nearest name.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ldm.config.plain import check
from ldm.config.schema import typed
from ldm.config.sections import (
    Discriminator,
    Evaluate,
    LoggerConfig,
    Optim,
    Perceptual,
    SampleConfig,
    TrainerConfig,
)
from ldm.diffusion.denoiser import Loss
from ldm.diffusion.schedules import VE, VP, Cosine, Discrete, Linear, SubVP
from ldm.diffusion.times import Importance
from ldm.errors import Refusal, one_of, require
from ldm.jets.data import JetNet
from ldm.jets.network import SetTransformer
from ldm.jets.space import PointCloud
from ldm.networks.autoencoder import AutoencoderKL, VQModel
from ldm.networks.text import CLIPText, MiniLM
from ldm.networks.unet import UNet
from ldm.pictures.folders import ImageFolder
from ldm.pictures.given import Given
from ldm.pictures.images import CIFAR10, MNIST, Digits, FashionMNIST
from ldm.pictures.space import Latents, Pixels
from ldm.pictures.trained import Generate, Inpaint, SuperResolve
from ldm.system.names import file_name, plain

Data = Digits | MNIST | FashionMNIST | CIFAR10 | ImageFolder | Given | JetNet


Network = UNet | SetTransformer


@dataclass
class RunConfig:
    """What both stages have."""

    name: str = "???"
    stage: str = "diffusion"
    seed: int = 0
    output: str = "checkpoints"  # the run's folder is output/name
    data: Data = field(default_factory=Digits)
    optim: Optim = field(default_factory=Optim)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluate: Evaluate = field(default_factory=Evaluate)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, f"seed must be at least 0 and below 2^32, got {self.seed}")
        require(
            plain(self.name),
            f"name '{self.name}' must be a plain folder name; '{file_name(self.name)}' would be one",
        )

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

    network: AutoencoderKL | VQModel = field(default_factory=AutoencoderKL)
    reconstruction: Literal["l1", "l2"] = "l2"
    perceptual: Perceptual = field(default_factory=Perceptual)
    discriminator: Discriminator = field(default_factory=Discriminator)

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self.data).__name__
        require(
            self.data.modality == "pictures",
            f"stage autoencoder is for pictures; data {name} is of stage diffusion",
        )

    @property
    def adversarial(self) -> bool:
        return self.discriminator.weight > 0


@dataclass
class DiffusionConfig(RunConfig):
    """Stage 2 (space Latents), the pixel baseline (space Pixels), or jets (space PointCloud)."""

    space: Pixels | Latents | PointCloud = field(default_factory=Pixels)
    task: Generate | Inpaint | SuperResolve = field(
        default_factory=Generate
    )  # what the model is trained for
    network: Network = field(default_factory=UNet)
    schedule: VP | SubVP | Cosine | VE | Linear | Discrete = field(default_factory=VP)
    loss: Loss = field(default_factory=Loss)
    # auto: the label, where the data has classes; text: the captions; both: the two of them
    condition: Literal["auto", "label", "text", "both", "none"] = "auto"
    text: MiniLM | CLIPText = field(default_factory=MiniLM)  # what reads captions
    drop: float = 0.1  # share of samples that train without their condition, for guidance
    sample: SampleConfig = field(default_factory=SampleConfig)
    # over the config that space.autoencoder names: stage1.trainer.max_steps=20 is stage 1's length
    stage1: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.drop <= 1, f"drop must be in [0, 1], got {self.drop}")
        self._check_kinds()
        for hears, wanted in (
            ("text", self.condition in ("text", "both")),
            ("concat", self.task.use is not None),
        ):
            require(not wanted or hears in self.network.hears, self._unheard(hears))
        predict, table = self.loss.predict, isinstance(self.schedule, Discrete)
        empty = isinstance(self.schedule, Linear) or (table and self.schedule.zero_snr)
        what = "zero_snr" if table else "schedule Linear"
        require(
            not empty or predict not in ("eps", "score"),
            f"{what} has alpha_1 = 0, where {predict} says nothing of x_0: loss.predict=v or x0",
        )
        on_table = self.sample.grid in ("trailing", "leading")
        require(
            table or not on_table,
            f"sample.grid={self.sample.grid} is of a table of times: schedule Discrete",
        )
        if table:
            continuous = isinstance(self.loss.times, Importance)
            require(
                not continuous,
                "loss.times=Importance needs a schedule of continuous time, not Discrete",
            )
            require(
                self.sample.steps <= self.schedule.steps,
                f"sample.steps is more than the table's {self.schedule.steps}",
            )

    @property
    def autoencoder(self) -> str | None:
        """What `space.autoencoder` names; None where the space has none."""
        return getattr(self.space, "autoencoder", None)

    def _check_kinds(self) -> None:
        """Data, space and network are of one modality, and the task and the figures too."""
        parts = {"data": self.data, "space": self.space, "network": self.network}
        got = ", ".join(
            f"{key} {type(part).__name__} is for {part.modality}" for key, part in parts.items()
        )
        require(
            len({part.modality for part in parts.values()}) == 1,
            f"data, space and network do not fit: {got}",
        )
        trained, modality = type(self.task).__name__, self.data.modality
        require(
            self.task.use is None or modality == "pictures",
            f"task {trained} is for pictures, the data are {modality}",
        )
        measured = modality == "pictures" or not self.evaluate.every
        require(
            measured,
            f"evaluate.every is for pictures; {modality} are measured with their panels, sample.every",
        )
        require(
            self.task.use is None or not self.evaluate.every,
            f"evaluate.every measures unconditional samples; a model trained for {trained} makes none: evaluate.every=0",
        )

    def _unheard(self, what: str) -> str:
        """What is said of a network that does not take captions, or channels beside x_t."""
        name, able = (
            type(self.network).__name__,
            " or ".join(c.__name__ for c in get_args(Network) if what in c.hears),
        )
        if what == "text":
            return (
                f"condition={self.condition}: network {name} does not support captions; {able} does"
            )
        return f"task {type(self.task).__name__}: network {name} takes no channels beside x_t; {able} does"


STAGES: dict[str, type[RunConfig]] = {
    "autoencoder": AutoencoderConfig,
    "diffusion": DiffusionConfig,
}
Config = AutoencoderConfig | DiffusionConfig


def from_dict(raw: dict[str, Any], where: str = "config") -> Config:
    """A plain dict (a YAML file's, a checkpoint's) -> the typed config."""
    check(raw, where)
    stage = str(raw.get("stage", "diffusion"))
    if stage not in STAGES:
        raise Refusal(f"{where}: " + one_of("stage", str(stage), STAGES))
    return typed(STAGES[stage], raw, "", where)
