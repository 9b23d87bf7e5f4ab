"""The sections of a config, from the optimiser to the discriminator."""

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from ldm.config.choices import AnySolver
from ldm.config.schema import to_dict
from ldm.diffusion.schedules import Spacing
from ldm.diffusion.solvers import DPMpp2M
from ldm.errors import one_of, require


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
    posthoc: int = (
        0  # steps between snapshots for sample.py --weights ema:WIDTH (Karras et al. 2024); 0: none
    )

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, f"lr must be above 0, got {self.lr}")
        require(all(0 <= b < 1 for b in self.betas), f"betas must be in [0, 1), got {self.betas}")
        require(0 <= self.ema < 1, f"ema must be in [0, 1), got {self.ema}")
        require(
            all(0.5 <= d < 1 for d in self.ema_more),
            f"ema_more must be decays in [0.5, 1), got {self.ema_more}",
        )
        require(self.posthoc >= 0, f"posthoc must be at least 0, got {self.posthoc}")
        require(
            self.ema > 0 or not (self.ema_more or self.posthoc),
            "ema_more and posthoc need ema above 0",
        )
        require(
            min(self.warmup, self.weight_decay, self.clip) >= 0,
            "warmup, weight_decay and clip must be at least 0",
        )


# no float16: its loss scaling steps over gradients that are not finite, which here stop a run
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


# no 16-mixed: float16 needs its loss scaled and a fused AdamW takes gradients as they are scaled,
# so that the norm, its clipping and the check for what is not finite would be of scaled gradients
PRECISIONS = ("auto", "32-true", "bf16-mixed")


@dataclass
class TrainerConfig:
    """How long, in optimiser steps, and on what; `options` goes to Lightning's Trainer as it is."""

    max_steps: int = 20_000
    accelerator: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"  # auto: bf16-mixed on a GPU that has it, 32-true elsewhere
    # the trained network alone, by torch.compile; auto: on a GPU (on a CPU it took minutes and won
    # nothing)
    compile: Any = "auto"
    channels_last: Any = "auto"  # memory format of convolutions; auto: on a GPU
    accumulate: int = 1
    validate: int = 1000  # every so many steps
    save: int = 1000
    log: int = 50
    on_nan: Literal["stop", "skip"] = "stop"  # skip: leave such steps out, and count them
    threads: int = 0  # of PyTorch on the CPU; 0: chosen by measuring (ldm/system/threads.py)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = ("max_steps", "num_nodes", "accumulate", "validate", "save", "log")
        for key in counts:
            require(getattr(self, key) >= 1, f"{key} must be at least 1, got {getattr(self, key)}")
        require(self.threads >= 0, f"threads must be at least 0, got {self.threads}")
        for key in ("compile", "channels_last"):
            require(
                getattr(self, key) in ("auto", True, False),
                f"{key} must be auto, true or false, got {getattr(self, key)!r}",
            )
        require(
            self.accelerator in ACCELERATORS, one_of("accelerator", self.accelerator, ACCELERATORS)
        )
        require(self.precision in PRECISIONS, one_of("precision", self.precision, PRECISIONS))
        right = self.devices == "auto" or _counted(self.devices)
        require(
            right,
            "devices must be auto, a number above 0 (-1: all), or a list of devices, got "
            f"{self.devices!r}",
        )


def _counted(devices: Any) -> bool:
    """Whether this is a number of devices, all of them (-1), or a list of some."""
    if isinstance(devices, str) and "," not in devices:
        return bool(re.fullmatch(r"-1|0*[1-9][0-9]{0,5}", devices))
    if isinstance(devices, int) and not isinstance(devices, bool):
        return devices == -1 or 0 < devices < 10**6
    listed = (
        devices.split(",")
        if isinstance(devices, str)
        else devices
        if isinstance(devices, list)
        else []
    )
    return bool(listed) and all(re.fullmatch(r"[0-9]{1,6}", str(d).strip()) for d in listed)


@dataclass
class LoggerConfig:
    """Where a run is shown besides metrics.csv.

    `mode` and what follows it are W&B's; auto: online with a key, else offline, with a line on how
    to sync.
    """

    kind: Literal["wandb", "tensorboard", "both", "csv"] = (
        "wandb"  # csv: metrics.csv and the pictures' files alone
    )
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "ldm"
    entity: str | None = None
    group: str | None = None  # the run's name; both stages of one call are in stage 2's
    tags: list[str] = field(default_factory=list)
    log_model: bool = (
        False  # best.ckpt and last.ckpt as W&B artifacts when training ends or is stopped
    )


OWN = re.compile(r"raw|ema(:[0-9.e-]+)?")  # weights of a run, where a guide is named in one word


