"""sample.py without a task: from the command line to the folder of samples."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ldm.checkpoints.checkpoint import find
from ldm.config import SampleConfig
from ldm.diffusion.space import Told
from ldm.errors import Refusal, say
from ldm.pictures.trained import expect_plain
from ldm.sampling import jets as clouds
from ldm.sampling.conditions import Condition
from ldm.sampling.generate import generate, reverse
from ldm.sampling.model import Model, restore
from ldm.sampling.pictures import write
from ldm.sampling.prompts import prompts_from
from ldm.sampling.settings import Overrides
from ldm.system import threads


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
        raise Refusal(
            f"--output: '{folder}' is not empty; name another folder, nothing is overwritten"
        )
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
        raise Refusal(
            f"--count: {count:.3g} samples are more than {MOST} of one command; go on from another --seed"
        )
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
    from ldm.sampling.trajectory import Recorder
    from ldm.system.processes import Ranks, launch  # Lightning is slow to import

    fabric = launch(devices, device)
    ranks = Ranks.of(fabric)
    model = restore(checkpoint, weights, str(fabric.device) if ranks.world > 1 else device)
    expect_plain(model.task, "sample.py without --task")
    settings = Overrides(**given).over(model.settings, model.schedule)
    seeds = list(range(seed, seed + count))
    labels = clouds.labels_of(model, label, asked, seeds)
    prompts = prompts_from(model, prompt, prompt_file, seeds)
    how = f"{settings.describe()}, {device}"
    told = clouds.told_as_asked(model, asked, seeds, labels)
    mine = ranks.share(range(count))
    if fabric.is_global_zero:
        say(f"{checkpoint}: step {model.step}, {weights} weights, {how}")
        for warning in clouds.warnings(model, asked, labels, told):
            say(f"warning: {warning}")
    jets = model.space.modality == "jets"
    own, condition = [seeds[i] for i in mine], Condition(labels, prompts, told)
    recorder = (
        Recorder(model, settings, own, min(trajectory, settings.batch_size))
        if trajectory and not jets
        else None
    )
    with tqdm(
        total=len(mine), desc="sampling", unit="sample", disable=not fabric.is_global_zero
    ) as bar:
        here = generate(model, settings, own, condition.rows(mine), bar.update, recorder)
        samples = ranks.collect(here, count)
    if not fabric.is_global_zero:
        return
    record = {
        "checkpoint": str(find(checkpoint)),
        "step": model.step,
        "weights": weights,
        "count": count,
        "seed": seed,
    }
    names = [model.classes[i] for i in labels] if model.classes else None
    how = settings.record()
    if jets:
        features = asked.jet if "jet" in told else None
        names = clouds.write_clouds(
            folder, samples, told["mask"], seeds, names, record | how | {"jet": jet}, features
        )
        if trajectory:
            _draw_jets(
                folder,
                model,
                settings,
                seeds[:trajectory],
                labels,
                {k: v[:trajectory] for k, v in told.items()},
            )
        say(f"wrote {count} jets to {', '.join(f'{folder}/{name}' for name in names)}")
        return
    write(folder, samples, seeds, names, record | how, prompts)
    if recorder is not None:
        recorder.write(folder)
    say(
        f"wrote {count} pictures, grid.png{', trajectory.png, trajectory.gif' if recorder else ''} to {folder}/"
    )


def _draw_jets(
    folder: Path,
    model: Model,
    settings: SampleConfig,
    seeds: Sequence[int],
    labels: Sequence[int],
    told: Told,
) -> None:
    from ldm.jets.plots import reverse_process  # matplotlib is slow to import

    shown = reverse(model, settings, seeds, Condition(labels[: len(seeds)], told=told))
    reverse_process(*shown, jets=len(seeds)).save(folder / "trajectory.png")
