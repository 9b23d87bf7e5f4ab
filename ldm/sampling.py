"""From a checkpoint and settings to samples: the one path that sample.py, evaluation and the callbacks take.

Sample i is a function of its seed alone: its noise comes from a generator of its own, and batches are filled up to one
size, because a convolution may round differently for another batch shape.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid
from tqdm import tqdm

from ldm import checkpoint
from ldm.checkpoint import find
from ldm.config import AutoencoderConfig, DiffusionConfig, SampleConfig, from_dict
from ldm.data.batches import as_bytes
from ldm.diffusion import solvers
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.tasks import cfg
from ldm.errors import Refusal
from ldm.networks.autoencoder import Autoencoder
from ldm.randomness import SampleNoise
from ldm.schema import to_dict
from ldm.spaces import Latents, LatentSpace, PixelSpace

Space = PixelSpace | LatentSpace


@dataclass
class Model:
    """What sampling needs: the denoiser, its space, the classes' names and the defaults for settings."""

    denoiser: Denoiser
    space: Space
    classes: tuple[str, ...]
    settings: SampleConfig
    step: int = 0

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


def build_space(config: DiffusionConfig, shape: tuple[int, int, int], autoencoder: Autoencoder | None) -> Space:
    """The space of a config for pictures of `shape`."""
    if isinstance(config.space, Latents):
        return LatentSpace(autoencoder, config.space.chunk)
    return PixelSpace(shape)


def build_denoiser(config: DiffusionConfig, shape: tuple[int, int, int], classes: int) -> Denoiser:
    """The denoiser of a config for x of `shape`."""
    return Denoiser(config.network.build(shape, classes), config.schedule, config.loss)


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
    space = build_space(config, tuple(meta["shape"]), autoencoder)
    denoiser = build_denoiser(config, space.shape, len(meta["classes"]))
    checkpoint.load_strict(space, checkpoint.under(state["state_dict"], "space."), str(file))
    checkpoint.load_strict(denoiser.net, checkpoint.weights(state, weights, file), str(file))
    if autoencoder is not None and checkpoint.fingerprint(autoencoder.state_dict().items()) != meta["autoencoder"]["hash"]:
        raise Refusal(f"checkpoint: the autoencoder inside {file} is not the one it was trained with; the file is damaged")
    denoiser.eval().requires_grad_(False).to(device)
    return Model(denoiser, space.eval().to(device), tuple(meta["classes"]), config.sample, state["global_step"])


def load_autoencoder(path: Path) -> tuple[Autoencoder, AutoencoderConfig, dict[str, Any]]:
    """Stage 1 from its checkpoint, averaged weights where it kept them; and what the checkpoint says of itself."""
    state = checkpoint.read(path)
    checkpoint.expect_stage(state, "autoencoder", path)
    config = from_dict(state["ldm"]["config"], str(path))
    autoencoder = config.network.build(tuple(state["ldm"]["shape"]))
    checkpoint.load_strict(autoencoder, checkpoint.weights(state, "ema", path), str(path))
    return autoencoder.eval(), config, state["ldm"]


