"""What a checkpoint holds, made whole again: a denoiser, its space, the classes and the settings to sample with."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm import checkpoint
from ldm.config import AutoencoderConfig, DiffusionConfig, SampleConfig, from_dict
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.schedules import expand
from ldm.errors import Refusal
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.text import TextEncoder
from ldm.pointcloud import PointCloud, PointCloudSpace
from ldm.spaces import Latents, LatentSpace, PixelSpace
from ldm.trained import AnyTask, Generate

Space = PixelSpace | LatentSpace | PointCloudSpace
KEPT = ("mask", "concat")  # of what a denoiser is told, what guidance never leaves untold


@dataclass
class Model:
    """What sampling needs: the denoiser, its space, the classes' names and the defaults for settings."""

    denoiser: Denoiser
    space: Space
    classes: tuple[str, ...]
    settings: SampleConfig
    step: int = 0
    text: TextEncoder | None = None
    prompts: tuple[str, ...] = ()  # captions of held-out pictures, for samples that are given none
    task: AnyTask = field(default_factory=Generate)

    def label(self, name: str) -> int:
        """The class that a name or a number means."""
        if not self.classes:
            raise Refusal("--label: this checkpoint is of a model without classes")
        if name in self.classes:
            return self.classes.index(name)
        if name.isdecimal() and int(name) < len(self.classes):
            return int(name)
        listed = ", ".join(f"{i} {c}" if c != str(i) else c for i, c in enumerate(self.classes))
        raise Refusal(f"--label: '{name}' is not one of the {len(self.classes)} classes: {listed}")


def build_space(config: DiffusionConfig, shape: tuple[int, ...], autoencoder: Autoencoder | None, classes: int = 0) -> Space:
    """The space of a config for pictures or clouds of `shape`."""
    if isinstance(config.space, Latents):
        return LatentSpace(autoencoder, config.space.chunk)
    if isinstance(config.space, PointCloud):
        return PointCloudSpace(shape, classes, config.network.jet)
    return PixelSpace(shape)


def build_denoiser(config: DiffusionConfig, shape: tuple[int, ...], classes: int, text: TextEncoder | None = None) -> Denoiser:
    """The denoiser of a config for x of `shape`."""
    more = {"text": text.dim} if text else {}
    more |= {"concat": channels} if (channels := config.task.channels(shape[0])) else {}
    return Denoiser(config.network.build(shape, classes, **more), config.schedule, config.loss)


def without(cond: dict[str, Tensor], rows: Tensor, classes: int) -> dict[str, Tensor]:
    """The condition with these rows (B,) not told: the class after the last, NaN for a jet's features, no caption."""
    nothing = {"label": classes, "jet": float("nan"), "text": 0.0, "text_mask": False}
    return {k: v if k in KEPT else v.masked_fill(expand(rows, v), nothing[k]) for k, v in cond.items()}


def restore(path: str | Path, weights: str = "ema", device: str = "cpu") -> Model:
    """A model from a checkpoint alone: strict, with stage 1 inside the file checked against its hash."""
    file = checkpoint.find(path)
    state = checkpoint.read(file)
    checkpoint.expect_stage(state, "diffusion", file)
    meta = state["ldm"]
    config = from_dict(meta["config"], str(file))
    autoencoder = None
    if meta["autoencoder"]:
        stage1 = from_dict(meta["autoencoder"]["config"], str(file))
        autoencoder = stage1.network.build(tuple(meta["shape"]))
    space = build_space(config, tuple(meta["shape"]), autoencoder, len(meta["classes"]))
    about_text = meta.get("text") or {}
    text = load_text(config, about_text.get("hash"), str(file))
    denoiser = build_denoiser(config, space.shape, len(meta["classes"]), text)
    checkpoint.load_strict(space, checkpoint.under(state["state_dict"], "space."), str(file))
    checkpoint.load_strict(denoiser.net, checkpoint.weights(state, weights, file), str(file))
    if autoencoder is not None and checkpoint.fingerprint(autoencoder.state_dict().items()) != meta["autoencoder"]["hash"]:
        raise Refusal(f"checkpoint: the autoencoder inside {file} is not the one it was trained with; the file is damaged")
    denoiser.eval().requires_grad_(False).to(device)
    told = text, tuple(about_text.get("prompts", ())), config.task
    return Model(denoiser, space.eval().to(device), tuple(meta["classes"]), config.sample, state["global_step"], *told)


def load_text(config: DiffusionConfig, expected: str | None = None, where: str = "") -> TextEncoder | None:
    """The text encoder that a config names, if it is of captions; Refusal if it is not the one that was trained with."""
    if config.condition not in ("text", "both"):
        return None
    text = config.text.load()
    if expected is not None and text.hash != expected:
        raise Refusal(f"{where}: text encoder {type(config.text).__name__} is {text.hash} here, it was trained with {expected}")
    return text


def load_autoencoder(path: Path, which: str = "ema") -> tuple[Autoencoder, AutoencoderConfig, dict[str, Any]]:
    """Stage 1 from its checkpoint, averaged weights where it kept them, or `raw`; and what the checkpoint says of itself."""
    state = checkpoint.read(path)
    checkpoint.expect_stage(state, "autoencoder", path)
    config = from_dict(state["ldm"]["config"], str(path))
    autoencoder = config.network.build(tuple(state["ldm"]["shape"]))
    checkpoint.load_strict(autoencoder, checkpoint.weights(state, which, path), str(path))
    return autoencoder.eval(), config, state["ldm"]
