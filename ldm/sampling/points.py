"""Samples that are points: a CSV, a picture, the way there, and their density."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ldm.diffusion import solvers
from ldm.points.space import PlainSpace
from ldm.sampling.conditions import Condition
from ldm.sampling.density import Density, Estimate
from ldm.sampling.folder import write_lists
from ldm.sampling.generate import Job, generate, times_of
from ldm.sampling.modality import Samples
from ldm.sampling.model import Model
from ldm.sampling.trajectory import in_view
from ldm.system.randomness import SampleNoise

FILE = "points.csv"


@dataclass(frozen=True)
class PointSamples(Samples):
    """Nothing can be asked of points beside the class."""

    modality: ClassVar[str] = "points"

    @classmethod
    def parse(cls, words: Mapping[str, Any], count: int | None) -> "PointSamples":
        return cls()

    def way(self, job: Job, here: Job, count: int) -> "PointWay":
        return PointWay(job.rows(range(count)))

    def write(self, folder: Path, job: Job, samples: Tensor, record: Mapping[str, Any]) -> str:
        """points.csv, with the class where there is one, and points.png."""
        from ldm.points.plots import scatter  # matplotlib is slow to import

        columns, names = space_of(job.model).columns, job.names
        with open(folder / FILE, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(columns + (["class"] if names else []))
            for i, point in enumerate(samples.tolist()):
                table.writerow([f"{v:.7g}" for v in point] + ([names[i]] if names else []))
        scatter(samples, columns, names).save(folder / "points.png")
        given = [{"label": name} for name in names] if names else [{}] * len(samples)
        rows = zip(job.seeds, given, strict=True)
        lines = [{"file": FILE, "row": i, "seed": s} | own for i, (s, own) in enumerate(rows)]
        write_lists(folder, lines, record)
        return f"{len(samples)} points: {FILE}, points.png"

    def density(
        self, model: Model, data: Tensor, condition: Condition, estimate: Estimate
    ) -> Density:
        """Of points (B, D), in their own units; probes = 0, the exact trace, is cheap here."""
        space = space_of(model)
        found = estimate.log_p(model, space.encode(data.to(model.device)), condition)
        nats = found.nats + space.log_jacobian()
        return Density(nats, replace(found, nats=nats))


@dataclass(frozen=True)
class PointWay:
    """The paths of a few points, made again in one batch."""

    files: ClassVar[str] = "trajectory.png"
    job: Job

    def __call__(self, step: int, x_s: Tensor, x0_hat: Tensor) -> None:
        """The steps of other points are not kept."""

    def write(self, folder: Path) -> None:
        """trajectory.png in the folder."""
        from ldm.points.plots import paths  # matplotlib is slow to import

        steps, columns = ways(self.job), space_of(self.job.model).columns
        paths(steps, steps[-1], columns).save(folder / "trajectory.png")


def ways(job: Job) -> list[Tensor]:
    """The points of a job at every time of its grid, in one batch: (B, D) each, the data's units.

    At noise x_t is divided by sqrt(alpha_t^2 + sigma_t^2), so that any schedule can be seen.
    """
    model, settings = job.model, replace(job.settings, batch_size=len(job.seeds))
    times = times_of(model, settings)
    noise = SampleNoise(job.seeds, model.space.shape, model.device)()
    states = [solvers.start(model.schedule, times[0], noise)]
    watch = lambda step, x_s, x0_hat: states.append(x_s)  # noqa: E731
    generate(model, settings, job.seeds, job.condition, watch=watch)
    shown = (in_view(model.schedule, x, t) for x, t in zip(states, times, strict=True))
    return [model.space.finish(x, {}) for x in shown]


def space_of(model: Model) -> PlainSpace:
    """The space of a model of points."""
    return cast(PlainSpace, model.space)


@torch.no_grad()
def log_density(model: Model, points: Tensor, estimate: Estimate = Estimate(probes=0)) -> Tensor:
    """log p of points (B, D) in nats, (B,), by the exact trace, without a class."""
    return PointSamples().density(model, points, Condition(), estimate).nats.cpu()
