"""Figures of a checkpoint of points: energy distance, likelihood, and the exact denoiser's word."""

from collections.abc import Callable, Iterator
from typing import Any, cast

from torch import Tensor

from ldm.config import SampleConfig
from ldm.errors import Refusal
from ldm.evaluation.base import Evaluation
from ldm.evaluation.requests import EvaluationRequest, Opened
from ldm.metrics.figures import check_metrics
from ldm.metrics.records import Figure, thousands
from ldm.points.data import Drawn, PointSet
from ldm.points.metrics import denoiser_errors, energy_distance, error_times
from ldm.sampling.conditions import Condition, bind
from ldm.sampling.generate import generate
from ldm.sampling.guides import recorded
from ldm.sampling.model import Model, recorded_data
from ldm.sampling.points import log_density, space_of
from ldm.sampling.requests import Place
from ldm.system.processes import ALONE, Ranks
from ldm.system.progress import Bar
from ldm.system.randomness import generator

METRICS = ("energy", "nats", "denoiser")
USUAL, DENSITIES, NOISY = 10_000, 2_000, 2_000  # samples; points of the likelihood; x_t a time


def generate_like(
    model: Model,
    settings: SampleConfig,
    points: PointSet,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """A generated point for each real one, of its class; every rank makes its share: (N, D)."""
    mine = ranks.share(range(len(points)))
    labels = points.labels[mine].tolist() if model.classes else None
    here = generate(model, settings, [seed + i for i in mine], Condition(labels), progress)
    return ranks.collect(here, len(points))


def few(points: PointSet, count: int) -> PointSet:
    """The first so many, at most all."""
    return PointSet(points.points[:count], points.labels[:count])


class Unconditional:
    """`denoise(x_t, t)` of a model, without a class, for any number of rows."""

    def __init__(self, model: Model):
        self.model, self.schedule = model, model.schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        return bind(self.model, self.model.settings, Condition(), len(x_t))(x_t, t)


def distance(model: Model, real: Tensor, made: Tensor) -> float:
    """Energy distance in the space's units, in which every column counts as much."""
    encode = lambda points: space_of(model).encode(points.to(model.device)).cpu()  # noqa: E731
    return energy_distance(encode(real), encode(made))


def errors(model: Model, data: Drawn, rows: PointSet, times: Tensor) -> Tensor:
    """RMS of the model's denoiser against the exact one at each of times, unconditional."""
    space = space_of(model)
    exact, x_0 = space.exact(data, model.schedule), space.encode(rows.points.to(model.device))
    random = generator("denoiser errors")
    return denoiser_errors(Unconditional(model), exact, x_0, times, random)


def nats(model: Model, data: Drawn, rows: PointSet) -> tuple[Tensor, Tensor | None]:
    """log p of each point by the model, and by the law where there is one: (N,) each."""
    exact = None if data.law is None else data.law.log_density(rows.points)
    return log_density(model, rows.points), exact


class PointEvaluation(Evaluation):
    """Generated points against test points, with the floor of other real ones beside."""

    def __init__(self, request: EvaluationRequest, opened: Opened):
        super().__init__(request, opened)
        if request.clip is not None:
            raise Refusal("--clip: it is of jets")
        asked = request.metrics
        self.metrics = check_metrics(METRICS if asked is None else asked, METRICS)
        self.data = cast(Drawn, recorded_data(opened.config.data, request.data_root).load())
        self.split = request.split or "test"
        whole = self.data.train if self.split == "train" else self.data.test
        self.real = few(whole, request.seeds.count or USUAL)
        self.others = few(self.data.held_out, len(self.real))

    def restore(self, place: Place) -> None:
        self.model = self.request.source.restore(place)
        self.settings = self.request.settings.over(self.model.settings, self.model.schedule)

    def make(self, place: Place) -> None:
        n, off = len(self.real), place.ranks.rank > 0
        with Bar("sampling", n, "points", disable=off) as bar:
            seed = self.request.seeds.seed
            made = generate_like(
                self.model, self.settings, self.real, seed, bar.update, place.ranks
            )
        self.generated = made

    def figures(self) -> Iterator[dict[str, Figure]]:
        parts = {"energy": self._energy, "nats": self._nats, "denoiser": self._denoiser}
        return (parts[name]() for name in self.metrics)

    def _energy(self) -> dict[str, Figure]:
        real, n, m = self.real.points, len(self.real), len(self.others)
        floor = distance(self.model, real, self.others.points)
        value = distance(self.model, real, self.generated)
        return {f"energy_{thousands(n)}": Figure(value, n, floor, m)}

    def _nats(self) -> dict[str, Figure]:
        rows = few(self.real, DENSITIES)
        found, exact = nats(self.model, self.data, rows)
        n, spread = len(rows), found.std().item() / len(rows) ** 0.5
        law = None if exact is None else exact.mean().item()
        note = "" if law is None else "the exact law's mean log p in place of truth-vs-truth"
        figure = Figure(found.mean().item(), n, law, 0 if law is None else n, spread, note=note)
        return {f"nats_{thousands(n)}": figure}

    def _denoiser(self) -> dict[str, Figure]:
        rows, times = few(self.real, NOISY), error_times()
        value = errors(self.model, self.data, rows, times).mean().item()
        whose = "the mixture's" if self.data.law is not None else "that of the training set"
        return {"denoiser_rms": Figure(value, len(rows), note=f"against {whose}, mean over t")}

    def record(self) -> dict[str, Any]:
        return recorded(self.model, self.settings) | {
            "seeds": {"first": self.request.seeds.seed, "count": len(self.real)},
            "reference": {"what": self.split, "n": len(self.real)},
        }

    def describe(self) -> str:
        return f"{len(self.real)} samples against as many {self.split} points"
