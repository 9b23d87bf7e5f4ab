"""Typed configuration: the schema is the registry.

A component is its own schema (a dataclass) and a union annotation is the list of choices: `name:` picks the member
(schema.py has the mechanics). A config from a stranger cannot run code. `load` checks everything before anything is
built, and says in one line the key's path and the nearest name.
"""

import math
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from ldm.data.folders import ImageFolder
from ldm.data.images import CIFAR10, MNIST, Digits, FashionMNIST
from ldm.data.jets import JetNet
from ldm.diffusion.denoiser import Loss
from ldm.diffusion.schedules import VE, VP, Cosine, Discrete, Linear, SubVP
from ldm.diffusion.solvers import (
    DDIM,
    DDPM,
    AdaptiveODE,
    Diffusers,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp3M,
    EDMStochastic,
    Euler,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
)
from ldm.diffusion.times import Importance, Spacing
from ldm.errors import Refusal, nearest, one_of, require
from ldm.files import whole
from ldm.names import file_name, plain
from ldm.networks.autoencoder import AutoencoderKL, VQModel
from ldm.networks.set_transformer import SetTransformer
from ldm.networks.text import CLIPText, MiniLM
from ldm.networks.unet import UNet
from ldm.plain import check, from_pair
from ldm.pointcloud import PointCloud
from ldm.schema import merge, missing, read, to_dict, typed
from ldm.spaces import Latents, Pixels
from ldm.trained import Generate, Inpaint, SuperResolve


@dataclass
class Optim:
    """AdamW. The learning rate is the one used: nothing scales it behind your back."""

    lr: float = 2e-4
    warmup: int = 500  # steps of linear warm-up
    decay: Literal["constant", "cosine", "linear"] = "constant"  # after warm-up, to 0 at max_steps
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0  # gradient norm; 0 turns it off
    ema: float = 0.999  # decay an optimiser step; 0 turns it off
    ema_more: tuple[float, ...] = ()  # further decays, for sample.py --weights ema:DECAY
    posthoc: int = 0  # steps between snapshots for sample.py --weights ema:WIDTH (Karras et al. 2024); 0: none

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, f"lr must be above 0, got {self.lr}")
        require(all(0 <= b < 1 for b in self.betas), f"betas must be in [0, 1), got {self.betas}")
        require(0 <= self.ema < 1, f"ema must be in [0, 1), got {self.ema}")
        require(all(0.5 <= d < 1 for d in self.ema_more), f"ema_more must be decays in [0.5, 1), got {self.ema_more}")
        require(self.posthoc >= 0, f"posthoc must be at least 0, got {self.posthoc}")
        require(self.ema > 0 or not (self.ema_more or self.posthoc), "ema_more and posthoc need ema above 0")
        require(min(self.warmup, self.weight_decay, self.clip) >= 0, "warmup, weight_decay and clip must be at least 0")


# no float16: its loss scaling steps over gradients that are not finite, which here stop a run
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
PRECISIONS = ("auto", "32-true", "bf16-mixed")


@dataclass
class TrainerConfig:
    """How long, on what. Lengths are optimiser steps. `options` goes to Lightning's Trainer as it is."""

    max_steps: int = 20_000
    accelerator: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"  # auto: bf16-mixed on a GPU that has it, 32-true elsewhere
    compile: Any = (
        "auto"  # the trained network alone, by torch.compile; auto: on a GPU (on a CPU it took minutes and won nothing)
    )
    channels_last: Any = "auto"  # memory format of convolutions; auto: on a GPU
    accumulate: int = 1
    validate: int = 1000  # every so many steps
    save: int = 1000
    log: int = 50
    on_nan: Literal["stop", "skip"] = "stop"  # skip: leave such steps out, and count them
    threads: int = 0  # of PyTorch on the CPU; 0: chosen by measuring, as the machine's load is (ldm/threads.py)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = ("max_steps", "num_nodes", "accumulate", "validate", "save", "log")
        for key in counts:
            require(getattr(self, key) >= 1, f"{key} must be at least 1, got {getattr(self, key)}")
        require(self.threads >= 0, f"threads must be at least 0, got {self.threads}")
        for key in ("compile", "channels_last"):
            require(getattr(self, key) in ("auto", True, False), f"{key} must be auto, true or false, got {getattr(self, key)!r}")
        require(self.accelerator in ACCELERATORS, one_of("accelerator", self.accelerator, ACCELERATORS))
        require(self.precision in PRECISIONS, one_of("precision", self.precision, PRECISIONS))
        right = self.devices == "auto" or _counted(self.devices)
        require(right, f"devices must be auto, a number above 0 (-1: all), or a list of devices, got {self.devices!r}")


