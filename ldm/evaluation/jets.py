"""Figures of a checkpoint of jets against the test jets, with the truth-vs-truth floor."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ldm.config import SampleConfig
from ldm.diffusion.space import Extras
from ldm.errors import Refusal, say
from ldm.evaluation.base import Evaluation
from ldm.evaluation.requests import EvaluationRequest, Opened
from ldm.jets import particlenet
from ldm.jets.data import NAMES, Jets, JetSet
from ldm.jets.emd import transport
from ldm.jets.metrics import (
    ALL,
    Cloud,
    Comparison,
    Sample,
    Value,
    check_jet_metrics,
    said_of_clipping,
)
from ldm.metrics.records import Figure, thousands
from ldm.sampling.conditions import Condition
from ldm.sampling.generate import generate
from ldm.sampling.guides import recorded
from ldm.sampling.jets import space_of
from ldm.sampling.model import Model, recorded_data
from ldm.sampling.requests import Place
from ldm.sampling.speed import compiled
from ldm.system.processes import ALONE, Ranks
from ldm.system.progress import Bar, shown


def load_jets(path: str | Path, root: str | None = None) -> Jets:
    """The jets that a checkpoint was trained on, split as then; never downloaded.

    From their own place or from `root`.
    """
    return _jets_of(Opened.at(path), root)


def _jets_of(opened: Opened, root: str | None) -> Jets:
    data = opened.config.data
    if data.modality != "jets":
        kind = type(data).__name__
        raise Refusal(f"checkpoint: {opened.file} was trained on {kind}, not on jets")
    return cast(Jets, recorded_data(data, root).load())


def cloud(jets: JetSet) -> Cloud:
    """As the metrics take them."""
    return Cloud(jets.features, jets.mask)


def available(jets: Jets, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """The metrics of those wanted, or of all, that can be had of such jets; known before sampling.

    The others are listed, and refused if asked for by name.
    """
    found = []
    for metric in check_jet_metrics(ALL if wanted is None else wanted):
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
        particlenet.reference_folder(kind, constituents)
    except Refusal as error:
        return str(error)
    return None


def extras_of(model: Model, jets: JetSet) -> Extras:
    """The extras of real jets: their numbers of constituents; pt and mass if taken."""
    space = space_of(model)
    given = {"jet": space.condition(jets.jet)} if space.jet else {}
    return space.full(jets.counts.tolist()) | given


def generate_like(
    model: Model,
    settings: SampleConfig,
    jets: JetSet,
    seed: int = 0,
    progress: Callable[[float], object] | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Cloud, float]:
    """A generated jet for each real one, and the seconds that it took; every rank makes its share.

    Each has the real one's number of constituents, its type, and its pt and mass where the denoiser
    is conditioned on them.
    """
    extras, mine = extras_of(model, jets), ranks.share(range(len(jets)))
    labels = jets.types[mine].tolist() if model.classes else None
    condition = Condition(labels, extras={k: v[mine] for k, v in extras.items()})
    start = time.perf_counter()
    here = generate(model, settings, [seed + i for i in mine], condition, progress)
    return Cloud(ranks.collect(here, len(jets)), extras["mask"]), time.perf_counter() - start


@dataclass(frozen=True)
class Trial:
    """Real jets, generated ones, and other real ones in their place for the truth-vs-truth floor.

    `kinds`: the letter of each type, by which FPND has its references. `rest`: what the others are
    held against, where they are some of `real`.
    """

    real: JetSet
    generated: JetSet
    others: JetSet
    kinds: Sequence[str] = ("g",)
    rest: JetSet | None = None

    def samples(self, clip: float | None, *, quiet: bool) -> list[Sample | None]:
        """As the metrics take them, cut to `clip`; None where there are no jets."""
        parts = {"real": self.real, "generated": self.generated, "other real": self.others}
        parts |= {} if self.rest is None else {"remaining real": self.rest}
        return [
            Sample(name, cloud(part), clip, quiet) if len(part) else None
            for name, part in parts.items()
        ]


def judged(
    trial: Trial, metrics: Sequence[str], clip: float | None = None, *, quiet: bool = False
) -> Iterator[dict[str, Figure]]:
    """One metric's figures after another: generated jets, and other real ones in their place.

    FPND is each type's own.
    """
    samples = trial.samples(clip, quiet=quiet)
    if clip:
        say(said_of_clipping(clip, *filter(None, samples)))
    real, made, others, *rest = samples
    sides = (real, made), (rest[0] if rest else real, others)
    pair, floor = [Comparison(a, b, quiet=quiet) if a and b else None for a, b in sides]
    for metric in shown(metrics, "measuring jets", quiet):
        if metric == "fpnd":
            values, floors = (
                fpnd_by_type(part, trial.kinds, quiet=quiet)
                for part in (trial.generated, trial.others)
            )
        else:
            values, floors = (side.measure(metric) if side else {} for side in (pair, floor))
        yield _figures(values, floors, len(trial.generated), len(trial.others))


def fpnd_by_type(jets: JetSet, kinds: Sequence[str], *, quiet: bool = True) -> dict[str, Value]:
    """FPND of each type with a reference: fpnd_10k; of several fpnd_g_10k, fpnd_q_10k, ..."""
    found: dict[str, Value] = {}
    for i, kind in enumerate(kinds):
        part = jets.rows(jets.types == i) if len(kinds) > 1 else jets
        if len(part) and _why_no_reference(kind, part.mask.shape[1]) is None:
            size = thousands(min(50_000, len(part)))
            value = particlenet.fpnd(part.features, part.mask, kind, quiet=quiet)
            found[f"fpnd_{kind}_{size}" if len(kinds) > 1 else f"fpnd_{size}"] = value, math.nan
    return found


def judge(
    trial: Trial, metrics: Sequence[str], clip: float | None = None, *, quiet: bool = False
) -> dict[str, Figure]:
    """All of `judged` at once."""
    parts = judged(trial, metrics, clip, quiet=quiet)
    return {name: figure for part in parts for name, figure in part.items()}


def _figures(
    values: dict[str, Value], floors: dict[str, Value], n: int, floor_n: int
) -> dict[str, Figure]:
    base = lambda name: name.rsplit("_", 1)[0]  # noqa: E731 - sizes may differ
    floors = {base(name): value for name, value in floors.items()}
    std = lambda v: None if v is None or math.isnan(v[1]) else v[1]  # noqa: E731
    found = {}
    for name, value in values.items():
        floor = floors.get(base(name))
        found[name] = Figure(
            value[0], n, floor and floor[0], floor_n if floor else 0, std(value), std(floor)
        )
    return found


def save_record(path: Path, record: dict[str, Any]) -> None:
    """A record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def sides(jets: Jets, split: str, count: int | None) -> tuple[JetSet, JetSet, JetSet]:
    """The real jets, those to generate anew, and others in their place, as many of each type."""
    real = jets.train if split == "train" else jets.test
    if count is not None and count > len(real):
        there = f"there are {len(real)} {split} jets"
        say(f"--count: {count} jets asked for; {there}, and as many are made")
    few = real.first(count or len(real))
    return real, few, jets.held_out.like(few)


