"""Jets: a few of them live as discs in (eta, phi), histograms of all of them at the end."""

from collections.abc import Iterator
from typing import Any

from PIL import Image
from torch import Tensor

from ldm.demo.base import Click, Kind, Session, Shown
from ldm.demo.limits import JETS, Limits, whole_number
from ldm.demo.live import Done
from ldm.jets.metrics import Cloud
from ldm.jets.plots import distributions
from ldm.jets.plots import jets as drawn
from ldm.sampling.generate import Job
from ldm.sampling.jets import JetSamples
from ldm.sampling.model import Model

FEW = 8  # jets that are drawn one by one


class JetSession(Session):
    """A click on a model of jets; its control is the number of constituents, 0: as in training."""

    def __init__(self, click: Click):
        model, seeds = click.model, click.asked.seeds
        self.most = whole_number("constituents", click.control, 0, model.space.shape[0])
        settings = click.settings
        asked = JetSamples([self.most] * len(seeds) if self.most else None)
        super().__init__(
            click, Job(model, settings, seeds, asked.condition(model, click.words, seeds))
        )
        self.mask = self.job.condition.extras["mask"]
        self.names = [f"seed {seed}" for seed in seeds[:FEW]]

    def picture(self, x: Tensor) -> Image.Image:
        mask = self.mask[:FEW]
        return self.drawn(self.job.model.space.finish(x[:FEW], {"mask": mask}))

    def drawn(self, features: Tensor) -> Image.Image:
        """The first few."""
        return drawn(features[:FEW], self.mask[:FEW], self.names)

    def finished(self, done: Done) -> Iterator[Shown]:
        mean = self.mask.sum(1).float().mean()
        what = f"{len(self.job.seeds)} jets of {mean:.1f} constituents"
        status = f"**Done** in {done.seconds:.1f} s: {what}, by {self.job.settings.describe()}"
        command = self.click.command(constituents=self.most or None)
        made = Shown(self.drawn(done.value), status, samples=done.value, command=command)
        yield made
        made.more = distributions(Cloud(done.value, self.mask))
        yield made


class JetKind(Kind):
    """The page of a model of jets."""

    modality = "jets"
    most, first = JETS, 200
    heading = "All of them"
    legend = (
        "Histograms of every jet of the last click, where the panels above show the first few, a "
        "disc a constituent, its area the share of the jet's momentum."
    )

    def about(self, model: Model) -> str:
        return f"jets with up to {model.space.shape[0]} constituents"

    def control(self, model: Model, limits: Limits) -> Any:
        import gradio as gr

        text = "of every jet; 0: as many as in training"
        return gr.Slider(0, model.space.shape[0], 0, step=1, label="Constituents", info=text)

    def session(self, click: Click) -> JetSession:
        return JetSession(click)
