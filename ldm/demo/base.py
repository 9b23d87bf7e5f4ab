"""What the button Sample does for every modality, without Gradio."""

import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from ldm.config import SampleConfig
from ldm.demo.limits import Asked, Limits
from ldm.demo.live import Done, live
from ldm.diffusion.solvers import Watch
from ldm.sampling.generate import Job
from ldm.sampling.model import Model
from ldm.sampling.requests import Words
from ldm.sampling.trajectory import in_view

GUESS, STATE = "x̂₀, the model's guess", "x_t, what is still noisy"


@dataclass
class Shown:
    """What the page shows at a moment; None leaves what is there."""

    picture: Image.Image
    status: str
    more: Image.Image | None = None  # how it came about, or histograms
    samples: Tensor | None = None  # uint8, when they are finished
    command: str | None = None


@dataclass(frozen=True)
class Click:
    """The choices when Sample was pressed: class, the modality's control, numbers, view."""

    model: Model
    limits: Limits
    asked: Asked
    label: str | None = None
    control: Any = None
    shown: str = GUESS
    name: str = "NAME"

    @property
    def settings(self) -> SampleConfig:
        """Checked; Refusal if they cannot be."""
        return self.asked.overrides.over(self.model.settings, self.model.schedule)

    @property
    def words(self) -> Words:
        """The class, for all samples."""
        return Words(None if self.label is None else str(self.label))

    def command(self, **given: Any) -> str:
        """The same by sample.py."""
        asked = self.asked
        words: list[Any] = ["python", "sample.py", "--checkpoint", self.name]
        words += ["--solver", asked.solver, "--steps", asked.steps]
        words += ["--guidance", f"{asked.guidance:g}", "--seed", asked.seed, "--count", asked.count]
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
        t = self.times[step + 1]
        x = in_view(self.job.model.schedule, x_s, t) if self.click.shown == STATE else x0_hat
        how = f"t = {t:.2f}, by {self.job.settings.describe()}"
        return Shown(self.picture(x), f"step **{step + 1}** of {len(self.times) - 1}, {how}")

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
    heading: ClassVar[str]
    legend: ClassVar[str]
    height: ClassVar[int | None] = None  # px of the picture
    edited: ClassVar[bool] = False  # whether there is a tab to change one

    @abstractmethod
    def about(self, model: Model) -> str:
        """What is made, for a stranger."""

    @abstractmethod
    def control(self, model: Model, limits: Limits) -> Any:
        """Gradio's component for what can be asked beside the class."""

    @abstractmethod
    def session(self, click: Click) -> Session:
        """The work of a click. Refusal, one line, if anything of it cannot be."""

    def made(self, click: Click) -> Iterator[Shown]:
        """What there is to see of a click, as it comes."""
        session = self.session(click)
        for item in live(session.work, session.draw, click.limits.seconds):
            if isinstance(item, Done):
                yield from session.finished(item)
            else:
                yield item
