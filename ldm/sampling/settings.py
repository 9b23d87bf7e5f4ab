"""How samples are made: the checkpoint's settings, with what is asked for over them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from omegaconf import OmegaConf

from ldm.config import DiffusionConfig, SampleConfig, from_dict
from ldm.config.schema import to_dict
from ldm.config.sections import OWN
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers import Solver
from ldm.errors import Refusal


@dataclass(frozen=True)
class Overrides:
    """What is asked for over a checkpoint's own settings; None leaves one as it is.

    A solver is a name or one made in Python; its options are texts key=value or a mapping. A guide
    is a run, weights of the model's own run (raw, ema, ema:0.9), none, or a mapping of its fields.
    """

    solver: str | Solver | None = None
    solver_option: Sequence[str] | Mapping[str, Any] | None = None
    eta: float | None = None
    steps: int | None = None
    grid: str | None = None
    guidance: float | None = None
    interval: Sequence[float] | None = None
    rescale: float | None = None
    guide: str | Mapping[str, str] | None = None
    batch_size: int | None = None

    def over(self, defaults: SampleConfig, schedule: Schedule | None = None) -> SampleConfig:
        """The settings, checked as a config's are; with the schedule, against it too.

        Refusal if they cannot be.
        """
        plain = to_dict(defaults)
        for key in ("steps", "grid", "guidance", "interval", "rescale", "batch_size"):
            if (value := getattr(self, key)) is not None:
                plain[key] = value
        if self.guide is not None:
            plain["guide"] = guide_named(self.guide)
        if isinstance(self.solver, str):
            if self.solver != plain["solver"]["name"]:
                plain["solver"] = {"name": self.solver}
        elif self.solver is not None:
            plain["solver"] = {"name": type(self.solver).__name__} | to_dict(self.solver)
        if self.eta is not None:
            plain["solver"]["eta"] = self.eta
        plain["solver"] |= solver_options(self.solver_option or ())
        law = (
            {"schedule": {"name": type(schedule).__name__} | to_dict(schedule)}
            if schedule is not None
            else {}
        )
        about = {"name": "sample", "sample": plain, "loss": loss_of(defaults)}
        whole = from_dict(about | law, "sample.py")
        assert isinstance(whole, DiffusionConfig)
        return whole.sample


def guide_named(guide: str | Mapping[str, str]) -> dict[str, Any]:
    """The guide of the settings: {"run": RUN}, or {"weights": ema:0.9}; {} for none."""
    if isinstance(guide, Mapping):
        return dict(guide)
    if not guide.strip():
        raise Refusal("--guide: it is empty; a run, weights such as ema:0.9, or none")
    own = {"weights": guide} if OWN.fullmatch(guide) else {"run": guide}
    return {} if guide == "none" else own


def loss_of(defaults: SampleConfig) -> dict[str, Any]:
    """What a model of these settings was trained by, as far as they must fit it."""
    pieces = defaults.solver.pieces
    if not defaults.solver.few:
        return {"predict": "v"}
    ends = {"segments": pieces, "first": pieces, "grid": defaults.grid} if pieces > 1 else {}
    return {"name": "Consistency", "guidance": None} | ends


def solver_options(pairs: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """["churn=0.5"] -> {"churn": 0.5}, each value read as in YAML; a mapping as it is."""
    if isinstance(pairs, Mapping):
        return dict(pairs)
    for pair in pairs:
        if not re.fullmatch(r"(?!name=)[a-z]\w*=[^=\s${}\[\]]+", pair):
            raise Refusal(f"--solver-option: '{pair}' is not key=value")
    options = OmegaConf.to_container(OmegaConf.from_dotlist(list(pairs)))
    return cast(dict[str, Any], options)