def _counted(devices: Any) -> bool:
    """Whether this is a number of devices, all of them (-1), or a list of some; of the command line or of YAML."""
    if isinstance(devices, str) and "," not in devices:
        return bool(re.fullmatch(r"-1|0*[1-9][0-9]{0,5}", devices))
    if isinstance(devices, int) and not isinstance(devices, bool):
        return devices == -1 or 0 < devices < 10**6
    listed = devices.split(",") if isinstance(devices, str) else devices if isinstance(devices, list) else []
    return bool(listed) and all(re.fullmatch(r"[0-9]{1,6}", str(d).strip()) for d in listed)


@dataclass
class LoggerConfig:
    """Where a run is shown besides metrics.csv. `mode` and what follows it are W&B's; auto: online with a key, else
    offline with a line that says how to sync."""

    kind: Literal["wandb", "tensorboard", "both", "csv"] = "wandb"  # csv: metrics.csv and the pictures' files alone
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "ldm"
    entity: str | None = None
    group: str | None = None  # the run's name; both stages of one call are in stage 2's
    tags: list[str] = field(default_factory=list)
    log_model: bool = False  # best.ckpt and last.ckpt as W&B artifacts when training ends or is stopped


AnySolver = (
    DDPM
    | DDIM
    | Euler
    | Heun
    | EulerMaruyama
    | PredictorCorrector
    | EDMStochastic
    | DPMpp2M
    | DPMpp2MSDE
    | DPMpp3M
    | AdaptiveODE
    | Diffusers
)


@dataclass
class SampleConfig:
    """How samples are made, in training and by default from the checkpoint."""

    solver: AnySolver = field(default_factory=DPMpp2M)
    steps: int = 25
    grid: Spacing = "auto"  # of the times: uniform, and trailing for Discrete
    guidance: float = 1.0  # 1: the plain conditional model
    interval: tuple[float, float] = (0.0, 1.0)  # of the times that are guided
    rescale: float = 0.0  # share of a guided x0_hat that gets the plain one's standard deviation
    every: int = 1000  # steps between grids in training
    count: int = 64
    batch_size: int = 64
    trajectory: int = 4  # samples whose way from data to noise and back is drawn with each grid

    def __post_init__(self) -> None:
        require(self.trajectory >= 0, f"trajectory must be at least 0, got {self.trajectory}")
        for key, most in (("steps", 100_000), ("count", 1_000_000), ("batch_size", 65_536)):
            require(getattr(self, key) >= 1, f"{key} must be at least 1, got {getattr(self, key)}")
            require(getattr(self, key) <= most, f"{key} must be at most {most}, got {getattr(self, key)}")
        require(math.isfinite(self.guidance), f"guidance must be a finite number, got {self.guidance}")
        require(self.every >= 0, f"every must be at least 0, got {self.every}")
        low, high = self.interval
        require(0 <= low <= high <= 1, f"interval must be two times 0 <= LOW <= HIGH <= 1, got {low} and {high}")
        require(0 <= self.rescale <= 1, f"rescale must be in [0, 1], got {self.rescale}")


@dataclass
class Evaluate:
    """Figures against the real pictures during training, evaluate.py's: every so many steps, and at the end. 0: never."""

    every: int = 0
    count: int = 2000  # samples; of stage 1, held-out pictures
    features: str = "auto"  # a name or a file, as evaluate.py's --features

    def __post_init__(self) -> None:
        require(self.every >= 0 and self.count >= 1, "every must be at least 0 and count at least 1")


