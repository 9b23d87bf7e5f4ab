"""What a checkpoint holds, made whole again: a denoiser, its space, its classes, its settings."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from ldm.checkpoints import checkpoint
from ldm.checkpoints.safe import malformed
from ldm.checkpoints.weights import build_fitting, hash_of_weights, under
from ldm.config import AutoencoderConfig, Data, DiffusionConfig, SampleConfig, from_dict
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.space import Space
from ldm.errors import Refusal
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.base import NetworkConfig
from ldm.networks.text import TextEncoder
from ldm.pictures.opening import View
from ldm.pictures.trained import Generate, Purpose
from ldm.system import threads
from ldm.system.data import DataConfig


class SpaceConfig(Protocol):
    """What the config of every space has."""

    def build(self, shape: Any, autoencoder: Any, classes: int, features: int) -> Space: ...


Recorded = TypeVar("Recorded", bound=DataConfig)
Stage = TypeVar("Stage", DiffusionConfig, AutoencoderConfig)


@dataclass
class Model:
    """What sampling needs: a denoiser, its space, the classes' names and defaults for settings."""

    denoiser: Denoiser
    space: Space
    classes: tuple[str, ...]
    settings: SampleConfig
    step: int = 0
    text: TextEncoder | None = None
    prompts: tuple[str, ...] = ()  # captions of held-out pictures, for samples that are given none
    purpose: Purpose = field(default_factory=Generate)  # what it is trained for
    view: View | None = None  # how pictures are read, of a model of pictures

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return next(self.denoiser.parameters()).device

    @property
    def schedule(self) -> Schedule:
        """The law of its noise."""
        return self.denoiser.schedule

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
            listed = f", told by their names: {', '.join(self.classes)}"
        else:
            of = [f"{i} {c}" if c != str(i) else c for i, c in enumerate(self.classes)]
            listed = f": {', '.join(of)}"
        raise Refusal(f"--label: '{name}' is not one of the {len(self.classes)} classes{listed}")


def is_number(name: str) -> bool:
    """Whether a class is called by a number: 3, 03, -1, 2.5."""
    return bool(re.fullmatch(r"\s*[+-]?\d+([.,]\d+)?\s*", name))


def build_net(
    config: DiffusionConfig, shape: tuple[int, ...], classes: int, text: TextEncoder | None = None
) -> nn.Module:
    """The network of a config for x of `shape`."""
    more: dict[str, int] = {"text": text.dim} if text else {}
    more |= {"concat": channels} if (channels := config.task.channels(shape[0])) else {}
    network: NetworkConfig = config.network
    return network.build(shape, classes, **more)


def build_denoiser(
    config: DiffusionConfig, shape: tuple[int, ...], classes: int, text: TextEncoder | None = None
) -> Denoiser:
    """The denoiser of a config for x of `shape`."""
    denoiser = Denoiser(build_net(config, shape, classes, text), config.schedule, config.loss)
    denoiser.register_forward_pre_hook(threads.tick)
    return denoiser


def restore(path: str | Path, weights: str = "ema", device: str = "cpu") -> Model:
    """A model from a checkpoint alone: strict, with stage 1 inside checked against its hash.

    Whatever is wrong with the file is one line; nothing of a size that its weights do not have is
    allocated, nothing is downloaded, and nothing written.
    """
    file = checkpoint.find(path)
    state = checkpoint.read(file)
    checkpoint.expect_stage(state, "diffusion", file)
    with malformed(file):
        return _restored(state, file, weights, device)


def _restored(state: dict[str, Any], file: Path, weights: str, device: str) -> Model:
    meta, where = state["ldm"], str(file)
    config, classes = _of_stage(DiffusionConfig, meta["config"], where), class_names(meta, file)
    shape = data_shape(meta, config.data, file)
    space = _space(state, config, shape, file)
    about_text = meta.get("text") or {}
    text = load_text(config, about_text.get("hash"), where, download=False)
    net = build_fitting(
        lambda: build_net(config, space.shape, len(classes), text),
        checkpoint.weights(state, weights, file),
        where,
    )
    denoiser = Denoiser(net, config.schedule, config.loss).eval().requires_grad_(False).to(device)
    return Model(
        denoiser,
        space.eval().to(device),
        classes,
        config.sample,
        state["global_step"],
        text,
        prompts=tuple(map(str, about_text.get("prompts", ()))),
        purpose=config.task,
        view=View.of(shape, meta.get("view"), where) if len(shape) == PICTURE else None,
    )


