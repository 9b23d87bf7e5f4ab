"""Where it runs, what is written down, and the table that is made of it."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import clock
from ldm.training import arithmetic

ROOT = Path(__file__).parents[2]
ROWS = "rows.jsonl"
# dense bf16 operations a second, by the data sheets
PEAKS = {"H100": arithmetic.PEAK, "H200": arithmetic.PEAK, "A100": 312e12, "B200": 2250e12}


@dataclass
class Place:
    """`cuda`, at full size; or `cpu`: a rehearsal at toy size, which finds mistakes of this script."""

    device: str
    output: Path
    data_root: str = "data"
    job: str = ""
    found: list[dict[str, Any]] = field(default_factory=list)

    @property
    def gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def peak(self) -> float:
        """Operations a second in bf16; an H100's where the device is another."""
        name = torch.cuda.get_device_name() if self.gpu else ""
        return next((peak for key, peak in PEAKS.items() if key in name), arithmetic.PEAK)

    def settings(self, *more: str) -> list[str]:
        """Overrides of every run here."""
        accelerator = "gpu" if self.gpu else "cpu"
        quiet = ["logger.mode=disabled", "trainer.devices=1", f"trainer.accelerator={accelerator}"]
        return [*quiet, f"output={self.output / self.job}", *more]

    def sync(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def memory(self, reset: bool = False) -> float:
        """The most that was held since the last reset, in GB; 0 on a CPU."""
        if not self.gpu:
            return 0.0
        held = torch.cuda.max_memory_allocated() / 1e9
        if reset:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return held

    def note(self, section: str, what: str, **values: Any) -> None:
        """A row of the table: printed, and on the disk at once."""
        row = {"job": self.job, "section": section, "what": what, "values": values}
        self.found.append(row)
        with open(self.output / ROWS, "a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{section:14} {what:44} {_said(values)}", flush=True)

    def rate(self, work: Callable[[], object], count: int, rounds: int = 3) -> float:
        """How many a second, by the best of some rounds after one that is not timed."""
        work()
        spans = []
        for _ in range(rounds if self.gpu else 1):
            self.sync()
            began = time.perf_counter()
            work()
            self.sync()
            spans.append(time.perf_counter() - began)
        return count / min(spans)


def _said(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def failing_softly(place: Place, section: str, what: str) -> Iterator[None]:
    """One failure is a row, and the rest goes on."""
    try:
        yield
    except Exception as error:
        place.note(section, what, FAILED=f"{type(error).__name__}: {str(error)[:200]}")


def start(place: Place) -> None:
    """A new table, with the machine on top."""
    place.output.mkdir(parents=True, exist_ok=True)
    about = {"machine": clock.machine(place.device), "date": time.strftime("%Y-%m-%d %H:%M UTC")}
    (place.output / "machine.json").write_text(json.dumps(about, indent=1) + "\n")


def read_rows(output: Path) -> list[dict[str, Any]]:
    path = output / ROWS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_table(output: Path) -> Path:
    """Markdown of all that was found, the latest of each row: what goes into docs/scale.md."""
    about = json.loads((output / "machine.json").read_text())
    machine = about["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"`python -m benchmarks.gpu` on {machine['device']} ({machine['cpu']}, {machine['cores']} "
        f"cores), {about['date']}, commit {machine['commit'] or 'unknown'}, {versions}.",
    ]
    rows = {(row["section"], row["what"]): row["values"] for row in read_rows(output)}
    for section in dict.fromkeys(section for section, _ in rows):
        mine = {what: values for (at, what), values in rows.items() if at == section}
        heads = list(dict.fromkeys(key for values in mine.values() for key in values))
        lines += ["", f"| {section} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for what, values in mine.items():
            cells = (_short(values[head]) if head in values else "" for head in heads)
            lines.append(f"| {what} | {' | '.join(cells)} |".replace("\n", " "))
    path = output / "scale.md"
    path.write_text("\n".join(lines) + "\n")
    return path