@dataclass
class Discriminator:
    """PatchGAN. Steps count the generator's: it learns from `start`, alone for `warmup` steps, then its gradient
    reaches the decoder, growing to full weight over as many steps again."""

    weight: float = 0.0  # 0: none
    start: int = 0
    warmup: int = 1000
    lr: float = 2e-4
    channels: int = 64
    layers: int = 2
    max_balance: float = 1e4  # clamp of the adaptive weight

    def __post_init__(self) -> None:
        require(min(self.weight, self.start, self.warmup) >= 0, "weight, start and warmup must be at least 0")
        require(self.lr > 0 and self.channels >= 8 and self.channels % 8 == 0, "lr above 0, channels a multiple of 8")
        require(1 <= self.layers <= 5, f"layers must be 1 ... 5, got {self.layers}")


@dataclass
class Perceptual:
    """LPIPS (Zhang et al. 2018); its backbone is a download of torchvision's."""

    weight: float = 0.0  # 0: none
    net: Literal["alex", "vgg", "squeeze"] = "squeeze"


Data = Digits | MNIST | FashionMNIST | CIFAR10 | ImageFolder | JetNet


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
        require(plain(self.name), f"name '{self.name}' must be a plain folder name; '{file_name(self.name)}' would be one")

    @property
    def folder(self) -> Path:
        return Path(self.output, self.name)


@dataclass
class AutoencoderConfig(RunConfig):
    """Stage 1: an autoencoder to make latents with."""

    network: AutoencoderKL | VQModel = field(default_factory=AutoencoderKL)
    reconstruction: Literal["l1", "l2"] = "l2"
    perceptual: Perceptual = field(default_factory=Perceptual)
    discriminator: Discriminator = field(default_factory=Discriminator)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not isinstance(self.data, JetNet), "stage autoencoder is for pictures; data JetNet is of stage diffusion")


@dataclass
class DiffusionConfig(RunConfig):
    """Stage 2 (space Latents), the pixel baseline (space Pixels), or jets (space PointCloud)."""

    space: Pixels | Latents | PointCloud = field(default_factory=Pixels)
    task: Generate | Inpaint | SuperResolve = field(default_factory=Generate)  # what the model is trained for
    network: UNet | SetTransformer = field(default_factory=UNet)
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
        captions = self.condition in ("text", "both") and not isinstance(self.network, UNet)
        require(not captions, f"condition={self.condition}: captions are heard by network UNet alone")
        predict, table = self.loss.predict, isinstance(self.schedule, Discrete)
        empty = isinstance(self.schedule, Linear) or (table and self.schedule.zero_snr)
        what = "zero_snr" if table else "schedule Linear"
        require(
            not empty or predict not in ("eps", "score"),
            f"{what} has alpha_1 = 0, where {predict} says nothing of x_0: loss.predict=v or x0",
        )
        on_table = self.sample.grid in ("trailing", "leading")
        require(table or not on_table, f"sample.grid={self.sample.grid} is of a table of times: schedule Discrete")
        if table:
            continuous = isinstance(self.loss.times, Importance)
            require(not continuous, "loss.times=Importance needs a schedule of continuous time, not Discrete")
            require(self.sample.steps <= self.schedule.steps, f"sample.steps is more than the table's {self.schedule.steps}")

    def _check_kinds(self) -> None:
        """Data, space and network are for jets all three, or none."""
        parts = {"data": (self.data, JetNet), "space": (self.space, PointCloud), "network": (self.network, SetTransformer)}
        jets = {isinstance(part, kind) for part, kind in parts.values()}
        got = ", ".join(f"{key} {type(part).__name__}" for key, (part, _) in parts.items())
        wanted = "jets need data JetNet, space PointCloud and network SetTransformer, pictures none of them"
        require(len(jets) == 1, f"{wanted}; got {got}")
        apart = isinstance(self.data, JetNet) and self.evaluate.every
        require(not apart, "evaluate.every is for pictures; jets are measured with their panels, sample.every")
        trained = type(self.task).__name__
        require(self.task.use is None or isinstance(self.network, UNet), f"task {trained} is of pictures, and of network UNet")
        require(
            self.task.use is None or not self.evaluate.every,
            f"evaluate.every measures samples of nothing; task {trained} makes none: evaluate.every=0",
        )