class JetEvaluation(Evaluation):
    """Generated jets against real ones by the physicists' metrics, with the floor beside each."""

    def __init__(self, request: EvaluationRequest, opened: Opened):
        super().__init__(request, opened)
        wanted = check_jet_metrics(request.metrics) if request.metrics is not None else None
        self.jets, self.split = _jets_of(opened, request.data_root), request.split or "test"
        self.real, self.few, self.others = sides(self.jets, self.split, request.seeds.count)
        self.metrics = available(self.jets, wanted)

    def restore(self, place: Place) -> None:
        self.model = self.request.source.restore(place)
        self.settings = self.request.sampling(self.model, len(self.few))

    def make(self, place: Place) -> None:
        few, seed, off = self.few, self.request.seeds.seed, place.ranks.rank > 0
        mine = place.ranks.share(range(len(few)))
        compiled(self.model, self.request.source.compile, self.settings, mine)
        with Bar("sampling", len(few), "jets", disable=off) as bar:
            made = generate_like(self.model, self.settings, few, seed, bar.update, place.ranks)
        features, self.seconds = made
        self.generated = JetSet(*features, few.jet, few.types)

    def figures(self) -> Iterator[dict[str, Figure]]:
        trial = Trial(self.real, self.generated, self.others, self.jets.kinds)
        return judged(trial, self.metrics, self.request.clip)

    def record(self) -> dict[str, Any]:
        return recorded(self.model, self.settings) | {
            "seeds": {"first": self.request.seeds.seed, "count": len(self.few)},
            "precision": self.model.precision,
            "constituents": f"as {self.split} jets",
            "clip": self.request.clip,
            "jets_per_second": len(self.few) / self.seconds,
            "reference": {"what": self.split, "n": len(self.real)},
        }

    def describe(self) -> str:
        return f"{len(self.few)} jets against {len(self.real)} {self.split} jets"
