"""What a visitor made in this session: a few small pictures with their settings."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from ldm.demo.base import Captioned, Shown
from ldm.demo.limits import whole_number
from ldm.demo.links import Settings

KEPT = 12  # runs of a session
SIDE = 96  # px of a small picture: at most 28 kB, so a session's history is below 0.4 MB
LONGEST = 80  # characters of a caption


@dataclass(frozen=True)
class Run:
    """A small picture, and the settings by which it was made."""

    small: np.ndarray  # uint8 (h, w, 3)
    settings: Settings

    @classmethod
    def of(cls, shown: Shown, settings: Settings) -> "Run":
        """Of finished samples."""
        image = (shown.small or shown.picture).convert("RGB")
        image.thumbnail((SIDE, SIDE))
        return cls(np.asarray(image), settings)

    @property
    def caption(self) -> str:
        """The settings in a few words: those first that differ most from run to run."""
        words = dict(self.settings)
        named = [str(words.pop(key)) for key in ("label", "prompt") if key in words]
        numbers = [f"{key} {value:g}" for key, value in words.items() if key not in OTHERS]
        solver = f"{words['solver']}, {words['steps']} steps"
        return ", ".join([*named, f"seed {words['seed']}", solver, *numbers])[:LONGEST]


OTHERS = ("solver", "steps", "seed", "count")  # said otherwise in a caption, or seen


@dataclass(frozen=True)
class History:
    """The last runs of a session, the newest first."""

    runs: tuple[Run, ...] = ()

    def with_run(self, run: Run) -> "History":
        """One more: the oldest goes when there are too many."""
        return replace(self, runs=(run, *self.runs)[:KEPT])

    def gallery(self) -> list[Captioned]:
        """As Gradio's gallery takes them."""
        return [(Image.fromarray(run.small), run.caption) for run in self.runs]

    def settings(self, index: Any) -> Settings:
        """Of the run that was clicked on. Refusal where there is none."""
        return self.runs[whole_number("run", index, 0, len(self.runs) - 1)].settings
