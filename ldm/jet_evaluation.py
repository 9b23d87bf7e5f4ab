"""From a checkpoint of jets to figures: generated jets against the test jets, the truth-vs-truth floor beside each."""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldm import checkpoint
from ldm.config import SampleConfig, from_dict
from ldm.data.jets import JetNet, Jets, JetSet
from ldm.errors import Refusal
from ldm.metrics.jets import ALL, Cloud, evaluate_jets
from ldm.metrics.records import Figure
from ldm.model import Model
from ldm.sampling import generate


def load_jets(path: str | Path, root: str | None = None) -> Jets:
    """The jets that a checkpoint was trained on, split as then, from their own place or from `root`."""
    file = checkpoint.find(path)
    state = checkpoint.read(file)
    data = from_dict(state["ldm"]["config"], str(file)).data
    if not isinstance(data, JetNet):
        raise Refusal(f"checkpoint: {file} was trained on {type(data).__name__}, not on jets")
    return (dataclasses.replace(data, root=root) if root is not None else data).load()


def cloud(jets: JetSet, count: int | None = None) -> Cloud:
    """The first `count` jets, or all."""
    return Cloud(jets.features[:count], jets.mask[:count])


def generate_like(
    model: Model, settings: SampleConfig, jets: JetSet, seed: int = 0, progress: Callable[[int], None] | None = None
) -> tuple[Cloud, float]:
    """A generated jet for each real one, with its number of constituents, its type, and its pt and mass if the denoiser takes
    them; and the seconds that it took."""
    space = model.space
    told = space.full(jets.counts.tolist()) | ({"jet": space.condition(jets.jet)} if space.jet else {})
    labels = jets.types.tolist() if model.classes else None
    start = time.perf_counter()
    features = generate(model, settings, range(seed, seed + len(jets)), labels, progress, told)
    return Cloud(features, told["mask"]), time.perf_counter() - start


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
