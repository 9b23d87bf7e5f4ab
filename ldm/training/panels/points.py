"""The panels of a run on points, held against what is known exactly."""

from pathlib import Path
from typing import Self, cast

import lightning.pytorch as pl
import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.denoiser import score
from ldm.diffusion.schedules import expand
from ldm.diffusion.solvers import Denoise
from ldm.evaluation.points import Unconditional, distance, errors, few, generate_like, nats
from ldm.metrics.records import thousands
from ldm.points.data import Drawn
from ldm.points.metrics import error_times
from ldm.points.plots import Field, densities, errors_by_time, fields, limits, mesh, paths
from ldm.points.plots import samples_over_data as over_data
from ldm.sampling.conditions import Condition
from ldm.sampling.generate import Job
from ldm.sampling.model import Model
from ldm.sampling.points import log_density, space_of, ways
from ldm.system.data import DataSet
from ldm.system.processes import Ranks
from ldm.system.randomness import generator
from ldm.training.diffusion import DiffusionModule
from ldm.training.panels.base import EverySteps, log_figures, show_panel

SHOWN = (0.05, 0.2, 0.4, 0.7)  # times of the fields
SIDE = 24  # points along an axis of a density
WAYS = 64  # particles


class PointPanels(EverySteps[DiffusionModule]):
    """Points at seeds 0, 1, 2, ... by the averaged weights, of held-out points' classes.

    The field, the density and the errors are of the model without a class.
    """

    def __init__(self, folder: Path, every: int, count: int, data: Drawn):
        super().__init__(folder, every)
        self.data, self.real = data, few(data.held_out, count)

    @classmethod
    def of(cls, module: DiffusionModule, images: DataSet) -> Self:
        run = module.config
        return cls(run.folder / "samples", run.sample.every, run.sample.count, cast(Drawn, images))

    def show(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        with module.evaluating():
            model = module.model()
            ranks = Ranks.of_training(module)
            self.tick(0, len(self.real) / ranks.world)
            made = generate_like(model, model.settings, self.real, 0, self.tick, ranks)
            if trainer.is_global_zero:
                self.draw(trainer, model, made)

    def draw(self, trainer: pl.Trainer, model: Model, made: Tensor) -> None:
        """Every panel, and the figures beside them."""
        name = f"val/energy_{thousands(len(self.real))}"
        floor = distance(model, self.real.points, few(self.data.test, len(self.real)).points)
        found = {name: distance(model, self.real.points, made), f"{name}_floor": floor}
        columns = space_of(model).columns
        self.panel(trainer, model, "samples", over_data(self.real.points, made, columns))
        self.panel(trainer, model, "paths", self.ways(model))
        times = error_times(20)
        wrong = errors(model, self.data, few(self.real, 500), times)
        found["val/denoiser_rms"] = wrong.mean().item()
        title = f"Error of the network's denoiser against {self.whose}"
        self.panel(trainer, model, "errors", errors_by_time(times, {"learnt": wrong}, title))
        if len(columns) == 2:
            self.panel(trainer, model, "field", self.field(model))
            self.panel(trainer, model, "density", self.density(model))
            own, exact = nats(model, self.data, few(self.real, 300))
            found["val/nats"] = own.mean().item()
            found |= {} if exact is None else {"val/nats_exact": exact.mean().item()}
        log_figures(trainer, found)

    @property
    def whose(self) -> str:
        """Whose exact denoiser there is."""
        return "the mixture's own" if self.data.law is not None else "that of the training set"

    def panel(self, trainer: pl.Trainer, model: Model, name: str, picture: Image.Image) -> None:
        """Show one, with how it was made."""
        caption = f"seeds 0-{len(self.real) - 1}, {model.settings.describe()}, ema"
        show_panel(trainer, self.folder, name, picture, caption)

    def ways(self, model: Model) -> Image.Image:
        """Paths of the first particles."""
        rows = few(self.real, WAYS)
        labels = rows.labels.tolist() if model.classes else None
        job = Job(model, model.settings, range(len(rows)), Condition(labels))
        return paths(ways(job), self.real.points, space_of(model).columns)

    def field(self, model: Model) -> Image.Image:
        """The learnt score as arrows over the exact one, in the space's units."""
        space = space_of(model)
        exact, learnt = space.exact(self.data, model.schedule), Unconditional(model)
        x_0 = space.encode(few(self.real, 2000).points.to(model.device))
        eps = torch.randn(x_0.shape, generator=generator("field")).to(x_0)
        at = [model.schedule(torch.tensor(t, dtype=torch.float64)) for t in SHOWN]
        spread = [(expand(a, x_0) * x_0 + expand(s, x_0) * eps).float().cpu() for a, s in at]
        title = f"The score of the network (red) over {self.whose} (black)"
        pair = scores(learnt, model.device), scores(exact, model.device)
        return fields(pair, SHOWN, spread, title)

    def density(self, model: Model) -> Image.Image:
        """p by the exact likelihood, beside the law's or a histogram of the training points."""
        columns, points = space_of(model).columns, self.data.train.points
        ends = limits(points)
        at = mesh(ends, SIDE)
        learnt = log_density(model, at).exp().reshape(SIDE, SIDE)
        maps = {"learnt, by the exact likelihood": learnt.float()}
        if self.data.law is not None:
            exact = self.data.law.log_density(at).exp()
            maps["exact"] = exact.reshape(SIDE, SIDE).float()
        else:
            maps["training points, a histogram"] = histogram(points, ends)
        return densities(maps, ends, columns)


def scores(denoise: Denoise, device: torch.device) -> Field:
    """The field of a denoiser: grad log p_t."""

    @torch.no_grad()
    def field(x: Tensor, t: Tensor) -> Tensor:
        x_t, (alpha, sigma) = x.to(device), denoise.schedule(t)
        return score(x_t, denoise(x_t, t), alpha.to(x_t), sigma.to(x_t)).cpu()

    return field


def histogram(points: Tensor, ends: list[tuple[float, float]]) -> Tensor:
    """The density of points (N, 2) in SIDE x SIDE cells."""
    spans = [value for end in ends for value in end]
    return torch.histogramdd(points.float(), [SIDE, SIDE], range=spans, density=True).hist
