"""From a checkpoint of jets to figures: generated jets against the test jets, the truth-vs-truth floor beside each."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ldm import checkpoint
from ldm.config import SampleConfig, from_dict
from ldm.data.jets import JetNet, Jets, JetSet
from ldm.errors import Refusal, say
from ldm.metrics.jets import ALL, Cloud, evaluate_jets
from ldm.metrics.particlenet import resources
from ldm.metrics.records import Figure, append, file_hash, records, table
from ldm.model import Model, recorded_data, restore
from ldm.processes import ALONE, Ranks, launch
from ldm.sampling import generate, settings_from
from ldm.schema import to_dict


def load_jets(path: str | Path, root: str | None = None) -> Jets:
    """The jets that a checkpoint was trained on, split as then, from their own place or from `root`."""
    file = checkpoint.find(path)
    state = checkpoint.read(file)
    data = from_dict(state["ldm"]["config"], str(file)).data
    if not isinstance(data, JetNet):
        raise Refusal(f"checkpoint: {file} was trained on {type(data).__name__}, not on jets")
    return recorded_data(data, root).load()


def cloud(jets: JetSet) -> Cloud:
    """As the metrics take them."""
    return Cloud(jets.features, jets.mask)


def available() -> tuple[str, ...]:
    """All metrics; without FPND, and a line that says why, where its weights are not there."""
    try:
        resources()
    except Refusal as error:
        say(f"FPND is skipped: {error}")
        return tuple(metric for metric in ALL if metric != "fpnd")
    return ALL


def generate_like(
    model: Model,
    settings: SampleConfig,
    jets: JetSet,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Cloud, float]:
    """A generated jet for each real one, and the seconds that it took; every rank makes its share.

    Each has the real one's number of constituents, its type, and its pt and mass where the denoiser is told them.
    """
    space, mine = model.space, ranks.share(range(len(jets)))
    told = space.full(jets.counts.tolist()) | ({"jet": space.condition(jets.jet)} if space.jet else {})
    labels = jets.types[mine].tolist() if model.classes else None
    start = time.perf_counter()
    here = generate(model, settings, [seed + i for i in mine], labels, progress, {k: v[mine] for k, v in told.items()})
    return Cloud(ranks.collect(here, len(jets)), told["mask"]), time.perf_counter() - start


def judge(real: Cloud, generated: Cloud, others: Cloud, metrics: tuple[str, ...] = ALL, **settings: Any) -> dict[str, Figure]:
    """Every metric of the generated jets, and of as many other real ones in their place; `settings` are `evaluate_jets`'s."""
    found = evaluate_jets(real, generated, metrics, **settings)
    others = Cloud(others.features[: len(generated.mask)], others.mask[: len(generated.mask)])
    floor = evaluate_jets(real, others, metrics, **settings)
    sizes = len(generated.mask), len(others.mask)
    return {name: _figure(value, floor.get(name), *sizes) for name, value in found.items()}


def _figure(value: tuple[float, float], floor: tuple[float, float] | None, n: int, floor_n: int) -> Figure:
    std = lambda v: None if v is None or math.isnan(v[1]) else v[1]  # noqa: E731
    return Figure(value[0], n, floor and floor[0], floor_n, std(value), std(floor))


def save(path: Path, record: dict[str, Any]) -> None:
    """A record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def run(
    file: Path,
    log: Path,
    count: int | None,
    split: str | None,
    seed: int,
    weights: str,
    device: str,
    data_root: str | None,
    devices: int,
    **given: Any,
) -> None:
    """evaluate.py for a checkpoint of jets: a table with the floors, and the records."""
    jets, split = load_jets(file, data_root), split or "test"
    real, others = (jets.train, jets.held_out) if split == "train" else (jets.test, jets.held_out)
    few = real.first(count or len(real))
    ranks = Ranks.of(fabric := launch(devices, device))
    model = restore(file, weights, str(fabric.device) if ranks.world > 1 else device)
    settings = settings_from(model.settings, schedule=model.denoiser.schedule, **given)
    with tqdm(total=len(few), desc="sampling", unit="jet", disable=ranks.rank > 0, mininterval=1) as bar:
        generated, seconds = generate_like(model, settings, few, seed, bar.update, ranks)
    if ranks.rank > 0:
        return
    figures = judge(cloud(real), generated, cloud(others), available())
    how = {key: to_dict(settings)[key] for key in ("solver", "steps", "grid", "guidance", "batch_size")}
    how |= {
        "seeds": {"first": seed, "count": len(few)},
        "constituents": f"as {split} jets",
        "jets_per_second": len(few) / seconds,
    }
    how |= {"weights": weights, "device": device, "processes": ranks.world, "reference": {"what": split, "n": len(real)}}
    made = {"checkpoint": {"path": str(file), "hash": file_hash(file), "stage": "diffusion", "step": model.step}}
    append(log, records(figures, how | made))
    say(f"{file}: step {model.step}, {weights} weights; {len(few)} jets against {len(real)} {split} jets")
    say(table(figures))
    say(f"wrote {len(figures)} records to {log}")
