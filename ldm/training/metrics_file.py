"""metrics.csv: every number of a run, whole at any moment."""

import csv
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only


def _before(row: dict[str, str | None], step: int) -> bool:
    """Whether a row is of the state at `step`: validation after step n is, the training row n is of the step to come.

    A row that a kill cut short lacks its last columns; such a row was written after the checkpoint.
    """
    if None in row.values() or None in row:
        return False
    validation = any(value for key, value in row.items() if key.startswith("val/"))
    return float(row["step"] or "inf") < step + validation


class _Writer(ExperimentWriter):
    """Lightning's, less the moments at which a kill would lose rows: it deletes an earlier file, and rewrites in place."""

    def _check_log_dir_exists(self) -> None:
        pass

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self.rewrite(self.read(), fieldnames)

    def read(self) -> list[dict[str, Any]]:
        with open(self.metrics_file_path, newline="") as file:
            return list(csv.DictReader(file))

    def rewrite(self, rows: list[dict[str, Any]], fieldnames: list[str]) -> None:
        """Beside it, then renamed."""
        beside = self.metrics_file_path + ".partial"
        with open(beside, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=fieldnames)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(beside, self.metrics_file_path)


class MetricsFile(CSVLogger):
    """metrics.csv in the run's folder, whole at any moment; a resumed run goes on after the rows before its step."""

    def __init__(self, folder: Path, step: int | None):
        super().__init__(folder, name="", version="")
        if rank_zero_only.rank == 0:
            self._experiment = self._open(step)

    def _open(self, step: int | None) -> _Writer:
        writer = _Writer(self.log_dir)
        if not os.path.exists(writer.metrics_file_path):
            return writer
        rows = [row for row in writer.read() if _before(row, step)] if step is not None else []
        writer.metrics_keys = sorted(rows[0]) if rows else ["step"]
        writer.rewrite(rows, writer.metrics_keys)
        return writer
