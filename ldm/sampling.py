"""From a model and settings to samples: the one path that sample.py, evaluation and the callbacks take.

Sample i is a function of its seed alone: its noise comes from a generator of its own, and batches are filled up to one
size, because a convolution may round differently for another batch shape.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from ldm import clouds, threads
from ldm.checkpoint import find
from ldm.config import SampleConfig, from_dict
from ldm.diffusion import solvers
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.tasks import cfg
from ldm.errors import Refusal, say
from ldm.model import KEPT, Model, restore, without
from ldm.pictures import write
from ldm.pointcloud import PointCloudSpace
from ldm.prompts import prompts_from, prompts_of
from ldm.randomness import SampleNoise
from ldm.schema import to_dict
from ldm.spaces import Told
from ldm.trained import expect_plain

Watch = Callable[[int, Tensor, Tensor], None]  # of every step: its index, x_s and x0_hat


@torch.inference_mode()
def generate(
    model: Model,
    settings: SampleConfig,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
    told: Told | None = None,
    watch: Watch | None = None,
    prompts: Sequence[str] | None = None,
) -> Tensor:
    """Samples on the CPU, one for each seed: uint8 (N, C, H, W), or features (N, P, 3) of clouds.

    Labels default to seed modulo classes, `told` (rows: the mask of a cloud) to what the space draws for each seed,
    prompts to the model's own in turn.
    `progress(n)` is told of every finished batch, `watch` of every step of the first.
    Refusal if a sample is not finite, or the model is trained for a task, which needs pictures.
    """
    expect_plain(model.task, "sampling")
    if labels is None and model.classes:
        labels = [seed % len(model.classes) for seed in seeds]
    told = model.space.draw(seeds, labels) if told is None else told
    if model.text is not None and prompts is None:
        prompts = prompts_of(model, seeds)
    size, done = settings.batch_size, []
    for i in range(0, len(seeds), size):
        part = list(range(i, min(i + size, len(seeds))))
        rows = (part * size)[:size]  # filled up by repeats, dropped again below
        these = {key: value[rows] for key, value in told.items()}
        if model.text is not None:
            these |= model.text.condition([prompts[r] for r in rows], next(model.denoiser.parameters()).device)
        x = _batch(model, settings, [seeds[r] for r in rows], [labels[r] for r in rows] if model.classes else None, these, watch)
        watch = None
        if not torch.isfinite(x[: len(part)]).all():
            raise Refusal(f"sampling gave numbers that are not finite at seed {seeds[i]}; try more steps or another solver")
        done.append(model.space.finish(x, these)[: len(part)])
        if progress is not None:
            progress(len(part))
    return torch.cat(done)


def _batch(
    model: Model, settings: SampleConfig, seeds: Sequence[int], labels: Sequence[int] | None, told: Told, watch: Watch | None
) -> Tensor:
    device = next(model.denoiser.parameters()).device
    randn = SampleNoise(seeds, model.space.shape, device, told.get("mask"))
    schedule = model.denoiser.schedule
    cond = {key: value.to(device) for key, value in told.items()}
    if labels is not None:
        cond["label"] = torch.tensor(labels, device=device)
    null = without(cond, torch.ones(len(seeds), dtype=torch.bool, device=device), len(model.classes))
    how = settings.guidance, tuple(settings.interval), settings.rescale
    denoise = cfg(model.denoiser, cond, null if cond.keys() - KEPT else None, *how)
    times, _ = _times(model, settings)
    try:
        return solvers.sample(settings.solver, denoise, solvers.start(schedule, times[0], randn()), times, randn, watch)
    except solvers.Unreached as error:
        raise Refusal(f"sample: {error}") from None


def _times(model: Model, settings: SampleConfig) -> tuple[Tensor, Schedule]:
    """The grid to go down, and the law; Refusal where the solver or the law has no such grid."""
    schedule = model.denoiser.schedule
    try:
        times = schedule.grid(settings.steps, settings.grid)
        settings.solver.bind(schedule, times)
    except ValueError as error:
        raise Refusal(f"sample: {error}") from None
    return times, schedule


def reverse(
    model: Model,
    settings: SampleConfig,
    seeds: Sequence[int],
    told: Told | None = None,
    frames: int = 7,
    labels: Sequence[int] | None = None,
) -> tuple[list[Tensor], Tensor, list[float]]:
    """Clouds during the reverse process, in one batch: decoded features (B, P, 3) of each frame, masks, and the times."""
    told = model.space.draw(seeds, labels) if told is None else told
    times = model.denoiser.schedule.grid(settings.steps, settings.grid)[1:].tolist()
    shown = sorted({round(i * (len(times) - 1) / (frames - 1)) for i in range(frames)})
    steps: list[Tensor] = []

    def watch(step: int, x_s: Tensor, x0_hat: Tensor) -> None:
        if step in shown:
            steps.append(model.space.finish(x_s, told))

    generate(model, replace(settings, batch_size=len(seeds)), seeds, labels, told=told, watch=watch)
    return steps, told["mask"], [times[i] for i in shown]


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
    """The device asked for, or the best there is; Refusal if it is not there. On a CPU threads are chosen from now on."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    try:
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # each kind of device raises what it likes
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refusal(f"--device: '{device}' cannot be used ({why})") from None
    if device == "cpu":
        threads.auto()
    return device


