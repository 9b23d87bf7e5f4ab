"""What is asked of an evaluation, and the checkpoint that it is asked of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ldm.checkpoints import checkpoint
from ldm.checkpoints.finding import find_checkpoint
from ldm.checkpoints.safe import malformed
from ldm.config import Config, SampleConfig, from_dict
from ldm.errors import Refusal, one_of
from ldm.metrics.records import file_hash
from ldm.sampling.model import Model
from ldm.sampling.requests import Seeds, Source, taken
from ldm.sampling.settings import Overrides
from ldm.sampling.speed import roomy


@dataclass(frozen=True)
class EvaluationRequest:
    """A checkpoint, how it is sampled, and what its samples are compared with. None: as usual."""

    source: Source
    seeds: Seeds = Seeds()
    settings: Overrides = Overrides()
    metrics: tuple[str, ...] | None = None
    features: str = "auto"
    split: str | None = None
    data_root: str | None = None
    cache: str | None = None
    output: str = "evaluations"
    copies: bool = False  # pictures: how close samples are to what was trained on
    clip: float | None = None  # jets: |eta| and |phi| are cut to it

    def __post_init__(self) -> None:
        if self.split not in (None, "train", "test"):
            raise Refusal(one_of("--split", str(self.split), ("train", "test")))
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise Refusal(
                f"--clip: {self.clip:g} is not an angle above 0; "
                "leave it out to compare the jets as they are"
            )

    def sampling(self, model: Model, count: int) -> SampleConfig:
        """The settings that so many samples are made by."""
        settings = self.settings.over(model.settings, model.schedule)
        return settings if self.settings.batch_size else roomy(model, settings, count)

    @classmethod
    def parse(cls, words: Mapping[str, Any]) -> "EvaluationRequest":
        """From the words of a command line. Refusal for what cannot be, whatever the model."""
        names, known = words.get("metrics"), {field.name for field in fields(cls)}
        own = {key: value for key, value in words.items() if key in known}
        own["metrics"] = None if names is None else tuple(name.strip() for name in names.split(","))
        return cls(taken(Source, words), taken(Seeds, words), taken(Overrides, words), **own)


@dataclass(frozen=True)
class Opened:
    """A checkpoint that was read: its file, metadata, step and config."""

    file: Path
    meta: Mapping[str, Any]
    step: int
    config: Config

    @classmethod
    def at(cls, path: str | Path) -> "Opened":
        """Of a run's folder or a file. Refusal if it is no checkpoint of ours."""
        file = find_checkpoint(path)
        state = checkpoint.read_checkpoint(file)
        with malformed(file):
            config = from_dict(state["ldm"]["config"], str(file))
            return cls(file, state["ldm"], state["global_step"], config)

    @property
    def kind(self) -> str:
        """Which evaluation it is for: its data's modality, or `autoencoder` for stage 1."""
        first = self.meta["stage"] == "autoencoder"
        return "autoencoder" if first else self.config.data.modality

    def record(self) -> dict[str, Any]:
        """Its part of a record."""
        about = {"path": str(self.file), "hash": file_hash(self.file)}
        return about | {"stage": self.meta["stage"], "step": self.step}
