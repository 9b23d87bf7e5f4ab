"""A config's file: read with its overrides, written resolved."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ldm.config.options import check_options
from ldm.config.plain import from_pair
from ldm.config.runs import Config, RunConfig, from_dict
from ldm.config.schema import merge, read_config, to_dict
from ldm.config.shipped import shipped
from ldm.config.stage1 import stage1_of
from ldm.errors import Refusal
from ldm.system.files import atomic_write


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """A config file, its `base:` files under it, `key=value` overrides over it; else Refusal."""
    _expect_pairs(overrides)
    return made(read_config(shipped(Path(path))), overrides, str(path))


def made(raw: dict[str, Any], overrides: Sequence[str] = (), where: str = "config") -> Config:
    """The config of a plain tree, with `key=value` overrides over it; else Refusal."""
    _expect_pairs(overrides)
    for text in overrides:
        raw = merge(raw, from_pair(text), top=True)
    run = from_dict(_at_home(raw), where)
    check_options(run.trainer.options, where)
    stage1_of(run)  # refused now rather than when its turn comes
    return run


def _expect_pairs(overrides: Sequence[str]) -> None:
    for text in overrides:
        if "=" not in text:
            raise Refusal(
                f"'{text}' is not an override; write key=value, for example trainer.max_steps=100"
            )


PATHS = (
    *("output", "data.root", "space.autoencoder", "text.model", "evaluate.features"),
    "sample.guide.run",
)


def _at_home(raw: dict[str, Any]) -> dict[str, Any]:
    """Expand `~` in the tree's paths: no shell has done it behind a `key=`."""
    for path in PATHS:
        *above, last = path.split(".")
        node: Any = raw
        for key in above:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(last), str):
            node[last] = os.path.expanduser(node[last])
    return raw


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved config, loadable again by `load`."""
    with atomic_write(path) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))))