# the configs that come with ldm: inside the installed package, or at the top of a checkout
SHIPPED = tuple(filter(Path.is_dir, (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs")))
STAGES: dict[str, type[RunConfig]] = {"autoencoder": AutoencoderConfig, "diffusion": DiffusionConfig}
Config = AutoencoderConfig | DiffusionConfig


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """The config in a file, its `base:` files under it and `key=value` overrides over it. Refusal if anything is off."""
    for text in overrides:
        if "=" not in text:
            raise Refusal(f"'{text}' is not an override; write key=value, for example trainer.max_steps=100")
    raw = read(shipped(Path(path)))
    for text in overrides:
        raw = merge(raw, from_pair(text), top=True)
    run = from_dict(_at_home(raw), str(path))
    _check_options(run.trainer.options, str(path))
    stage1_of(run)  # refused now rather than when its turn comes
    return run


PATHS = ("output", "data.root", "space.autoencoder", "text.model", "evaluate.features")


def _at_home(raw: dict[str, Any]) -> dict[str, Any]:
    """The tree with `~` in its paths being the user's home: no shell has filled it in behind a `key=`."""
    for path in PATHS:
        *above, last = path.split(".")
        node = raw
        for key in above:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(last), str):
            node[last] = os.path.expanduser(node[last])
    return raw


ON_ONE_MACHINE = ("accelerator", "devices", "num_nodes", "threads")  # of the trainer: stage 1's are the run's
OF_STAGE_1 = ("batch_size", "flip", "workers")  # of the data: all else is the run's


def stage1_of(run: Config) -> AutoencoderConfig | None:
    """Stage 1's config where the run names it by config: that file, and the run's `stage1:` over it.

    It is named after the run (`name_after`), so that another run trains its own. Data, output, boards and machine are the
    run's. Refusal where `stage1:` says what could have no effect.
    """
    told = run.stage1 if isinstance(run, DiffusionConfig) else {}
    if not named_by_config(run):
        for key in told:
            raise Refusal(f"stage1.{key}: no stage 1 is trained here; space.autoencoder=FILE.yaml names the config of one")
        return None
    _check_told(told)
    raw, where = stage1_file(run), f"stage 1, {run.space.autoencoder}"
    stage1 = from_dict(merge(raw, {"name": name_after(run.name)} | told, top=True), where)
    if not isinstance(stage1, AutoencoderConfig):
        raise Refusal(f"space.autoencoder: {run.space.autoencoder} is a config of stage '{stage1.stage}', not autoencoder")
    _check_options(stage1.trainer.options, where)
    return _as_in(run, stage1)


def named_by_config(run: Config) -> bool:
    """Whether the run has a stage 1 that is named by its config, not by a checkpoint or a folder."""
    latent = isinstance(run, DiffusionConfig) and isinstance(run.space, Latents)
    return latent and run.space.autoencoder.endswith((".yaml", ".yml"))


def stage1_file(run: DiffusionConfig) -> dict[str, Any]:
    """What the file that `space.autoencoder` names says, as plain dicts."""
    return read(shipped(Path(run.space.autoencoder)))


def name_after(name: str) -> str:
    """What stage 1 of a run is called: digits-latent has digits-autoencoder, and other has other-autoencoder."""
    return name.replace("latent", "autoencoder") if "latent" in name else f"{name}-autoencoder"


def _check_told(told: dict[str, Any]) -> None:
    for key in ("output", "logger", "stage"):
        if key in told:
            raise Refusal(f"stage1.{key}: " + ("it is autoencoder" if key == "stage" else f"both stages have one; set {key}"))
    data = told.get("data")
    for key in data if isinstance(data, dict) else ():
        if key not in OF_STAGE_1:
            raise Refusal(f"stage1.data.{key}: both stages have the same data; set data.{key}")


def _as_in(run: DiffusionConfig, stage1: AutoencoderConfig) -> AutoencoderConfig:
    """Stage 1 with what it shares with the run."""
    if type(stage1.data) is not type(run.data):
        names = type(stage1.data).__name__, type(run.data).__name__
        raise Refusal(f"space.autoencoder: {run.space.autoencoder} is for {names[0]}, this run's data is {names[1]}")
    told = run.stage1.get("data", {}), run.stage1.get("trainer", {})
    workers = stage1.data.workers if "workers" in told[0] else run.data.workers
    data = replace(run.data, batch_size=stage1.data.batch_size, flip=stage1.data.flip, workers=workers)
    machine = {key: getattr(run.trainer, key) for key in ON_ONE_MACHINE if key not in told[1]}
    # shown where stage 2 is, in one group with it
    logger = replace(run.logger, group=run.logger.group or run.name, tags=stage1.logger.tags or run.logger.tags)
    return replace(stage1, output=run.output, data=data, trainer=replace(stage1.trainer, **machine), logger=logger)


def shipped(path: Path) -> Path:
    """The path, or, where no such file is, the config of that name that comes with ldm: with `configs/` before it or not."""
    path = path.expanduser()
    if path.is_file() or path.is_absolute():
        return path
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    for folder in SHIPPED:
        if (folder / inside).is_file():
            return folder / inside
    known = (str(p.relative_to(folder)) for folder in SHIPPED for p in folder.rglob("*.yaml"))
    raise Refusal(f"config: {missing(path, known, ', nor does ldm ship one of that name')}")


def from_dict(raw: dict[str, Any], where: str = "config") -> Config:
    """A plain dict (a YAML file's, a checkpoint's) -> the typed config."""
    check(raw, where)
    stage = str(raw.get("stage", "diffusion"))
    if stage not in STAGES:
        raise Refusal(f"{where}: " + one_of("stage", str(stage), STAGES))
    return typed(STAGES[stage], raw, "", where)


def save(config: Config, path: Path) -> None:
    """Write the resolved config, loadable again by `load`."""
    with whole(path) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))))