@torch.inference_mode()
def generate(
    model: Model,
    settings: SampleConfig,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Samples as uint8 (N, C, H, W) on the CPU, one for each seed; labels default to seed modulo classes.

    `progress(n)` is told of every finished batch. Refusal if a sample is not finite.
    """
    if labels is None and model.classes:
        labels = [seed % len(model.classes) for seed in seeds]
    size, done = settings.batch_size, []
    for i in range(0, len(seeds), size):
        part = list(range(i, min(i + size, len(seeds))))
        rows = (part * size)[:size]  # filled up by repeats, dropped again below
        x = _batch(model, settings, [seeds[r] for r in rows], [labels[r] for r in rows] if model.classes else None)
        if not torch.isfinite(x[: len(part)]).all():
            raise Refusal(f"sampling gave numbers that are not finite at seed {seeds[i]}; try more steps or another solver")
        done.append(as_bytes(model.space.decode(x)[: len(part)]).cpu())
        if progress is not None:
            progress(len(part))
    return torch.cat(done)


def _batch(model: Model, settings: SampleConfig, seeds: Sequence[int], labels: Sequence[int] | None) -> Tensor:
    device = next(model.denoiser.parameters()).device
    randn = SampleNoise(seeds, model.space.shape, device)
    schedule = model.denoiser.schedule
    cond, null = {}, None
    if labels is not None:
        label = torch.tensor(labels, device=device)
        cond, null = {"label": label}, {"label": torch.full_like(label, len(model.classes))}
    denoise = cfg(model.denoiser, cond, null, settings.guidance)
    try:
        times = schedule.grid(settings.steps, settings.grid)
        solver = settings.solver.bind(schedule, times)
    except ValueError as error:
        raise Refusal(f"sample: {error}") from None
    return solvers.sample(solver, denoise, solvers.start(schedule, times[0], randn()), times, randn)


def to_picture(images: Tensor, columns: int = 0, side: int = 64) -> Image.Image:
    """A grid of uint8 images (N, C, H, W), small ones enlarged by a whole factor so that a person can see them."""
    factor = max(1, side // max(images.shape[2:]))
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    grid = make_grid(images, nrow=columns or max(1, round(len(images) ** 0.5)), padding=2, pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def write(folder: Path, images: Tensor, seeds: Sequence[int], labels: Sequence[str] | None, settings: dict[str, Any]) -> None:
    """DIR/<seed, 8 digits>.png at the data's own size, grid.png, samples.jsonl (a line each), settings.json."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        name = f"{seed:08d}.png"
        pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(folder / name)
        lines.append({"file": name, "seed": seed} | ({"label": labels[i]} if labels else {}))
    to_picture(images[:400]).save(folder / "grid.png")
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")


def settings_from(
    defaults: SampleConfig,
    solver: str | None,
    eta: float | None,
    solver_option: Sequence[str] | None = None,
    schedule: Schedule | None = None,
    **given: float | str | None,
) -> SampleConfig:
    """The checkpoint's settings with what the command line says over them, checked; with the schedule, against it too.

    `solver_option` is a list of key=value.
    """
    plain = to_dict(defaults) | {key: value for key, value in given.items() if value is not None}
    if solver is not None and solver != plain["solver"]["name"]:
        plain["solver"] = {"name": solver}
    if eta is not None:
        plain["solver"]["eta"] = eta
    plain["solver"] |= solver_options(solver_option or ())
    law = {"schedule": {"name": type(schedule).__name__} | to_dict(schedule)} if schedule is not None else {}
    return from_dict({"name": "sample", "sample": plain, "loss": {"predict": "v"}} | law, "sample.py").sample


def solver_options(pairs: Sequence[str]) -> dict[str, Any]:
    """["churn=0.5"] -> {"churn": 0.5}, each value read as in YAML."""
    for pair in pairs:
        if not re.fullmatch(r"(?!name=)[a-z]\w*=[^=\s${}\[\]]+", pair):
            raise Refusal(f"--solver-option: '{pair}' is not key=value")
    return OmegaConf.to_container(OmegaConf.from_dotlist(list(pairs)))


def pick_device(device: str | None) -> str:
    """The device asked for, or the best there is; Refusal if it is not there."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise Refusal(f"--device: '{device}' cannot be used ({str(error).splitlines()[0]})") from None
    return device


def run(
    checkpoint: str,
    output: str,
    count: int,
    seed: int,
    label: str | None,
    weights: str,
    device: str | None,
    devices: int = 1,
    **given: Any,
) -> None:
    """sample.py: everything from the command line to the folder of pictures, over one process or several."""
    if count < 1 or seed < 0:
        raise Refusal("--count must be at least 1 and --seed at least 0")
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refusal(f"--output: '{folder}' is not empty; name another folder, nothing is overwritten")
    folder.mkdir(parents=True, exist_ok=True)  # before the work, so that what cannot be written is known before it
    device = pick_device(device)
    from ldm.processes import interleave, launch, share  # Lightning is slow to import

    fabric = launch(devices, device)
    model = restore(checkpoint, weights, str(fabric.device) if fabric.world_size > 1 else device)
    settings = settings_from(model.settings, schedule=model.denoiser.schedule, **given)
    seeds = list(range(seed, seed + count))
    labels = [model.label(label)] * count if label is not None else [s % max(1, len(model.classes)) for s in seeds]
    name = type(settings.solver).__name__
    how = f"{name}, {settings.steps} steps, guidance {settings.guidance:g}, {device}"
    mine = [share(rows, fabric.global_rank, fabric.world_size) for rows in (seeds, labels)]
    fabric.print(f"{checkpoint}: step {model.step}, {weights} weights, {how}")
    with tqdm(total=len(mine[0]), desc="sampling", unit="image", disable=not fabric.is_global_zero) as bar:
        images = generate(model, settings, *mine, bar.update)
    if fabric.world_size > 1:
        images = interleave(fabric.all_gather(images.to(fabric.device)), count).cpu()
    if not fabric.is_global_zero:
        return
    record = {"checkpoint": str(find(checkpoint)), "step": model.step, "weights": weights, "count": count, "seed": seed}
    names = [model.classes[i] for i in labels] if model.classes else None
    how = {key: to_dict(settings)[key] for key in ("solver", "steps", "grid", "guidance", "batch_size")}
    write(folder, images, seeds, names, record | how)
    print(f"wrote {count} pictures and grid.png to {folder}/")
