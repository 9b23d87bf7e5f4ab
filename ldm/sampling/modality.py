"""What sampling does differently for each modality: what can be asked, what it means, the files."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from ldm.sampling.conditions import Condition, completed
from ldm.sampling.density import Density, Estimate
from ldm.sampling.generate import Job
from ldm.sampling.model import Model
from ldm.sampling.requests import Words


class Way(Protocol):
    """The first samples from noise to data: it watches every step, and is drawn at the end."""

    files: ClassVar[str]

    def __call__(self, step: int, x_s: Tensor, x0_hat: Tensor) -> None: ...

    def write(self, folder: Path) -> object: ...


class Samples(ABC):
    """What is asked of one modality's samples, beside classes and captions."""

    modality: ClassVar[str]
    own: ClassVar[tuple[str, ...]] = ()  # what can be asked of it alone

    @classmethod
    @abstractmethod
    def parse(cls, words: Mapping[str, Any], count: int | None) -> "Samples":
        """What a command line or arguments ask for; `count` samples, None where it is not given."""

    @property
    def count(self) -> int | None:
        """How many samples this asks for, None where it is not given."""
        return None

    @property
    def flag(self) -> str | None:
        """The flag of this modality alone that was given, None if none was."""
        return None

    def labels(self, model: Model, words: Words, count: int) -> list[int] | None:
        """The class of each sample, None where none is asked for."""
        return words.labels(model, count)

    def condition(self, model: Model, words: Words, seeds: Sequence[int]) -> Condition:
        """The whole condition of each sample. Refusal where that cannot be."""
        labels = self.labels(model, words, len(seeds))
        return completed(model, seeds, Condition(labels, words.prompts(model, seeds)))

    def warnings(self, job: Job) -> list[str]:
        """What the user should know before the samples are made."""
        return []

    def record(self) -> dict[str, Any]:
        """Its part of settings.json."""
        return {}

    @abstractmethod
    def way(self, job: Job, here: Job, count: int) -> Way:
        """The way of the first `count` samples of a job, of which this process makes `here`."""

    @abstractmethod
    def write(self, folder: Path, job: Job, samples: Tensor, record: Mapping[str, Any]) -> str:
        """The samples' files, samples.jsonl and settings.json; what was written, in words."""

    def returned(self, job: Job, samples: Tensor) -> Any:
        """The samples as a caller in Python gets them."""
        return samples

    @abstractmethod
    def density(self, model: Model, data: Any, condition: Condition, estimate: Estimate) -> Density:
        """log p of data as they are written, given their condition."""
