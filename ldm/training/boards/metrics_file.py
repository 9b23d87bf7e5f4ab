"""metrics.csv: every number of a run, whole at any moment."""

import csv
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from ldm.system.files import atomic_write
from ldm.training.ranks import announce, is_first

_Row = dict[str, str]


def _sound(row: Mapping[str, str | None]) -> bool:
    """Whether it has a number or nothing in every column: a kill cuts a row short."""
    if None in row or None in row.values():
        return False
    try:
        return bool([float(value) for value in row.values() if value])
    except ValueError:
        return False


def _before(row: _Row, step: int) -> bool:
    """Whether a row is of the state at `step`: of validation after it, or of training before."""
    validation = any(value for key, value in row.items() if key.startswith("val/"))
    return float(row["step"] or "inf") < step + validation


class _Writer(ExperimentWriter):
    """Lightning's, less the moments at which a kill would lose rows.

    It deletes an earlier file, and rewrites in place.
    """

    def _check_log_dir_exists(self) -> None:
        pass

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self.rewrite(self.read(), fieldnames)

    def read(self) -> list[_Row]:
        """The rows that are sound. A file whose header is not is kept aside: nothing has a name."""
        text = Path(self.metrics_file_path).read_bytes().decode(errors="replace")
        # a row without its end may lack digits
        lines = text[: text.rfind("\n") + 1].replace("\0", "\ufffd")
        rows: list[_Row] = []
        with suppress(csv.Error):  # a field without end
            rows.extend(csv.DictReader(io.StringIO(lines, newline="")))
        header = lines.split("\n", 1)[0]
        if text and ("\ufffd" in header or "step" not in header.strip().split(",")):
            aside = Path(self.metrics_file_path).with_suffix(".damaged.csv")
            os.replace(self.metrics_file_path, aside)
            announce(f"metrics.csv is damaged: kept as {aside}, a new one is begun")
            return []
        if bad := sum(not _sound(row) for row in rows):
            announce(f"metrics.csv: {bad} rows are damaged and left out")
        return [row for row in rows if _sound(row)]

    def rewrite(self, rows: list[_Row], fieldnames: list[str]) -> None:
        with atomic_write(Path(self.metrics_file_path), newline="") as file:
            writer = csv.DictWriter(file, fieldnames=fieldnames)
            writer.writeheader()
            writer.writerows(rows)


class MetricsFile(CSVLogger):
    """metrics.csv in the run's folder; a resumed run goes on after the rows before its step."""

    def __init__(self, folder: Path, step: int | None):
        super().__init__(folder, name="", version="")
        self.found: bytes | None = None  # the file before this run touched it
        if is_first():
            self._experiment = self._open(step)

    def _open(self, step: int | None) -> _Writer:
        writer = _Writer(self.log_dir)
        path = Path(writer.metrics_file_path)
        if not path.exists():
            return writer
        self.found = path.read_bytes()
        rows = [row for row in writer.read() if _before(row, step)] if step is not None else []
        writer.metrics_keys = sorted(rows[0]) if rows else ["step"]
        writer.rewrite(rows, writer.metrics_keys)
        return writer

    def discard(self) -> None:
        """The run was refused before its first step: the file is again what it was."""
        path = Path(self.log_dir) / _Writer.NAME_METRICS_FILE
        if self.found is None:
            path.unlink(missing_ok=True)
            return
        with atomic_write(path, "wb") as file:
            file.write(self.found)
