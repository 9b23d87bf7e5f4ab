"""Guidance: a denoiser bound to its condition, led away from a worse estimate."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.schedules import Schedule


@dataclass
class Guided:
    """A denoiser bound to its condition, with guidance of scale w.

    Classifier-free: x0_hat = x0_null + w (x0_cond - x0_null), on every channel (Ho & Salimans 2022,
    eq. 6, with w = 1 + their w: 1 is the plain conditional model, 0 the unconditional one). Both
    come from one call on a doubled batch.

    Autoguidance, where there is a `guide`, a worse model of the same data bound to a condition of
    its own: x0_hat = D_guide + w (x0_cond - D_guide), and `null` is not used (Karras et al. 2024,
    "Guiding a diffusion model with a bad version of itself", eq. 5). w = 1 does not ask the guide.

    interval: guided where low <= t <= high alone, elsewhere the plain conditional model, in one
    call (Kynkaanniemi et al. 2024, eq. 6, whose ends are in sigma). rescale: the share phi of
    x0_hat that is brought to the standard deviation of x0_cond, each sample's own (Lin et al. 2024,
    eqs. 15-16, there on the network's output).
    """

    denoiser: Denoiser
    cond: dict[str, Tensor]
    null: dict[str, Tensor] | None = None
    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    guide: "Guided | None" = None

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def mask(self) -> Tensor | None:
        """(B, N) of clouds, true where a row is real; None for pictures."""
        return self.cond.get("mask")

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        cond = {key: usable(value) for key, value in self.cond.items()}
        alone = self.null is None and self.guide is None
        if alone or self.scale == 1 or self.outside(t):
            return self.denoiser(x_t, t, **cond)
        x0_cond, x0_worse = self.pair(x_t, t, cond)
        x0_hat = torch.lerp(x0_worse, x0_cond, self.scale)
        return rescaled(x0_hat, x0_cond, self.rescale, self.mask) if self.rescale else x0_hat

    def pair(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The estimate under the condition, and the one to be led away from."""
        if self.guide is not None:
            return self.denoiser(x_t, t, **cond), self.guide(x_t, t)
        assert self.null is not None, "guided away from one of the two"
        both = {key: torch.cat([value, self.null[key]]) for key, value in cond.items()}
        times = torch.cat([t, t]) if t.dim() else t
        x0_cond, x0_null = self.denoiser(torch.cat([x_t, x_t]), times, **both).chunk(2)
        return x0_cond, x0_null

    def outside(self, t: Tensor) -> bool:
        """Whether t, of a solver and so 0-dim, is out of the interval."""
        low, high = self.interval
        return (low, high) != (0, 1) and not low <= float(t) <= high


def cfg(
    denoiser: Denoiser,
    cond: dict[str, Tensor],
    null: dict[str, Tensor] | None = None,
    scale: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
) -> Guided:
    """Bind a condition, and guide away from `null` by `scale` (Ho & Salimans 2022)."""
    return Guided(denoiser, cond, null, scale, interval, rescale)


def autoguided(guided: Guided, guide: Denoiser, cond: dict[str, Tensor]) -> Guided:
    """The same, led away from `guide` under `cond` (Karras et al. 2024); schedules must be equal.

    ValueError where they are not: x_t of another law means another picture.
    """
    if guide.schedule != guided.schedule:
        raise ValueError(f"the guide is of schedule {guide.schedule}, not {guided.schedule}")
    return replace(guided, null=None, guide=Guided(guide, cond))


def usable(value: Tensor) -> Tensor:
    """A tensor; copied if it is of inference mode, where no gradient may save it."""
    return (
        value.clone() if value.is_inference() and not torch.is_inference_mode_enabled() else value
    )


def rescaled(x0_hat: Tensor, x0_cond: Tensor, share: float, mask: Tensor | None = None) -> Tensor:
    """phi x0_hat std(x0_cond) / std(x0_hat) + (1 - phi) x0_hat, each sample by its own std.

    Lin et al. 2024, eqs. 15-16. With a mask (B, N) of clouds (B, N, F) the std is over the real
    rows; a sample of fewer than two numbers stays as it is.
    """
    real = (
        torch.ones_like(x0_hat) if mask is None else mask[..., None].expand(x0_hat.shape).to(x0_hat)
    )
    ratio = spread_of(x0_cond, real) / spread_of(x0_hat, real).clamp(min=1e-12)
    ratio = torch.where(total(real) < 2, 1, ratio)
    return x0_hat * (1 + share * (ratio - 1))


def total(x: Tensor) -> Tensor:
    """Sum over all but the first axis, (B, 1, ..., 1)."""
    return x.sum(tuple(range(1, x.ndim)), keepdim=True)


def spread_of(x: Tensor, real: Tensor) -> Tensor:
    """Standard deviation of each sample over its numbers where `real` is 1, (B, 1, ..., 1)."""
    count = total(real).clamp(min=1)
    mean = total(real * x) / count
    return (total(real * (x - mean).square()) / (count - 1).clamp(min=1)).sqrt()
