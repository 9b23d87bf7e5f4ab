"""What every evaluation does: checks first, samples by all ranks, figures by the first."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from ldm.errors import Refusal
from ldm.evaluation.requests import EvaluationRequest, Opened
from ldm.metrics.records import Figure
from ldm.sampling.requests import Place


class Report(ABC):
    """Figures, and how they came about."""

    @abstractmethod
    def figures(self) -> Iterator[dict[str, Figure]]:
        """The figures, in parts that are recorded as they come."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """How it was made, and the real side, for the records."""

    @abstractmethod
    def describe(self) -> str:
        """What was compared with what."""


class Evaluation(Report):
    """One evaluation of a checkpoint.

    Making it finds the data and refuses what cannot be, before anything slow; then `restore`,
    `make` and, on the first rank, `figures`, in this order.
    """

    copying = False  # whether samples can be held against what was trained on

    def __init__(self, request: EvaluationRequest, opened: Opened):
        if request.copies and not self.copying:
            raise Refusal(
                f"--copies: it is of samples that are pictures; this checkpoint is of {opened.kind}"
            )
        self.request, self.opened = request, opened

    @abstractmethod
    def restore(self, place: Place) -> None:
        """The model, at this process' place. Refusal for what it cannot be asked."""

    @abstractmethod
    def make(self, place: Place) -> None:
        """What is to be measured; every rank makes its share."""
