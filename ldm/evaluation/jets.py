"""From a checkpoint of jets to figures: generated jets against the test jets, the truth-vs-truth floor beside each."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ldm.checkpoints import checkpoint
from ldm.config import SampleConfig, from_dict
from ldm.diffusion.space import Told
from ldm.errors import Refusal, say
from ldm.jets import particlenet
from ldm.jets.data import NAMES, JetNet, Jets, JetSet
from ldm.jets.emd import transport
from ldm.jets.metrics import ALL, Cloud, Comparison, Sample, Value, known, said_of_clipping
from ldm.metrics.progress import shown
from ldm.metrics.records import Figure, append, file_hash, open_log, records, table, thousands
from ldm.sampling.conditions import Condition
from ldm.sampling.generate import generate
from ldm.sampling.model import Model, recorded_data, restore
from ldm.sampling.settings import Overrides
from ldm.system.processes import ALONE, Ranks, launch


def load_jets(path: str | Path, root: str | None = None) -> Jets:
    """The jets that a checkpoint was trained on, split as then, from their own place or from `root`; never downloaded."""
    file = checkpoint.find(path)
    state = checkpoint.read(file)
    data = from_dict(state["ldm"]["config"], str(file)).data
    if not isinstance(data, JetNet):
        raise Refusal(f"checkpoint: {file} was trained on {type(data).__name__}, not on jets")
    return recorded_data(data, root).load()


def cloud(jets: JetSet) -> Cloud:
    """As the metrics take them."""
    return Cloud(jets.features, jets.mask)


def available(jets: Jets, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """The metrics that can be had of such jets here, of those wanted or of all: known before anything is sampled.

    What cannot be had is said, and refused if it was asked for by name.
    """
    found = []
    for metric in known(ALL if wanted is None else wanted):
        try:
            if metric == "cov_mmd":
                transport()
            if metric == "fpnd":
                references(jets)
            found.append(metric)
        except Refusal as error:
            if wanted is not None:
                raise Refusal(f"--metrics: {metric}: {error}") from None
            say(f"{metric} is skipped: {error}")
    return tuple(found)


def references(jets: Jets) -> tuple[str, ...]:
    """The types that FPND has a reference of; says which have none; Refusal where none has."""
    found = [kind for kind in jets.kinds if _why_no_reference(kind, jets.shape[0]) is None]
    if not found:
        raise Refusal(_why_no_reference(jets.kinds[0], jets.shape[0]))
    if left := [NAMES[kind] for kind in jets.kinds if kind not in found]:
        say(f"fpnd is skipped for {', '.join(left)} jets: JetNet has no reference of them")
    return tuple(found)


def _why_no_reference(kind: str, constituents: int) -> str | None:
    try:
        particlenet.reference(kind, constituents)
    except Refusal as error:
        return str(error)
    return None


def told_of(model: Model, jets: JetSet) -> Told:
    """What the denoiser is told of real jets: the number of constituents, and pt and mass where it takes them."""
    space = model.space
    return space.full(jets.counts.tolist()) | (
        {"jet": space.condition(jets.jet)} if space.jet else {}
    )


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
    told, mine = told_of(model, jets), ranks.share(range(len(jets)))
    labels = jets.types[mine].tolist() if model.classes else None
    condition = Condition(labels, told={k: v[mine] for k, v in told.items()})
    start = time.perf_counter()
    here = generate(model, settings, [seed + i for i in mine], condition, progress)
    return Cloud(ranks.collect(here, len(jets)), told["mask"]), time.perf_counter() - start


def judged(
    real: JetSet,
    generated: JetSet,
    others: JetSet,
    metrics: Sequence[str],
    kinds: Sequence[str] = ("g",),
    clip: float | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Iterator[dict[str, Figure]]:
    """One metric's figures after another: of the generated jets, and beside them of other real ones in their place.

    FPND is each type's own, by its letter in `kinds`. `settings` are `Comparison`'s.
    """
    names = ("real", "generated", "other real")
    parts = zip(names, (real, generated, others), strict=True)
    samples = [
        Sample(name, cloud(part), clip, quiet) if len(part) else None for name, part in parts
    ]
    if clip:
        say(said_of_clipping(clip, *filter(None, samples)))
    pair = Comparison(*samples[:2], quiet=quiet, **settings)
    floor = Comparison(samples[0], samples[2], quiet=quiet, **settings) if samples[2] else None
    for metric in shown(metrics, "measuring jets", quiet):
        if metric == "fpnd":
            sides = (fpnd_by_type(part, kinds, quiet) for part in (generated, others))
        else:
            sides = (side.measure(metric) if side else {} for side in (pair, floor))
        yield _figures(*sides, len(generated), len(others))


def fpnd_by_type(jets: JetSet, kinds: Sequence[str], quiet: bool = True) -> dict[str, Value]:
    """FPND of the jets of each type that has a reference: fpnd_10k, or of several types fpnd_g_10k, fpnd_q_10k, ..."""
    found: dict[str, Value] = {}
    for i, kind in enumerate(kinds):
        part = jets.rows(jets.types == i) if len(kinds) > 1 else jets
        if len(part) and _why_no_reference(kind, part.mask.shape[1]) is None:
            size = thousands(min(50_000, len(part)))
            value = particlenet.fpnd(part.features, part.mask, kind, quiet=quiet)
            found[f"fpnd_{kind}_{size}" if len(kinds) > 1 else f"fpnd_{size}"] = value, math.nan
    return found


def judge(
    real: JetSet,
    generated: JetSet,
    others: JetSet,
    metrics: Sequence[str],
    kinds: Sequence[str] = ("g",),
    **settings: Any,
) -> dict[str, Figure]:
    """All of `judged` at once."""
    parts = judged(real, generated, others, metrics, kinds, **settings)
    return {name: figure for part in parts for name, figure in part.items()}


def _figures(
    values: dict[str, Value], floors: dict[str, Value], n: int, floor_n: int
) -> dict[str, Figure]:
    base = lambda name: name.rsplit("_", 1)[0]  # noqa: E731 - FPND's size may differ between the two
    floors = {base(name): value for name, value in floors.items()}
    std = lambda v: None if v is None or math.isnan(v[1]) else v[1]  # noqa: E731
    found = {}
    for name, value in values.items():
        floor = floors.get(base(name))
        found[name] = Figure(
            value[0], n, floor and floor[0], floor_n if floor else 0, std(value), std(floor)
        )
    return found


def save(path: Path, record: dict[str, Any]) -> None:
    """A record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def sides(jets: Jets, split: str, count: int | None) -> tuple[JetSet, JetSet, JetSet]:
    """The real jets, those of them that are generated anew, and others in their place, of each type as many."""
    real = jets.train if split == "train" else jets.test
    if count is not None and count > len(real):
        say(
            f"--count: {count} jets asked for; there are {len(real)} {split} jets, and as many are made"
        )
    few = real.first(count or len(real))
    return real, few, jets.held_out.like(few)