@dataclass(frozen=True)
class Guide:
    """What samples are guided away from in place of the null condition (Karras et al. 2024).

    run: another run or checkpoint, of the same space and schedule, worse: smaller or trained for
    less; "inside" is the one that a checkpoint holds of the run that its config named. weights:
    ema, raw or ema:NUMBER, of that run, or without `run` of the model's own.
    """

    run: str | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        known = self.weights is None or OWN.fullmatch(self.weights)
        require(bool(known), f"weights '{self.weights}' is not ema, raw or ema:NUMBER")

    @property
    def chosen(self) -> bool:
        """Whether there is one."""
        return self.run is not None or self.weights is not None

    @property
    def decay(self) -> float:
        """Of weights ema:DECAY; NaN of others."""
        number = (self.weights or "").removeprefix("ema:")
        return float(number) if re.fullmatch(r"[0-9.]*[0-9]", number) else math.nan

    def describe(self) -> str:
        """In a few words."""
        own = f"its {self.weights} weights" if self.run is None else self.run
        return f"{own} ({self.weights})" if self.run and self.weights else own


@dataclass
class SampleConfig:
    """How samples are made, in training and by default from the checkpoint."""

    solver: AnySolver = field(default_factory=DPMpp2M)
    steps: int = 25
    grid: Spacing = "auto"  # of the times: uniform, and trailing for Discrete
    guidance: float = 1.0  # 1: the plain conditional model
    interval: tuple[float, float] = (0.0, 1.0)  # of the times that are guided
    guide: Guide = field(default_factory=Guide)  # {run: RUN} or {weights: ema:0.9}; none of both
    rescale: float = 0.0  # share of a guided x0_hat that gets the plain one's standard deviation
    every: int = 1000  # steps between grids in training
    count: int = 64
    batch_size: int = 64
    trajectory: int = 4  # samples whose way from data to noise and back is drawn with each grid

    def record(self) -> dict[str, Any]:
        """How a sample was made, for the files and records that are kept of it."""
        keys = ("solver", "steps", "grid", "guidance", "interval", "rescale", "batch_size")
        kept = (*keys, "guide") if self.guide.chosen else keys
        return {key: value for key, value in to_dict(self).items() if key in kept}

    @property
    def solved(self) -> str:
        """By what, in how many steps."""
        return f"{type(self.solver).__name__}, {self.steps} step{'s' * (self.steps > 1)}"

    def describe(self) -> str:
        """The same in a few words."""
        said = f"{self.solved}, guidance {self.guidance:g}"
        return f"{said} by {self.guide.describe()}" if self.guide.chosen else said

    def __post_init__(self) -> None:
        require(self.trajectory >= 0, f"trajectory must be at least 0, got {self.trajectory}")
        for key, most in (("steps", 100_000), ("count", 1_000_000), ("batch_size", 65_536)):
            require(getattr(self, key) >= 1, f"{key} must be at least 1, got {getattr(self, key)}")
            require(
                getattr(self, key) <= most,
                f"{key} must be at most {most}, got {getattr(self, key)}",
            )
        require(
            math.isfinite(self.guidance), f"guidance must be a finite number, got {self.guidance}"
        )
        require(self.every >= 0, f"every must be at least 0, got {self.every}")
        low, high = self.interval
        require(
            0 <= low <= high <= 1,
            f"interval must be two times 0 <= LOW <= HIGH <= 1, got {low} and {high}",
        )
        require(0 <= self.rescale <= 1, f"rescale must be in [0, 1], got {self.rescale}")


@dataclass
class Evaluate:
    """evaluate.py's metrics during training: every so many steps, and at the end. 0: never."""

    every: int = 0
    count: int = 2000  # samples; of stage 1, held-out pictures
    features: str = "auto"  # a name or a file, as evaluate.py's --features
    copies: bool = False  # of stage 2: whether samples are copies, as evaluate.py's --copies

    def __post_init__(self) -> None:
        require(
            self.every >= 0 and self.count >= 1, "every must be at least 0 and count at least 1"
        )
        require(
            self.every > 0 or not self.copies,
            "copies: it is measured with the rest: set evaluate.every too",
        )


@dataclass
class Discriminator:
    """PatchGAN. Its steps count the generator's.

    It learns from `start`, alone for `warmup` steps; then its gradient reaches the decoder, growing
    to full weight over as many steps again.
    """

    weight: float = 0.0  # 0: none
    start: int = 0
    warmup: int = 1000
    lr: float = 2e-4
    channels: int = 64
    layers: int = 2
    max_balance: float = 1e4  # clamp of the adaptive weight

    def __post_init__(self) -> None:
        require(
            min(self.weight, self.start, self.warmup) >= 0,
            "weight, start and warmup must be at least 0",
        )
        require(
            self.lr > 0 and self.channels >= 8 and self.channels % 8 == 0,
            "lr above 0, channels a multiple of 8",
        )
        require(1 <= self.layers <= 5, f"layers must be 1 ... 5, got {self.layers}")
