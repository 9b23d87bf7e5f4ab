"""Diffusion models of a lecture, in pixel and latent space.

In Python: `ldm.load(path)` and `ldm.train(config)`, see `ldm.interface`; the parts are in
`ldm.diffusion`. Nothing is imported before it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm.errors import Refusal
    from ldm.interface import DiffusionModel, load, train
    from ldm.sampling.density import Estimate

__all__ = ["DiffusionModel", "Estimate", "Refusal", "load", "train"]
PLACES = {"Refusal": "ldm.errors", "Estimate": "ldm.sampling.density"}  # else ldm.interface


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ldm' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(PLACES.get(name, "ldm.interface")), name)


def __dir__() -> list[str]:
    return __all__
