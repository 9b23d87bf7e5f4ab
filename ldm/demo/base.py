"""What the button Sample does for every modality, without Gradio."""

import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from ldm.config import SampleConfig
from ldm.demo.limits import Asked, Limits
from ldm.demo.live import Done, live
from ldm.diffusion.solvers import Watch
from ldm.errors import Refusal
from ldm.sampling.generate import Job
from ldm.sampling.model import Model
from ldm.sampling.requests import Words
from ldm.sampling.trajectory import in_view

GUESS, STATE = "x̂₀, the model's guess", "x_t, what is still noisy"
Captioned = tuple[Image.Image, str]


@dataclass
class Shown:
    """What the page shows at a moment; None leaves what is there."""

    picture: Image.Image
    status: str
    step: tuple[int, int] | None = None  # of how many, on the way
    gallery: Sequence[Captioned] | None = None  # each sample, when they are finished
    small: Image.Image | None = None  # for the history, if not the picture
    more: Any = None  # how they came about, or histograms
    samples: Tensor | None = None  # uint8, when they are finished
    command: str | None = None


@dataclass(frozen=True)
class Site:
    """What the page is of: a model, how sample.py finds it, and what its samples are held against.

    `path` is its checkpoint as a command in the folder of the page's own process names it.
    """

    model: Model
    limits: Limits
    path: str = "PATH"
    weights: str = "ema"
    script: str = "python sample.py"
    real: Any = None


@dataclass(frozen=True)
class Click:
    """The choices when Sample was pressed: class, the modality's control, numbers, view."""

    site: Site
    asked: Asked
    label: str | None = None
    control: Any = None
    shown: str = GUESS

    @property
    def model(self) -> Model:
        return self.site.model

    @property
    def settings(self) -> SampleConfig:
        """Checked; Refusal if they cannot be."""
        return self.asked.overrides.over(self.model.settings, self.model.schedule)

    @property
    def words(self) -> Words:
        """The class, for all samples."""
        return Words(None if self.label is None else str(self.label))

    def command(self, **given: Any) -> str:
        """The same by sample.py: it runs as it stands where the page was started."""
        asked, site = self.asked, self.site
        words: list[Any] = [*site.script.split(), "--checkpoint", site.path]
        words += ["--output", f"samples/{Path(site.path).name}-{asked.seed}"]
        words += ["--solver", asked.solver, "--steps", asked.steps]
        words += ["--guidance", f"{asked.guidance:g}", "--seed", asked.seed, "--count", asked.count]
        words += [] if site.weights == "ema" else ["--weights", site.weights]
        for key, value in ({"label": self.label} | given).items():
            words += [] if value is None else [f"--{key}", value]
        return shlex.join(map(str, words))


class Session(ABC):
    """One click's work: a job, its pictures on the way, and what is shown at the end."""

    def __init__(self, click: Click, job: Job):
        self.click, self.job = click, job
        self.times = job.model.schedule.grid(job.settings.steps, job.settings.grid)

    def work(self, watch: Watch) -> Tensor:
        """The samples."""
        return self.job.run(watch=watch)

    def draw(self, step: int, x_s: Tensor, x0_hat: Tensor) -> Shown:
        """A moment on the way."""
        t, steps = self.times[step + 1], len(self.times) - 1
        x = in_view(self.job.model.schedule, x_s, t) if self.click.shown == STATE else x0_hat
        how = f"t = {t:.2f}, by {self.job.settings.describe()}"
        status = f"step **{step + 1}** of {steps}, {how}"
        return Shown(self.picture(x), status, (step + 1, steps))

    def captions(self) -> list[str]:
        """Of each sample: its class or prompt, and its seed."""
        job, count = self.job, len(self.job.seeds)
        names = job.names or self.click.words.labels(job.model, count) or [""] * count
        what = [f"“{p}”" if p else "" for p in job.condition.prompts or ()] or names
        pairs = zip(what, job.seeds, strict=True)
        return [f"{name}, seed {seed}" if name else f"seed {seed}" for name, seed in pairs]

    @abstractmethod
    def picture(self, x: Tensor) -> Image.Image:
        """The first samples in the diffused space, to look at."""

    @abstractmethod
    def finished(self, done: Done) -> Iterator[Shown]:
        """The samples, then how they came about or what all of them are like."""


class Kind(ABC):
    """What the page has of its own for one modality."""

    modality: ClassVar[str]
    most: ClassVar[int]  # samples at once by default
    first: ClassVar[int]  # samples, before anything is chosen
    key: ClassVar[str]  # of the control, as a flag of sample.py and in a link
    heading: ClassVar[str]
    edited: ClassVar[bool] = False  # whether there is a tab to change one

    @abstractmethod
    def about(self, model: Model) -> str:
        """What is made, for a stranger."""

    @abstractmethod
    def control(self, model: Model, limits: Limits) -> Any:
        """Gradio's component for what can be asked beside the class."""

    @abstractmethod
    def checked(self, site: Site, text: str) -> Any:
        """The control's value that a link writes so. Refusal where it cannot be."""

    @abstractmethod
    def details(self) -> Any:
        """Gradio's component for how samples came about, or what all of them are like."""

    @abstractmethod
    def legend(self, site: Site) -> str:
        """What `details` shows."""

    def real(self, file: Path, root: str | None) -> Any:
        """Real data to hold the samples against, if there is any at hand. Refusal of a bad one."""
        if root is not None:
            raise Refusal(f"--data-root: {self.modality} are shown beside no real ones")

    def examples(self, model: Model) -> list[str]:
        """Values of the control that are worth a click."""
        return []

    @abstractmethod
    def session(self, click: Click) -> Session:
        """The work of a click. Refusal, one line, if anything of it cannot be."""

    def made(self, click: Click) -> Iterator[Shown]:
        """What there is to see of a click, as it comes."""
        session = self.session(click)
        for item in live(session.work, session.draw, click.site.limits.seconds):
            if isinstance(item, Done):
                yield from session.finished(item)
            else:
                yield item
