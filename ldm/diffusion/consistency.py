"""Consistency: a denoiser that jumps from any x_t to the end of its probability-flow path.

f(x_t, t) = f(x_s, s) for all points of one path, and f(x_0, 0) = x_0 (Song et al. 2023,
"Consistency models", definition 1). A network that keeps this makes a sample in one evaluation.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser, Draw, Loss, eps_hat, mean_error, padded
from ldm.diffusion.schedules import Schedule, expand

BOUNDED = ("v", "edm", "velocity")
GROWING = 0.75  # share of training in which the grid grows; then it stays at its finest


@dataclass(frozen=True)
class Consistency(Loss):
    """sqrt(|f(x_t, t) - f(x_s, s)|^2 + c^2) - c, s one step of a grid below t.

    f is the denoiser itself: its coefficients make f(x_0, 0) = x_0 exact where v, edm or velocity
    is predicted. The target f(x_s, s) has no gradient; target: own, of the network itself (Song &
    Dhariwal 2024, "Improved techniques", section 3.2), or average, of its averaged weights (Song et
    al. 2023, algorithm 2). Their pseudo-Huber distance, eq. 7, of a mean over a sample's numbers.

    guidance: distillation from the frozen model of `init`, whose guided x0_hat carries x_t one step
    of DDIM to x_s (Song et al. 2023, eq. 7; Luo et al. 2023, "LCM", eq. 14); null: tuning without a
    teacher, x_s of the same x_0 and noise (Geng et al. 2024, "ECT", algorithm 1).
    first, last: steps of the uniform grid at the start and after three quarters of training,
    geometric in between. huber: c. Far above the error it is the squared error; far below, each
    sample counts alike.
    """

    guidance: float | None = 1.0
    first: int = 8
    last: int = 64
    huber: float = 1.0
    target: Literal["own", "average"] = "own"
    few: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.predict not in BOUNDED:
            raise ValueError(
                f"Consistency needs predict = {', '.join(BOUNDED)}: with {self.predict} the network"
                " is not x_0 at t = 0, or its error is divided by alpha_1 at t = 1"
            )
        if not 1 <= self.first <= self.last <= 10_000:
            said = f"first = {self.first}, last = {self.last}"
            raise ValueError(f"Consistency needs 1 <= first <= last <= 10000, got {said}")
        if not self.huber > 0:
            raise ValueError(f"huber must be above 0, got {self.huber}")

    @property
    def teachers_guidance(self) -> float | None:
        return self.guidance

    def bounded(self, schedule: Schedule) -> bool:
        """Whether f(x, 0) = x: velocity has infinite coefficients where sigma' is infinite at 0."""
        c_skip, c_out, _ = self.coefficients(schedule, torch.zeros((), dtype=torch.float64))
        return bool(c_skip == 1) and bool(c_out == 0)

    def pairs(self, schedule: Schedule, u: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """t and s, neighbours on the grid, of uniform u (B,); progress in [0, 1]."""
        grown = min(progress / GROWING, 1.0)
        steps = round(self.first * (self.last / self.first) ** grown)
        k = (self.times.quantile(schedule, u) * steps).floor().clamp(0, steps - 1)
        return (k + 1) / steps, k / steps

    def measure(self, denoiser: Denoiser, draw: Draw, **cond: Tensor) -> Tensor:
        schedule, mask = denoiser.schedule, cond.get("mask")
        t, s = self.pairs(schedule, draw.u, draw.progress)
        x_t = padded(noised(schedule, draw.x_0, draw.eps, t), mask)
        with torch.no_grad():
            if draw.teacher is None:
                x_s = noised(schedule, draw.x_0, draw.eps, s)
            else:
                x_s = carried(schedule, x_t, draw.teacher(x_t, t), t, s)
            with draw.averaged() if self.target == "average" else nullcontext():
                target = denoiser(padded(x_s, mask), s, **cond)
        error = mean_error((denoiser(x_t, t, **cond) - target).square(), mask)
        return (error + self.huber**2).sqrt() - self.huber


def noised(schedule: Schedule, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t = alpha_t x_0 + sigma_t eps; t (B,)."""
    alpha, sigma = schedule(t)
    return expand(alpha, x_0) * x_0 + expand(sigma, x_0) * eps


def carried(schedule: Schedule, x_t: Tensor, x0_hat: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s = alpha_s x0_hat + sigma_s eps_hat: DDIM's step, each row's own; t, s (B,)."""
    noise = eps_hat(x_t, x0_hat, *schedule(t))
    return noised(schedule, x0_hat, noise, s)
