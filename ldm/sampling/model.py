"""A checkpoint as a model: denoiser, space, classes and the settings to sample with."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ldm.checkpoints import checkpoint
from ldm.checkpoints.finding import find_checkpoint
from ldm.checkpoints.safe import malformed
from ldm.checkpoints.weights import build_fitting, hash_of_weights, under
from ldm.config import AnyData, AutoencoderConfig, DiffusionConfig, Guide, SampleConfig, of_stage
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.space import Shape, Space
from ldm.errors import Refusal
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.text import TextEncoder
from ldm.pictures.opening import View
from ldm.pictures.trained import Generate, Purpose
from ldm.sampling.worse import INSIDE, Worse, guides_inside
from ldm.system import threads
from ldm.system.data import DataConfig

Recorded = TypeVar("Recorded", bound=DataConfig)


@dataclass
class Model:
    """What sampling needs: the denoiser, its space, the classes' names, default settings."""

    denoiser: Denoiser
    space: Space
    classes: tuple[str, ...]
    settings: SampleConfig
    step: int = 0
    text: TextEncoder | None = None
    prompts: tuple[str, ...] = ()  # captions of held-out pictures, for samples that are given none
    purpose: Purpose = field(default_factory=Generate)  # what it is trained for
    view: View | None = None  # how pictures are read, of a model of pictures
    features: int = 0  # of each sample that its network is given, beside class and caption
    file: Path | None = None  # the checkpoint that it is of
    guides: dict[Guide, Worse] = field(default_factory=dict)  # those that are loaded
    precision: str = "32-true"  # of the network's convolutions and matrices, or bf16

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return next(self.denoiser.parameters()).device

    @property
    def schedule(self) -> Schedule:
        """The law of its noise."""
        return self.denoiser.schedule

    def cast(self) -> AbstractContextManager[object]:
        """Inside, the network computes in the model's precision."""
        if self.precision == "32-true":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def prompts_of(self, seeds: Sequence[int]) -> list[str]:
        """The captions that the checkpoint keeps, by seed; empty ones if it keeps none."""
        return [self.prompts[seed % len(self.prompts)] if self.prompts else "" for seed in seeds]

    def label(self, name: str) -> int:
        """The class that a name means; or a number, unless one of the names is a number too."""
        if not self.classes:
            raise Refusal("--label: this checkpoint is of a model without classes")
        if name in self.classes:
            return self.classes.index(name)
        numbers = any(is_number(one) for one in self.classes)
        if name.isdecimal() and len(name) < 10 and not numbers and int(name) < len(self.classes):
            return int(name)
        if numbers:
            named = ", ".join(self.classes)
            raise Refusal(
                f"--label: '{name}' is not one of the {len(self.classes)} classes, given by "
                f"name: {named}"
            )
        listed = ", ".join(f"{i} {c}" if c != str(i) else c for i, c in enumerate(self.classes))
        raise Refusal(f"--label: '{name}' is not one of the {len(self.classes)} classes: {listed}")


def is_number(name: str) -> bool:
    """Whether a class is called by a number: 3, 03, -1, 2.5."""
    return bool(re.fullmatch(r"\s*[+-]?\d+([.,]\d+)?\s*", name))


def build_net(
    config: DiffusionConfig, shape: Shape, classes: int, text: TextEncoder | None = None
) -> nn.Module:
    """The network of a config for x of `shape`."""
    width, channels = text.dim if text else 0, config.task.channels(shape[0])
    return config.network.build(shape, classes, width, channels)


def build_denoiser(
    config: DiffusionConfig, shape: Shape, classes: int, text: TextEncoder | None = None
) -> Denoiser:
    """The denoiser of a config for x of `shape`."""
    denoiser = Denoiser(build_net(config, shape, classes, text), config.schedule, config.loss)
    denoiser.register_forward_pre_hook(threads.tick)
    return denoiser


def restore(path: str | Path, weights: str = "ema", device: str = "cpu") -> Model:
    """A model from a checkpoint alone: strict, stage 1 inside it checked against its hash.

    Whatever is wrong with the file is one line. Nothing larger than its weights is allocated, and
    nothing is downloaded or written.
    """
    file = find_checkpoint(path)
    state = checkpoint.read_checkpoint(file)
    checkpoint.expect_stage(state, "diffusion", file)
    with malformed(file):
        return restored(state, file, weights, device)


def restored(state: dict[str, Any], file: Path, weights: str = "ema", device: str = "cpu") -> Model:
    """The same of a checkpoint that was read."""
    meta, where = state["ldm"], str(file)
    config, classes = of_stage(DiffusionConfig, meta["config"], where), class_names(meta, file)
    shape = data_shape(meta, config.data, file)
    space = _restored_space(state, config, shape, len(classes), file)
    guides = guides_inside(state, (space.shape, config.schedule), file, device)
    about = meta.get("text") or {}
    text = load_text(config, about.get("hash"), where, download=False)
    net = build_fitting(
        lambda: build_net(config, space.shape, len(classes), text),
        checkpoint.weights(state, weights, file),
        where,
    )
    denoiser = Denoiser(net, config.schedule, config.loss).eval().requires_grad_(False).to(device)
    settings = config.sample
    if settings.guide.run is not None:  # a name in a stranger's file is not looked for
        settings = dataclasses.replace(settings, guide=INSIDE)
    return Model(
        denoiser,
        space.eval().to(device),
        classes,
        settings,
        step=state["global_step"],
        text=text,
        prompts=tuple(map(str, about.get("prompts", ()))),
        purpose=config.task,
        view=View.of(shape, meta.get("view"), where) if space.modality == "pictures" else None,
        features=config.network.features,
        file=file,
        guides=guides,
    )


