"""What benchmarks of samples' quality share: what judges them, and rows that are not made twice."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.evaluation.pictures import Judge, load_data
from ldm.evaluation.requests import Opened
from ldm.metrics.features import choose
from ldm.metrics.reference import cached_reference


def judge_of(
    checkpoint: str,
    metrics: Sequence[str],
    data_root: str | None = None,
    features: str = "auto",
    device: str = "cpu",
) -> Judge:
    """Against the training pictures of a checkpoint."""
    opened = Opened.at(checkpoint)
    data = type(opened.config.data).__name__
    network = choose(features, data).to(device)
    train = load_data(opened.config.data, data_root, opened.meta).train
    return Judge(network, cached_reference(train, network, f"{data} train"), metrics)


@dataclass
class Log:
    """Rows of a JSON file: what it has already is read back, each new one is written at once."""

    path: Path
    rows: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = json.loads(self.path.read_text()) if self.path.exists() else []

    def has(self, job: dict[str, Any], same: Sequence[str]) -> bool:
        """Whether a row agrees with a job in all of the keys `same`, those it lacks too."""
        return any(
            {k: row.get(k) for k in same} == {k: job.get(k) for k in same} for row in self.rows
        )

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.path.write_text(json.dumps(self.rows, indent=1) + "\n")