def run(
    file: Path,
    output: Path,
    count: int | None,
    split: str | None,
    seed: int,
    weights: str,
    device: str,
    data_root: str | None,
    devices: int,
    metrics: Sequence[str] | None = None,
    clip: float | None = None,
    **given: Any,
) -> None:
    """evaluate.py for a checkpoint of jets: a table with the floors, and the records, written as each metric ends."""
    wanted = known(metrics) if metrics is not None else None
    jets, split = load_jets(file, data_root), split or "test"
    real, few, others = sides(jets, split, count)
    wanted = available(jets, wanted)
    ranks = Ranks.of(fabric := launch(devices, device))
    model = restore(file, weights, str(fabric.device) if ranks.world > 1 else device)
    settings = Overrides(**given).over(model.settings, model.schedule)
    log = open_log(output)
    with tqdm(
        total=len(few), desc="sampling", unit="jet", disable=ranks.rank > 0, mininterval=1
    ) as bar:
        features, seconds = generate_like(model, settings, few, seed, bar.update, ranks)
    if ranks.rank > 0:
        return
    generated = JetSet(*features, few.jet, few.types)
    how = made(settings, seed, len(few), split, clip) | {
        "weights": weights,
        "device": device,
        "processes": ranks.world,
    }
    how |= {"jets_per_second": len(few) / seconds, "reference": {"what": split, "n": len(real)}}
    how |= {
        "checkpoint": {
            "path": str(file),
            "hash": file_hash(file),
            "stage": "diffusion",
            "step": model.step,
        }
    }
    said = f"{file}: step {model.step}, {weights} weights; {len(few)} jets against {len(real)} {split} jets"
    write_each(log, judged(real, generated, others, wanted, jets.kinds, clip), how, said)


def made(
    settings: SampleConfig, seed: int, count: int, split: str, clip: float | None
) -> dict[str, Any]:
    """What a record says of how the jets were made and compared."""
    return settings.record() | {
        "seeds": {"first": seed, "count": count},
        "constituents": f"as {split} jets",
        "clip": clip,
    }


def write_each(
    log: Path, parts: Iterable[dict[str, Figure]], how: dict[str, Any], said: str
) -> None:
    """Append each part's records as it ends, and at the end, whatever ends it, show what there is."""
    figures: dict[str, Figure] = {}
    try:
        for found in parts:
            append(log, records(found, how))
            figures |= found
    finally:
        if figures:
            say(f"{said}\n{table(figures)}\nwrote {len(figures)} records to {log}")
