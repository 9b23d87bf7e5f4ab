"""Averages of the trained network alone, kept beside it and never inside it.

Lightning's EMAWeightAveraging averages the whole module (a frozen autoencoder too), saves with
roles swapped when validation throws, and never updates under two optimisers: hence these lines.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ldm.checkpoints.averaging import exponential_share, power_share
from ldm.checkpoints.weights import Weights


class EMA:
    """shadow <- shadow + share (weight - shadow) after every optimiser step, one shadow a profile.

    `decays`: exponential profiles, the first is the one sampled from; `widths`: power-function
    profiles for post-hoc EMA. Shadows are float32, start as copies, and hold floating-point weights
    and buffers under the network's own names.
    """

    def __init__(self, net: nn.Module, decays: Sequence[float], widths: Sequence[float] = ()):
        self.net, self.updates = net, 0
        self.live = self._listed()
        copy = lambda: {name: p.detach().float().clone() for name, p in self.live}  # noqa: E731
        self.decays: dict[float, Weights] = {decay: copy() for decay in decays}
        self.powers: dict[float, Weights] = {width: copy() for width in widths}
        self.placed = False

    def _listed(self) -> list[tuple[str, Tensor]]:
        found = self.net.state_dict(keep_vars=True).items()
        return [(name, tensor) for name, tensor in found if tensor.is_floating_point()]

    @property
    def shadow(self) -> Weights:
        """The average that is validated and sampled from."""
        return next(iter(self.decays.values()))

    @torch.no_grad()
    def place(self) -> None:
        """Once the network lies where it trains: list its tensors, and lay the shadows as they lie.

        A step then walks through no modules. One shadow of other strides (`channels_last`) or on
        another device, and `_foreach_lerp_` would go through all of them one by one.
        """
        self.live, self.placed = self._listed(), True
        for shadow in (*self.decays.values(), *self.powers.values()):
            shadow.update({name: laid_as(shadow[name], p) for name, p in self.live})

    def _ready(self) -> None:
        """`place` at the first use, and after the network has moved."""
        first, p = self.live[0]
        if not self.placed or self.shadow[first].device != p.device:
            self.place()

    @torch.no_grad()
    def update(self) -> None:
        """Call once after each optimiser step."""
        self._ready()
        live = [p.float() for _, p in self.live]
        for decay, shadow in self.decays.items():
            share = exponential_share(decay, self.updates)
            torch._foreach_lerp_(list(shadow.values()), live, share)
        for width, shadow in self.powers.items():
            torch._foreach_lerp_(list(shadow.values()), live, power_share(width, self.updates))
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the network has the averaged weights; the raw ones come back whatever happens."""
        self._ready()
        live, raw = self.live, [p.data for _, p in self.live]
        try:
            for (name, p), old in zip(live, raw, strict=True):
                p.data = self.shadow[name].to(old)
            yield
        finally:
            for (_, p), old in zip(live, raw, strict=True):
                p.data = old

    def state(self) -> dict[str, Any]:
        (decay, weights), *more = self.decays.items()
        state = {"decay": decay, "updates": self.updates, "weights": dict(weights)}
        return state | {
            "more": [[d, dict(w)] for d, w in more],
            "power": [[d, dict(w)] for d, w in self.powers.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        for _, shadow, found in self.pairs(state):
            for name in shadow:
                shadow[name].copy_(found[name])

    def pairs(self, state: Mapping[str, Any]) -> Iterator[tuple[str, Weights, Weights]]:
        """What each profile is called, its shadow, and what a state has for it."""
        decays = dict([(state["decay"], state["weights"]), *state.get("more", [])])
        powers = dict(state.get("power", []))
        for kept, found in ((self.decays, decays), (self.powers, powers)):
            for profile, shadow in kept.items():
                yield f"ema:{profile:g}", shadow, found.get(profile, {})


def laid_as(shadow: Tensor, live: Tensor) -> Tensor:
    """The shadow on the device and with the strides of the tensor that it is the average of."""
    if shadow.device == live.device and shadow.stride() == live.stride():
        return shadow
    return torch.empty_strided(
        live.size(), live.stride(), dtype=shadow.dtype, device=live.device
    ).copy_(shadow)