def _restored_space(
    state: dict[str, Any], config: DiffusionConfig, shape: Shape, classes: int, file: Path
) -> Space:
    """The space with its statistics, and with stage 1 if there is one, whose hash is checked."""
    meta, where = state["ldm"], str(file)
    inside = meta["autoencoder"]
    stage1 = of_stage(AutoencoderConfig, inside["config"], where) if inside else None

    def build() -> Space:
        autoencoder = stage1.network.build(shape) if stage1 else None
        return config.space.build(shape, autoencoder, classes, config.network.features)

    found = under(state["state_dict"], "space.")
    found = config.space.upgraded(found, classes, config.network.features)
    space = build_fitting(build, found, where)
    space.expect_measured(where)
    space.note(meta.get("view") or {})
    expect_hash(space.first_stage, inside, file)
    return space


def expect_hash(stage1: nn.Module | None, inside: dict[str, Any] | None, file: Path) -> None:
    """Refusal unless the stage 1 inside a checkpoint is the one of the hash kept with it."""
    if inside and (stage1 is None or fingerprint(stage1) != inside["hash"]):
        what = f"the autoencoder inside {file} is not the one it was trained with"
        raise Refusal(f"checkpoint: {what}; the file is damaged")


def fingerprint(module: nn.Module) -> str:
    """A hash of a module's weights."""
    return hash_of_weights(module.state_dict().items())


LARGEST = 2**26  # numbers of one picture: 8,192 x 8,192 grey


def data_shape(meta: dict[str, Any], data: AnyData, file: Path) -> Shape:
    """The shape of a checkpoint's data; Refusal where no data has it, or its config's have not."""
    shape = tuple(meta["shape"])
    whole = len(shape) == data.axes and all(type(size) is int and size > 0 for size in shape)
    if not whole or math.prod(shape) > LARGEST:
        what = f"is of data of shape {shape}, which no picture or cloud has"
        raise Refusal(f"checkpoint: {file} {what}")
    if data.side is not None and max(shape[1:]) > data.side:
        what = f"says {shape} of its data, and {data.side} pixels in its config"
        raise Refusal(f"checkpoint: {file} {what}")
    return shape


def class_names(meta: dict[str, Any], file: Path) -> tuple[str, ...]:
    """The classes' names; Refusal where they are no names."""
    names = tuple(meta["classes"])
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise Refusal(
            f"checkpoint: {file} has classes that are not names, each of its own: {names!r:.100}"
        )
    return names


def load_text(
    config: DiffusionConfig, expected: str | None = None, where: str = "", download: bool = True
) -> TextEncoder | None:
    """The text encoder that a config names, if it is of captions.

    Refusal if it is not the one that was trained with.

    Without `download` only what lies on this machine: a checkpoint's own word is no reason to fetch
    anything.
    """
    if config.condition not in ("text", "both"):
        return None
    text = config.text.load(download)
    if expected is not None and text.hash != expected:
        raise Refusal(
            f"{where}: text encoder {type(config.text).__name__} is {text.hash} here, it was "
            f"trained with {expected}"
        )
    return text


def load_autoencoder(
    path: Path, which: str = "ema"
) -> tuple[Autoencoder, AutoencoderConfig, dict[str, Any]]:
    """Stage 1 of a checkpoint, averaged weights where there are any, or `raw`; and its metadata.

    Of a latent model's checkpoint, the stage 1 inside it, checked against its hash.
    """
    state = checkpoint.read_checkpoint(path)
    if (inside := state["ldm"]["autoencoder"]) is None:
        checkpoint.expect_stage(state, "autoencoder", path)
    with malformed(path):
        meta = state["ldm"]
        config = of_stage(AutoencoderConfig, (inside or meta)["config"], str(path))
        shape = data_shape(meta, config.data, path)
        within = under(state["state_dict"], "space.autoencoder.")
        found = within if inside else checkpoint.weights(state, which, path)
        build = lambda: config.network.build(shape)  # noqa: E731
        autoencoder = build_fitting(build, found, str(path))
        expect_hash(autoencoder, inside, path)
        class_names(meta, path)
        return autoencoder.eval(), config, meta


def recorded_data(config: Recorded, root: str | None = None) -> Recorded:
    """The data settings of a checkpoint, to read from `root` or as recorded; never downloaded."""
    settings = {field.name for field in dataclasses.fields(config)}
    if root is not None and "root" not in settings:
        what = f"{type(config).__name__} are read from no folder"
        raise Refusal(f"--data-root: {what}; leave it out")
    if root is not None and not Path(root).exists():
        raise Refusal(f"--data-root: '{root}' is not a folder, nor a file")
    changes: dict[str, Any] = {"workers": min(config.workers, os.cpu_count() or 1)}
    changes |= {"root": root} if root is not None else {}
    changes |= {"download": False} if "download" in settings else {}
    return dataclasses.replace(config, **changes)
