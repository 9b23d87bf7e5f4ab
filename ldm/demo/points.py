"""Points on the page: all of them live, and the paths that they took at the end."""

from collections.abc import Iterator
from typing import Any

from PIL import Image
from torch import Tensor

from ldm.demo.base import Click, Kind, Session, Shown, Site
from ldm.demo.limits import JETS, Limits
from ldm.demo.live import Done
from ldm.points.plots import paths, scatter
from ldm.sampling.generate import Job
from ldm.sampling.model import Model
from ldm.sampling.points import PointSamples, space_of, ways

FEW = 64  # points whose paths are drawn


class PointSession(Session):
    """A click on a model of points."""

    def __init__(self, click: Click):
        model, seeds, settings = click.model, click.asked.seeds, click.settings
        condition = PointSamples().condition(model, click.words, seeds)
        super().__init__(click, Job(model, settings, seeds, condition))

    def picture(self, x: Tensor) -> Image.Image:
        return self.drawn(self.job.model.space.finish(x, {}))

    def drawn(self, points: Tensor) -> Image.Image:
        """All of them, a colour for each class."""
        names = self.job.names[: len(points)] if self.job.names else None
        return scatter(points, space_of(self.job.model).columns, names)

    def finished(self, done: Done) -> Iterator[Shown]:
        how = self.job.settings.describe()
        status = f"**Done** in {done.seconds:.1f} s: {len(self.job.seeds)} points, by {how}"
        command = self.click.command()
        drawn = self.drawn(done.value)
        each = [(drawn, f"{len(done.value)} points")]
        made = Shown(drawn, status, gallery=each, samples=done.value, command=command)
        yield made
        few = self.job.rows(range(min(FEW, len(self.job.seeds))))
        made.more = paths(ways(few), done.value, space_of(self.job.model).columns)
        yield made


class PointKind(Kind):
    """The page of a model of points."""

    modality = "points"
    most, first = JETS, 400
    heading = "Their paths"
    key = "points"  # the control is hidden: there is nothing to ask beside the class

    def about(self, model: Model) -> str:
        return f"points of {model.space.shape[0]} columns"

    def control(self, model: Model, limits: Limits) -> Any:
        import gradio as gr

        return gr.Textbox(visible=False)

    def checked(self, site: Site, text: str) -> str:
        return ""

    def details(self) -> Any:
        import gradio as gr

        return gr.Image(show_label=False, interactive=False, format="png", elem_id="more")

    def legend(self, site: Site) -> str:
        return (
            "The ways of the first points from noise (hollow) to where they end (full), over all "
            "points of the last click in grey."
        )

    def session(self, click: Click) -> PointSession:
        return PointSession(click)