# of Lightning's Trainer: what a run may be told of besides its own settings, and of which types
OPTIONS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("max_epochs", "min_epochs", "min_steps", "num_sanity_val_steps", "check_val_every_n_epoch"), (int,)),
    "reload_dataloaders_every_n_epochs": (int,),
    **dict.fromkeys(("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"), (int, float)),
    "overfit_batches": (int, float),
    "max_time": (str, dict),
    "deterministic": (bool, str),
    **dict.fromkeys(("enable_progress_bar", "enable_model_summary", "benchmark", "inference_mode"), (bool,)),
    **dict.fromkeys(("detect_anomaly", "sync_batchnorm"), (bool,)),
    "profiler": (str,),
}
OURS = {"gradient_clip_val": "optim.clip", "gradient_clip_algorithm": "optim.clip", "default_root_dir": "output"}
OURS |= {"accumulate_grad_batches": "trainer.accumulate", "val_check_interval": "trainer.validate"}
OURS |= {"log_every_n_steps": "trainer.log", "logger": "logger.kind", "enable_checkpointing": "trainer.save"}
OURS |= {key: f"trainer.{key}" for key in ("max_steps", "accelerator", "devices", "num_nodes", "strategy", "precision")}


def _check_options(options: dict[str, Any], where: str) -> None:
    """Keys of `trainer.options` are arguments of Lightning's Trainer, less those that the config has itself."""
    for key, value in options.items():
        if key in OURS:
            raise Refusal(f"{where}: trainer.options.{key}: set {OURS[key]} instead")
        if key not in OPTIONS:
            raise Refusal(f"{where}: no key 'trainer.options.{key}'{nearest(key, OPTIONS)} (keys here: {', '.join(OPTIONS)})")
        if not isinstance(value, OPTIONS[key]) or (isinstance(value, bool) and bool not in OPTIONS[key]):
            wanted = " or ".join(kind.__name__ for kind in OPTIONS[key])
            raise Refusal(f"{where}: trainer.options.{key}: {value!r} is not {wanted}")
