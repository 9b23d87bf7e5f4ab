"""Jets: a few of them live as discs in (eta, phi), histograms of all of them at the end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ldm.demo.base import Click, Kind, Session, Shown, Site
from ldm.demo.limits import JETS, Limits, typed, whole_number
from ldm.demo.live import Done
from ldm.errors import say
from ldm.evaluation.jets import load_jets
from ldm.jets.metrics import Cloud
from ldm.jets.plots import jets as drawn
from ldm.jets.spectra import NAME, Reference, Spectra, compared, portrait
from ldm.sampling.generate import Job
from ldm.sampling.jets import JetSamples
from ldm.sampling.model import Model

FEW = 8  # jets that are drawn one by one


def real_jets(file: Path, root: str | None) -> Reference:
    """Spectra of the jets that a checkpoint's training held out, each class apart."""
    jets = load_jets(file, root)
    held, most = jets.held_out, jets.shape[0]
    rows = [(name, held.types == i) for i, name in enumerate(jets.classes)]
    parts = [(name, held.rows(of.nonzero()[:, 0])) for name, of in rows] or [("", held)]
    spectra = {name: Spectra.of(Cloud(part.features, part.mask), most) for name, part in parts}
    return Reference("jets that were held out of training", spectra)


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

    def picture(self, x: Tensor) -> Image.Image:
        mask = self.mask[:FEW]
        return self.drawn(self.job.model.space.finish(x[:FEW], {"mask": mask}))

    def drawn(self, features: Tensor) -> Image.Image:
        """The first few."""
        return drawn(features[:FEW], self.mask[:FEW], self.captions()[:FEW])

    def finished(self, done: Done) -> Iterator[Shown]:
        count, features = len(self.job.seeds), done.value
        what = f"{count} jets of {self.mask.sum(1).float().mean():.1f} constituents"
        status = f"**Done** in {done.seconds:.1f} s: {what}, by {self.job.settings.describe()}"
        each = [
            (portrait(features[i][self.mask[i]], caption), caption)
            for i, caption in enumerate(self.captions()[:FEW])
        ]
        made = Shown(self.drawn(features), status, gallery=each, samples=features)
        made.small = each[0][0]
        made.command = self.click.command(constituents=self.most or None)
        yield made
        pictures = compared(Spectra.of(Cloud(features, self.mask)), self.real)
        made.more = [(picture, None) for picture in pictures]
        made.status += self.beside()
        yield made

    @property
    def real(self) -> Spectra | None:
        """Of the class that was asked for; classes in turn are a mixture that no file has."""
        found = self.click.site.real
        return found.classes.get(self.click.label or "") if found is not None else None

    def beside(self) -> str:
        """What the real jets are, or why there are none."""
        if self.real is not None:
            other = ", of all numbers of constituents" if self.most else ""
            return f". Real: {self.real.jets:,} {self.click.site.real.source}{other}"
        if self.click.site.real is not None:
            return ". Choose one class to see real jets behind the histograms"
        return ". No real jets are at hand: start the page with --data-root FILE"


class JetKind(Kind):
    """The page of a model of jets."""

    modality = "jets"
    most, first = JETS, 100  # enough for spectra, soon enough for a first look
    key = "constituents"
    heading = "All of them"

    def about(self, model: Model) -> str:
        return f"jets with up to {model.space.shape[0]} constituents"

    def real(self, file: Path, root: str | None) -> Reference | None:
        """Of --data-root; else what lies beside the checkpoint, which is small and carries no jets.

        The training data's recorded place is not looked at: reading it takes many seconds, and it
        is another machine's.
        """
        if root is not None:
            say("reading real jets ...")
            return real_jets(file, root)
        path = file.with_name(NAME)
        return Reference.read(path) if path.is_file() else None

    def legend(self, site: Site) -> str:
        drawn = (
            "Above, a panel is a jet and a disc a constituent; its area is the share of the jet's "
            "momentum. Below are histograms of every jet of the last run"
        )
        if site.real is None:
            return f"{drawn}. No real jets are at hand: start the page with `--data-root FILE`."
        return f"{drawn}, with real jets in grey behind and the ratio below (1: they agree)."

    def details(self) -> Any:
        import gradio as gr

        return gr.Gallery(
            show_label=False,
            elem_id="more",
            elem_classes=["plots"],
            format="png",
            columns=4,
            height="auto",
            interactive=False,
            object_fit="contain",
            buttons=["download", "fullscreen"],
        )

    def control(self, model: Model, limits: Limits) -> Any:
        import gradio as gr

        text = "of every jet; 0: drawn as in training"
        return gr.Slider(0, model.space.shape[0], 0, step=1, label="Constituents", info=text)

    def checked(self, site: Site, text: str) -> int:
        most = site.model.space.shape[0]
        return whole_number("constituents", typed(text), 0, most)

    def session(self, click: Click) -> JetSession:
        return JetSession(click)