@contextmanager
def new_folder(output: str) -> Iterator[Path]:
    """The folder to write to, made before the work, so that what cannot be written is known before it.

    Where the work fails before anything is written, no empty folder is left.
    """
    folder = Path(output)
    if not output.strip():
        raise Refusal("--output: it is empty; name a folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refusal(f"--output: '{folder}' is not empty; name another folder, nothing is overwritten")
    made = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):  # from the innermost on, as long as they are empty
            for part in made:
                part.rmdir()
        raise


MOST = 1_000_000  # samples of one command


def expect_numbers(count: int | None, seed: int) -> None:
    """Refusal unless they are numbers that one command can make samples of."""
    if (count is not None and count < 1) or seed < 0:
        raise Refusal("--count must be at least 1 and --seed at least 0")
    if (count or 0) > MOST:
        raise Refusal(f"--count: {count:.3g} samples are more than {MOST} of one command; go on from another --seed")
    if seed >= 2**63 - MOST:
        raise Refusal("--seed: it is beyond 63 bits; give a smaller one")


def run(output: str, **asked: Any) -> None:
    """sample.py: everything from the command line to the folder of samples, over one process or several."""
    with new_folder(output) as folder:
        _run(folder, **asked)


def _run(
    folder: Path,
    checkpoint: str,
    count: int | None,
    seed: int,
    label: str | None,
    weights: str,
    device: str | None,
    devices: int = 1,
    trajectory: int = 0,
    prompt: str | None = None,
    prompt_file: str | None = None,
    constituents: str | None = None,
    jet: Sequence[str] | None = None,
    **given: Any,
) -> None:
    expect_numbers(count, seed)
    asked = clouds.asked_for(constituents, count, jet)
    count = len(asked.numbers) if asked.numbers is not None else count or 64
    if not 0 <= trajectory <= count:
        raise Refusal(f"--trajectory: {trajectory} samples cannot be shown of --count {count}")
    device = pick_device(device)
    from ldm.processes import Ranks, launch  # Lightning is slow to import
    from ldm.trajectory import Recorder

    fabric = launch(devices, device)
    ranks = Ranks.of(fabric)
    model = restore(checkpoint, weights, str(fabric.device) if ranks.world > 1 else device)
    expect_plain(model.task, "sample.py without --task")
    settings = settings_from(model.settings, schedule=model.denoiser.schedule, **given)
    seeds = list(range(seed, seed + count))
    labels = clouds.labels_of(model, label, asked, seeds)
    prompts = prompts_from(model, prompt, prompt_file, seeds)
    name = type(settings.solver).__name__
    how = f"{name}, {settings.steps} steps, guidance {settings.guidance:g}, {device}"
    told = clouds.told_as_asked(model, asked, seeds, labels)
    mine = ranks.share(range(count))
    if fabric.is_global_zero:
        say(f"{checkpoint}: step {model.step}, {weights} weights, {how}")
        for warning in clouds.warnings(model, asked, labels, told):
            say(f"warning: {warning}")
    jets = isinstance(model.space, PointCloudSpace)
    own = [[rows[i] for i in mine] if rows else None for rows in (seeds, labels, prompts)]
    recorder = Recorder(model, settings, own[0], min(trajectory, settings.batch_size)) if trajectory and not jets else None
    with tqdm(total=len(mine), desc="sampling", unit="sample", disable=not fabric.is_global_zero) as bar:
        told_mine = {k: v[mine] for k, v in told.items()}
        here = generate(model, settings, *own[:2], bar.update, told_mine, recorder, prompts=own[2])
        samples = ranks.collect(here, count)
    if not fabric.is_global_zero:
        return
    record = {"checkpoint": str(find(checkpoint)), "step": model.step, "weights": weights, "count": count, "seed": seed}
    names = [model.classes[i] for i in labels] if model.classes else None
    how = {key: to_dict(settings)[key] for key in ("solver", "steps", "grid", "guidance", "interval", "rescale", "batch_size")}
    if jets:
        features = asked.jet if "jet" in told else None
        names = clouds.write_clouds(folder, samples, told["mask"], seeds, names, record | how | {"jet": jet}, features)
        if trajectory:
            _draw_jets(folder, model, settings, seeds[:trajectory], labels, {k: v[:trajectory] for k, v in told.items()})
        say(f"wrote {count} jets to {', '.join(f'{folder}/{name}' for name in names)}")
        return
    write(folder, samples, seeds, names, record | how, prompts)
    if recorder is not None:
        recorder.write(folder)
    say(f"wrote {count} pictures, grid.png{', trajectory.png, trajectory.gif' if recorder else ''} to {folder}/")


def _draw_jets(
    folder: Path, model: Model, settings: SampleConfig, seeds: Sequence[int], labels: Sequence[int], told: Told
) -> None:
    from ldm.metrics.jet_plots import reverse_process  # matplotlib is slow to import

    shown = reverse(model, settings, seeds, told, labels=labels[: len(seeds)])
    reverse_process(*shown, jets=len(seeds)).save(folder / "trajectory.png")
