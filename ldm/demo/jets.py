"""Jets of nothing but seeds: a few of them live as discs in (eta, phi), histograms of all of them at the end."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ldm.demo.limits import Asked, Limits, class_of, whole
from ldm.demo.live import Done, live
from ldm.demo.samples import STATE, Shown, command, step_of
from ldm.diffusion.solvers import Watch
from ldm.jets.metrics import Cloud
from ldm.jets.plots import distributions
from ldm.jets.plots import jets as drawn
from ldm.sampling import jets as clouds
from ldm.sampling.conditions import Condition
from ldm.sampling.generate import generate
from ldm.sampling.model import Model
from ldm.sampling.trajectory import in_view

FEW = 8  # jets that are drawn one by one


def jets(
    model: Model,
    limits: Limits,
    name: str,
    label: str | None,
    constituents: Any,
    shown: str,
    *numbers: Any,
) -> Iterator[Shown]:
    """`constituents` of every jet, 0: drawn as in training; `numbers`: solver, steps, guidance, seed, count."""
    asked, schedule = Asked.of(limits, *numbers), model.denoiser.schedule
    most = whole("constituents", constituents, 0, model.space.shape[0])
    settings = asked.overrides.over(model.settings, schedule)
    kind = class_of(model, label)
    labels = [
        kind if kind is not None else seed % max(1, len(model.classes)) for seed in asked.seeds
    ]
    told = (
        clouds.constituents(model, [most] * asked.count)
        if most
        else model.space.draw(asked.seeds, labels)
    )
    times, mask = schedule.grid(settings.steps, settings.grid), told["mask"][:FEW]
    names = [f"seed {seed}" for seed in asked.seeds[:FEW]]

    def work(watch: Watch) -> Tensor:
        return generate(model, settings, asked.seeds, Condition(labels, told=told), watch=watch)

    def draw(step: int, x_s: Tensor, x0_hat: Tensor) -> Shown:
        x = in_view(schedule, x_s, times[step + 1]) if shown == STATE else x0_hat
        features = model.space.finish(x[:FEW], {"mask": mask})
        return Shown(drawn(features, mask, names), step_of(settings, times, step))

    for item in live(work, draw, limits.seconds):
        if not isinstance(item, Done):
            yield item
            continue
        mean = told["mask"].sum(1).float().mean()
        status = f"**Done** in {item.seconds:.1f} s: {asked.count} jets of {mean:.1f} constituents, by {settings.describe()}"
        given = {"label": label, "constituents": most or None}
        made = Shown(
            drawn(item.value[:FEW], mask, names),
            status,
            samples=item.value,
            command=command(name, asked, **given),
        )
        yield made
        made.more = distributions(Cloud(item.value, told["mask"]))
        yield made
