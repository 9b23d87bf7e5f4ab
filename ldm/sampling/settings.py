"""How samples are made: the checkpoint's settings, with what is asked for over them."""

import re
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from ldm.config import SampleConfig, from_dict
from ldm.config.schema import to_dict
from ldm.diffusion.schedules import Schedule
from ldm.errors import Refusal


def settings_from(
    defaults: SampleConfig,
    solver: str | None,
    eta: float | None,
    solver_option: Sequence[str] | None = None,
    schedule: Schedule | None = None,
    **given: float | str | None,
) -> SampleConfig:
    """The checkpoint's settings with what the command line says over them, checked; with the schedule, against it too.

    `solver_option` is a list of key=value.
    """
    plain = to_dict(defaults) | {key: value for key, value in given.items() if value is not None}
    if solver is not None and solver != plain["solver"]["name"]:
        plain["solver"] = {"name": solver}
    if eta is not None:
        plain["solver"]["eta"] = eta
    plain["solver"] |= solver_options(solver_option or ())
    law = {"schedule": {"name": type(schedule).__name__} | to_dict(schedule)} if schedule is not None else {}
    return from_dict({"name": "sample", "sample": plain, "loss": {"predict": "v"}} | law, "sample.py").sample


def solver_options(pairs: Sequence[str]) -> dict[str, Any]:
    """["churn=0.5"] -> {"churn": 0.5}, each value read as in YAML."""
    for pair in pairs:
        if not re.fullmatch(r"(?!name=)[a-z]\w*=[^=\s${}\[\]]+", pair):
            raise Refusal(f"--solver-option: '{pair}' is not key=value")
    return OmegaConf.to_container(OmegaConf.from_dotlist(list(pairs)))
