"""Tasks: functions from a denoiser to a denoiser, so that every solver serves every task."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.schedules import Schedule


@dataclass
class Guided:
    """A denoiser bound to its condition, with classifier-free guidance of scale w.

    x0_hat = x0_null + w (x0_cond - x0_null), on every channel (Ho & Salimans 2022, eq. 6, with w = 1 + their w: 1 is the
    plain conditional model, 0 the unconditional one). Both come from one call on a doubled batch.
    """

    denoiser: Denoiser
    cond: dict[str, Tensor]
    null: dict[str, Tensor] | None = None
    scale: float = 1.0

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        if self.null is None or self.scale == 1:
            return self.denoiser(x_t, t, **self.cond)
        both = {key: torch.cat([value, self.null[key]]) for key, value in self.cond.items()}
        x0_cond, x0_null = self.denoiser(torch.cat([x_t, x_t]), t, **both).chunk(2)
        return torch.lerp(x0_null, x0_cond, self.scale)


def cfg(denoiser: Denoiser, cond: dict[str, Tensor], null: dict[str, Tensor] | None = None, scale: float = 1.0) -> Guided:
    """Bind a condition, and guide away from `null` by `scale` (Ho & Salimans 2022)."""
    return Guided(denoiser, cond, null, scale)
