"""Samples that are pictures against real ones: features of both, and the distances between them.

Row i, a seed, is some rank's; its features are gathered, and rank 0 compares them.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.config import AnyData, SampleConfig
from ldm.errors import Refusal, say
from ldm.evaluation.base import Evaluation
from ldm.evaluation.copies import Copies, Views, pairs, said
from ldm.evaluation.requests import EvaluationRequest, Opened
from ldm.metrics import features as feature_networks
from ldm.metrics.copies import Closeness
from ldm.metrics.features import Features
from ldm.metrics.figures import ALL, check_count, check_metrics, compare, warn_of_rank
from ldm.metrics.records import Figure
from ldm.metrics.reference import Reference, cached_reference
from ldm.pictures.opening import View
from ldm.pictures.trained import expect_plain
from ldm.sampling.conditions import Condition, completed
from ldm.sampling.generate import Job, generate
from ldm.sampling.guides import guide_of, recorded
from ldm.sampling.model import Model, recorded_data
from ldm.sampling.requests import Place
from ldm.sampling.speed import compiled
from ldm.system.batches import as_bytes
from ldm.system.data import DataSet
from ldm.system.names import file_name
from ldm.system.processes import ALONE, Ranks
from ldm.system.progress import Bar


@dataclass(frozen=True)
class Judge:
    """What measures pictures: features, those of the real side (on rank 0), metrics."""

    features: Features
    real: Reference | None = None
    metrics: Collection[str] = ALL

    @property
    def truth(self) -> Reference:
        """The real side, where it must be there."""
        if self.real is None:
            raise ValueError("figures are computed where the reference is")
        return self.real


def sample_features(
    model: Model,
    settings: SampleConfig,
    seeds: Sequence[int],
    features: Callable[[Tensor], Tensor],
    *,
    quiet: bool = False,
) -> Tensor:
    """Features of one sample for each seed, (N, d); the pictures themselves are not kept."""
    parts = []
    with Bar("sampling", len(seeds), "images", disable=quiet) as bar:
        for i in range(0, len(seeds), settings.batch_size):
            part = seeds[i : i + settings.batch_size]
            images = generate(model, settings, part, progress=bar.update)
            parts.append(features(as_bytes(images)))
    return torch.cat(parts)


def evaluate(
    model: Model,
    settings: SampleConfig,
    seeds: Sequence[int],
    judge: Judge,
    ranks: Ranks = ALONE,
    *,
    quiet: bool = False,
) -> dict[str, Figure]:
    """Figures of one sample a seed, labels seed modulo classes.

    Every rank samples its share; rank 0 has the figures, and alone needs the reference.
    """
    return evaluate_all(Asked(model, settings, seeds), judge, None, ranks, quiet=quiet)[0]


@dataclass(frozen=True)
class Asked:
    """Samples to be measured: of which model, by which settings, one a seed."""

    model: Model
    settings: SampleConfig
    seeds: Sequence[int]

    def job(self) -> Job:
        """To make some of them again."""
        condition = completed(self.model, self.seeds, Condition())
        return Job(self.model, self.settings, self.seeds, condition)


def evaluate_all(
    asked: Asked, judge: Judge, copies: Copies | None, ranks: Ranks = ALONE, *, quiet: bool = False
) -> tuple[dict[str, Figure], list[Closeness]]:
    """The figures of `evaluate`, and how close samples are to training pictures if it is asked.

    On rank 0; the others have nothing.
    """
    model, seeds, used = asked.model, asked.seeds, judge.features
    describe, quiet = copies.views if copies else used, quiet or ranks.rank > 0
    here = sample_features(model, asked.settings, ranks.share(seeds), describe, quiet=quiet)
    table = ranks.collect(here, len(seeds))
    found = copies.of(table, ranks, quiet=quiet) if copies else []
    if ranks.rank > 0:
        return {}, []
    known_classes = bool(model.classes) and used.classes == model.classes
    labels = torch.tensor([s % len(model.classes) for s in seeds]) if known_classes else None
    figures = compare(table[:, : used.dim], judge.truth, used, labels, judge.metrics)
    for one in found:
        figures |= one.figures()
    return figures, found


class AgainstPictures(Evaluation):
    """The data, the features and the metrics that both stages of pictures are measured by."""

    choices: Collection[str] = ALL
    usual_split = "train"

    def __init__(self, request: EvaluationRequest, opened: Opened):
        super().__init__(request, opened)
        if request.clip is not None:
            raise Refusal("--clip is of jets; this checkpoint makes pictures")
        names = request.metrics
        self.metrics = self.choices if names is None else check_metrics(names, self.choices)
        images = load_data(opened.config.data, request.data_root, opened.meta)
        self.images = images
        split = request.split or self.usual_split
        self.dataset = images.train if split == "train" else images.test
        self.count, data = self.counted(len(self.dataset)), type(opened.config.data).__name__
        self.what = f"{data} {split}"
        check_count(self.count, len(self.dataset), self.what)  # before weights are looked for
        self.network = feature_networks.choose(
            request.features, opened.config.data.features or data
        )
        warn_of_rank(self.count, self.network.dim)
        self.found: dict[str, Figure] = {}

    def counted(self, there: int) -> int:
        """How many are measured, of so many real pictures."""
        return self.request.seeds.count or 5000

    def judge(self, place: Place) -> Judge:
        """The features at their place, and on rank 0 those of the real pictures."""
        self.network, ranks = self.network.to(place.own), place.ranks
        workers = min(self.opened.config.data.workers, os.cpu_count() or 1)
        cache = Path(self.request.cache) if self.request.cache else None
        real = cached_reference(
            self.dataset, self.network, self.what, cache, workers=workers, ranks=ranks
        )
        self.judged = Judge(self.network, real, self.metrics)
        return self.judged

    def figures(self) -> Iterator[dict[str, Figure]]:
        yield self.found

    def record(self) -> dict[str, Any]:
        return origin(self.judged)

    def describe(self) -> str:
        real = self.judged.truth
        return f"{self.network.name} features; {self.what}, {real.moments.n} pictures"


class PictureEvaluation(AgainstPictures):
    """Samples of stage 2 or of the pixel baseline."""

    copying = True

    def __init__(self, request: EvaluationRequest, opened: Opened):
        super().__init__(request, opened)
        data: Any = opened.config.data
        workers = min(data.workers, os.cpu_count() or 1)
        views = Views(self.network)
        asked = request.copies
        self.copies = Copies(self.images, views, data.flip, workers) if asked else None

    def restore(self, place: Place) -> None:
        self.model = self.request.source.restore(place)
        expect_plain(self.model.purpose, "evaluate.py")
        self.settings = self.request.sampling(self.model, self.count)
        guide_of(self.model, self.settings.guide)  # refused before real pictures are looked at

    def make(self, place: Place) -> None:
        seeds, judge = self.request.seeds.listed(self.count), self.judge(place)
        compiled(self.model, self.request.source.compile, self.settings, place.ranks.share(seeds))
        asked = Asked(self.model, self.settings, seeds)
        self.found, found = evaluate_all(asked, judge, self.copies, place.ranks)
        if self.copies and found:
            self.draw(asked, self.copies, found)

    def draw(self, asked: Asked, copies: Copies, found: Sequence[Closeness]) -> None:
        """copies-NAME-STEP.png in the output: the closest pairs."""
        title = said(found, f"{self.opened.config.name}, step {self.opened.step}")
        name = f"copies-{file_name(self.opened.config.name)}-{self.opened.step}.png"
        path = Path(self.request.output) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pairs(asked.job(), copies, found, title).save(path)
        say(f"{title}; pairs: {path}")

    def record(self) -> dict[str, Any]:
        model, seeds = self.model, {"first": self.request.seeds.seed, "count": self.count}
        made: dict[str, Any] = {
            "seeds": seeds,
            "labels": "seed modulo classes" if model.classes else None,
        }
        made |= {"prompts": list(model.prompts)} if model.text is not None else {}
        made["precision"] = model.precision
        return recorded(self.model, self.settings) | made | super().record()


def load_data(config: AnyData, root: str | None, state: Mapping[str, Any]) -> DataSet:
    """The data of a checkpoint, from its own place or from `root`; Refusal if it is other data."""
    data: Any = recorded_data(config, root)
    found = View.of(state["shape"], state.get("view"), "it").found
    if found and getattr(data, "range", ...) is None:
        data = replace(data, range=found)  # elsewhere other pictures would span another range
    images = data.load()
    for what in ("shape", "classes"):  # a model without classes does not mind which the data has
        here, there = tuple(getattr(images, what)), tuple(state[what])
        if there and here != there:
            raise Refusal(
                f"--data-root: the data's {what} {here} are not the checkpoint's {there}; "
                "name its data"
            )
    return images


def origin(judge: Judge) -> dict[str, Any]:
    """Features and the real side, for the records."""
    network, real = judge.features, judge.truth
    kept = ("name", "hash", "dim", "resize")
    return {
        "features": {key: getattr(network, key) for key in kept},
        "reference": {"what": real.what, "hash": real.hash, "n": real.moments.n},
    }
