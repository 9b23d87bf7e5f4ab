"""sample.py without a task: from the command line to the folder of samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ldm.config import SampleConfig
from ldm.diffusion.space import Told
from ldm.errors import Refusal, say
from ldm.pictures.trained import expect_plain
from ldm.sampling import jets as clouds
from ldm.sampling.conditions import Condition
from ldm.sampling.folder import new_folder
from ldm.sampling.generate import generate, reverse
from ldm.sampling.model import Model
from ldm.sampling.pictures import write
from ldm.sampling.requests import Seeds, Source, Words
from ldm.sampling.settings import Overrides


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
    source = Source(checkpoint, weights, device, devices)
    Seeds(count, seed)
    asked = clouds.asked_for(constituents, count, jet)
    count = len(asked.numbers) if asked.numbers is not None else count or 64
    if not 0 <= trajectory <= count:
        raise Refusal(f"--trajectory: {trajectory} samples cannot be shown of --count {count}")
    from ldm.sampling.trajectory import Recorder

    place = source.launch()
    ranks, first = place.ranks, place.ranks.rank == 0
    model = source.restore(place)
    expect_plain(model.purpose, "sample.py without --task")
    settings = Overrides(**given).over(model.settings, model.schedule)
    seeds = list(range(seed, seed + count))
    labels = clouds.labels_of(model, label, asked, seeds)
    prompts = Words(label, prompt, prompt_file).prompts(model, seeds)
    how = f"{settings.describe()}, {place.device}"
    told = clouds.told_as_asked(model, asked, seeds, labels)
    mine = ranks.share(range(count))
    if first:
        say(f"{source.describe(model)}, {how}")
        for warning in clouds.warnings(model, asked, labels, told):
            say(f"warning: {warning}")
    jets = model.space.modality == "jets"
    own, condition = [seeds[i] for i in mine], Condition(labels, prompts, told)
    recorder = (
        Recorder(model, settings, own, min(trajectory, settings.batch_size))
        if trajectory and not jets
        else None
    )
    with tqdm(total=len(mine), desc="sampling", unit="sample", disable=not first) as bar:
        here = generate(model, settings, own, condition.rows(mine), bar.update, recorder)
        samples = ranks.collect(here, count)
    if not first:
        return
    record = source.record(model) | {"count": count, "seed": seed}
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
    given = {"label": names, "prompt": prompts}
    write(folder, samples, seeds, given, record | how, model.view and model.view.span)
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
