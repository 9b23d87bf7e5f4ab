"""Exponential moving average of the trained network alone, kept beside it and never inside it.

Lightning's EMAWeightAveraging averages the whole module (a frozen autoencoder too), saves with roles swapped when
validation throws, and never updates under two optimisers (DESIGN section 7): hence these 40 lines.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """shadow <- shadow + (1 - d) (weight - shadow) after every optimiser step, d = min(decay, (1 + n) / (10 + n)).

    The shadow is float32, starts as a copy, and holds floating-point weights and buffers under the network's own names.
    """

    def __init__(self, net: nn.Module, decay: float):
        self.net, self.decay, self.updates = net, decay, 0
        self.shadow = {name: p.detach().float().clone() for name, p in self._live()}

    def _live(self) -> list[tuple[str, Tensor]]:
        return [(n, t) for n, t in self.net.state_dict(keep_vars=True).items() if t.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Call once after each optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        live = [p.detach().float() for _, p in self._live()]
        if self.shadow and next(iter(self.shadow.values())).device != live[0].device:
            self.shadow = {n: s.to(live[0].device) for n, s in self.shadow.items()}
        torch._foreach_lerp_(list(self.shadow.values()), live, 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the network has the averaged weights; the raw ones come back whatever happens."""
        live = self._live()
        raw = [p.data for _, p in live]
        try:
            for (name, p), old in zip(live, raw, strict=True):
                p.data = self.shadow[name].to(old)
            yield
        finally:
            for (_, p), old in zip(live, raw, strict=True):
                p.data = old

    def state(self) -> dict[str, Any]:
        return {"decay": self.decay, "updates": self.updates, "weights": dict(self.shadow)}

    def restore(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, shadow in self.shadow.items():
            shadow.copy_(state["weights"][name])