def _space(
    state: dict[str, Any], config: DiffusionConfig, shape: tuple[int, ...], file: Path
) -> Space:
    """The space of a checkpoint, with the stage 1 that it was trained with. Refusal if it is
    another."""
    meta, where = state["ldm"], str(file)
    inside = meta["autoencoder"]
    stage1 = _of_stage(AutoencoderConfig, inside["config"], where) if inside else None
    features = config.network.features

    def build() -> Space:
        autoencoder = stage1.network.build(_picture(shape)) if stage1 else None
        space: SpaceConfig = config.space
        return space.build(shape, autoencoder, len(meta["classes"]), features)

    space = build_fitting(build, under(state["state_dict"], "space."), where)
    space.expect_measured(where)
    space.note(meta.get("view") or {})
    if inside and fingerprint(space.get_submodule("autoencoder")) != inside["hash"]:
        raise Refusal(
            f"checkpoint: the autoencoder inside {file} is not the one it was trained with; "
            "the file is damaged"
        )
    return space


def _picture(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = shape
    return channels, height, width


def _of_stage(kind: type[Stage], raw: Any, where: str) -> Stage:
    """A config inside a checkpoint; Refusal if it is of another stage."""
    config = from_dict(raw, where)
    if not isinstance(config, kind):
        raise Refusal(f"checkpoint: {where} holds a config of another stage")
    return config


def fingerprint(module: nn.Module) -> str:
    """A hash of a module's weights."""
    return hash_of_weights(module.state_dict().items())


PICTURE = 3  # places of a picture's shape
LARGEST = 2**26  # numbers of one picture: 8,192 x 8,192 grey
SIDES = {"Digits": 8, "CIFAR10": 32}  # of data that come in one size


def data_shape(meta: dict[str, Any], data: Data, file: Path) -> tuple[int, ...]:
    """The shape of a checkpoint's data; Refusal where none has it, or it is not its config's."""
    shape, kind = tuple(meta["shape"]), type(data).__name__
    places = 2 if kind == "JetNet" else 3
    whole = len(shape) == places and all(type(size) is int and size > 0 for size in shape)
    if not whole or math.prod(shape) > LARGEST:
        raise Refusal(
            f"checkpoint: {file} is of data of shape {shape}, which no picture or cloud has"
        )
    side = SIDES.get(kind) or getattr(data, "size", None)
    if places == 3 and side is not None and max(shape[1:]) > side:
        raise Refusal(
            f"checkpoint: {file} says {shape} of its data, and {side} pixels in its config"
        )
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
    """The text encoder of a config with captions; Refusal if it is not the one trained with.

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
    """Stage 1 from its checkpoint, averaged weights where it kept them, or `raw`; its config; what
    the checkpoint says of itself."""
    state = checkpoint.read(path)
    checkpoint.expect_stage(state, "autoencoder", path)
    with malformed(path):
        meta = state["ldm"]
        config = _of_stage(AutoencoderConfig, meta["config"], str(path))
        shape = data_shape(meta, config.data, path)
        found = checkpoint.weights(state, which, path)
        autoencoder = build_fitting(lambda: config.network.build(_picture(shape)), found, str(path))
        class_names(meta, path)
        return autoencoder.eval(), config, meta


def recorded_data(config: Recorded, root: str | None = None) -> Recorded:
    """The data settings of a checkpoint, to be read from `root` or where they lay, never
    downloaded."""
    if root is not None and not hasattr(config, "root"):
        raise Refusal(
            f"--data-root: {type(config).__name__} are embedded and read from no folder; "
            "leave it out"
        )
    if root is not None and not Path(root).exists():
        raise Refusal(f"--data-root: '{root}' is not a folder, nor a file")
    more: dict[str, Any] = {"workers": min(config.workers, os.cpu_count() or 1)}
    more |= {"root": root} if root is not None else {}
    more |= {"download": False} if hasattr(config, "download") else {}
    return dataclasses.replace(config, **more)
