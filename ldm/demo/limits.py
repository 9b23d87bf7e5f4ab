"""What a visitor may ask for, checked on the server: requests need not come from the page."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ldm.errors import Refusal
from ldm.sampling.model import Model
from ldm.sampling.settings import Overrides

PICTURES, JETS = 16, 500  # samples at once by default
LARGEST_SEED = 2**53 - 1  # of the whole numbers that a browser knows
NEW_SEEDS = 1_000_000  # new ones are below: short enough to be read out


@dataclass(frozen=True)
class Limits:
    """The most of everything."""

    count: int = PICTURES
    steps: int = 250
    seconds: float = 300.0
    upload: int = 8_000_000  # bytes
    pixels: int = 16_000_000
    guidance: float = 20.0
    prompt: int = 300  # characters
    body: int = 1_000_000  # bytes of a request that is no upload

    @property
    def session(self) -> int:
        """Bytes that one visitor may send in an hour."""
        return 25 * self.upload

    @property
    def total(self) -> int:
        """Bytes that all visitors may send in an hour."""
        return 100 * self.upload

    def __post_init__(self) -> None:
        for key in ("count", "steps", "seconds", "upload"):
            if getattr(self, key) < 1:
                raise Refusal(f"--max-{key}: {getattr(self, key)} is not at least 1")


@dataclass(frozen=True)
class Asked:
    """The numbers of a request, checked. Refusal for what is beyond the limits."""

    solver: str
    steps: int
    guidance: float
    seed: int
    count: int

    @classmethod
    def of(
        cls, limits: Limits, solver: Any, steps: Any, guidance: Any, seed: Any, count: Any
    ) -> "Asked":
        return cls(
            str(solver),
            whole_number("steps", steps, 1, limits.steps),
            number("guidance", guidance, 0, limits.guidance),
            whole_number("seed", seed, 0, LARGEST_SEED - limits.count),
            whole_number("samples", count, 1, limits.count),
        )

    @property
    def seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + self.count))

    @property
    def overrides(self) -> Overrides:
        """A batch is no larger than what is asked for: no time goes into filling it up."""
        return Overrides(
            solver=self.solver, steps=self.steps, guidance=self.guidance, batch_size=self.count
        )


def new_seed() -> int:
    """One that nobody chose."""
    return secrets.randbelow(NEW_SEEDS)


def number(name: str, value: Any, low: float, high: float) -> float:
    """The number, or a Refusal with its limits."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not usable or not low <= value <= high:
        raise Refusal(f"{name}: {value!r:.40} is not a number from {low:g} to {high:g}")
    return float(value)


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """The whole number, or a Refusal with its limits."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or value != value // 1
        or not low <= value <= high
    ):
        raise Refusal(f"{name}: {value!r:.40} is not a whole number from {low} to {high}")
    return int(value)


def typed(text: str) -> int | float | str:
    """The number that a text is, whole if it can be; else the text, for a refusal to name."""
    try:
        value = float(text) if len(text) <= 24 else math.nan
    except ValueError:
        return text
    return int(value) if value.is_integer() else value


def apart(word: str, classes: Sequence[str]) -> str:
    """A word that is none of the classes, for no class."""
    while word in classes:
        word = f"({word})"
    return word


def class_of(model: Model, name: Any) -> int | None:
    """The class that a page's choice means; None for none."""
    return None if name is None else model.label(str(name))


def prompt_of(limits: Limits, text: Any) -> str | None:
    """One line of a prompt; None for an empty one."""
    line = " ".join(str(text or "").split())
    if len(line) > limits.prompt:
        raise Refusal(f"prompt: {len(line)} characters, at most {limits.prompt} are taken")
    return line or None
