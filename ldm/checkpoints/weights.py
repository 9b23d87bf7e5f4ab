"""Named weights: their hash, and whether they fit a module."""

import hashlib
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ldm.errors import Refusal

Weights = dict[str, Tensor]
Built = TypeVar("Built", bound=nn.Module)


def under(state: Weights, prefix: str) -> Weights:
    """The weights whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def expect_fit(module: nn.Module, found: Weights, what: str) -> None:
    """Refusal unless these are a module's weights: by name, shape, kind of number, and finite.

    The module may be without memory, on the meta device: so a config is held against its weights
    before it is believed.
    """
    expect_arrays(module.state_dict(), found, what)


def expect_arrays(expected: Weights, found: Weights, what: str, each: str = "weight") -> None:
    """The same of named arrays, `each` of which is called so."""
    if not isinstance(found, dict):
        raise Refusal(f"{what}: it is {type(found).__name__}, no arrays by their names")
    for key in [*expected, *found]:
        one = f"{what}: {each} '{key}'"
        if key not in found or key not in expected:
            why = "missing" if key in expected else "unexpected"
            raise Refusal(f"{one} is {why}; it is of another model")
        if not isinstance(found[key], Tensor):
            raise Refusal(f"{one} is {type(found[key]).__name__}, no array of numbers")
        if expected[key].shape != found[key].shape:
            shapes = f"{tuple(found[key].shape)}, not {tuple(expected[key].shape)}"
            raise Refusal(f"{one} has shape {shapes}; it is of another model")
        if expected[key].is_floating_point() != found[key].is_floating_point():
            raise Refusal(f"{one} is of type {found[key].dtype}, not {expected[key].dtype}")
        if not torch.isfinite(found[key]).all():
            raise Refusal(f"{one} has numbers that are not finite")


def load_strict(module: nn.Module, found: Weights, what: str) -> None:
    """Load every weight or refuse with the first that does not fit."""
    expect_fit(module, found, what)
    module.load_state_dict(found)


def build_fitting(build: Callable[[], Built], found: Weights, what: str) -> Built:
    """What `build` makes, with these weights; nothing is allocated before they fit."""
    with torch.device("meta"):
        expect_fit(build(), found, what)
    module = build()
    module.load_state_dict(found)
    return module


def hash_of_weights(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of named weights, the same on every device: which autoencoder these latents are of."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors):
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
