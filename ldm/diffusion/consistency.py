"""Consistency: a denoiser that jumps from any x_t to the end of its probability-flow path.

f(x_t, t) = f(x_s, s) for all points of one path, and f(x_0, 0) = x_0 (Song et al. 2023,
"Consistency models", definition 1). A network that keeps this makes a sample in one evaluation.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser, Draw, Loss, eps_hat, mean_error, padded
from ldm.diffusion.schedules import Schedule, Spacing, expand

BOUNDED = ("v", "edm", "velocity")
GROWING = 0.75  # share of training in which the grid grows; then it stays at its finest


class Pairs(NamedTuple):
    """Times (B,): t, the middle of its step, the step's end s, and the segment's end e."""

    t: Tensor
    middle: Tensor
    s: Tensor
    e: Tensor


@dataclass(frozen=True)
class Consistency(Loss):
    """sqrt(|f(x_t, t) - f(x_s, s)|^2 + c^2) - c, s one step of a grid below t.

    f is the denoiser itself: its coefficients make f(x_0, 0) = x_0 exact where v, edm or velocity
    is predicted. The target f(x_s, s) has no gradient; target: own, of the network itself (Song &
    Dhariwal 2024, "Improved techniques", section 3.2), or average, of its averaged weights (Song et
    al. 2023, algorithm 2). Their pseudo-Huber distance, eq. 7, of a mean over a sample's numbers.

    guidance: distillation from the frozen model of `init`, whose guided x0_hat carries x_t to x_s
    by one step of the flow (Song et al. 2023, eq. 7; Luo et al. 2023, "LCM", eq. 14), of DDIM with
    order 1 and by the midpoint with order 2; null: tuning without a teacher, x_s of the same x_0
    and noise (Geng et al. 2024, "ECT", algorithm 1).
    first, last: steps of the grid at the start and after three quarters of training, geometric in
    between; grid: its spacing. `times` is the density of its steps. huber: c. Far above the error
    it is the squared error; far below, each sample counts alike.
    segments: 1 jumps to the data. With n, f jumps to the lower end e of the n-th of the grid that t
    is in: DDIM's step by f(x_t, t) from t to e ends where that by f(x_s, s) from s does (Heek et
    al. 2024, "Multistep consistency models", algorithm 1). It is sampled in n steps.
    """

    guidance: float | None = 1.0
    order: Literal[1, 2] = 1
    segments: int = 1
    grid: Literal["uniform", "angle"] = "uniform"
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
        if not 1 <= self.segments <= self.first:
            raise ValueError(
                f"segments must be 1 to first = {self.first} steps of the grid, got {self.segments}"
            )
        if not self.huber > 0:
            raise ValueError(f"huber must be above 0, got {self.huber}")

    @property
    def teachers_guidance(self) -> float | None:
        return self.guidance

    @property
    def pieces(self) -> int:
        return self.segments

    @property
    def spacing(self) -> Spacing:
        return self.grid

    def bounded(self, schedule: Schedule) -> bool:
        """Whether f(x, 0) = x: velocity has infinite coefficients where sigma' is infinite at 0."""
        c_skip, c_out, _ = self.coefficients(schedule, torch.zeros((), dtype=torch.float64))
        return bool(c_skip == 1) and bool(c_out == 0)

    def pairs(self, schedule: Schedule, u: Tensor, progress: float) -> Pairs:
        """Neighbours on the grid, of uniform u (B,); progress in [0, 1]."""
        grown = min(progress / GROWING, 1.0)
        each = max(round(self.first * (self.last / self.first) ** grown / self.segments), 1)
        steps = self.segments * each
        k = (self.times.quantile(schedule, u) * steps).floor().clamp(0, steps - 1).long()
        grid = schedule.grid(2 * steps, self.grid).flip(0).to(u)
        return Pairs(grid[2 * k + 2], grid[2 * k + 1], grid[2 * k], grid[k // each * each * 2])

    def measure(self, denoiser: Denoiser, draw: Draw, **cond: Tensor) -> Tensor:
        schedule, mask = denoiser.schedule, cond.get("mask")
        at = self.pairs(schedule, draw.u, draw.progress)
        x_t = padded(noised(schedule, draw.x_0, draw.eps, at.t), mask)
        with torch.no_grad():
            x_s = padded(self.neighbour(schedule, x_t, at, draw), mask)
            with draw.averaged() if self.target == "average" else nullcontext():
                target = denoiser(x_s, at.s, **cond)
            below = carried(schedule, x_s, target, at.s, at.e)  # 0 / 0 where s = e = 0
            x_e = torch.where(expand(at.s == at.e, x_s), x_s, below)
            target = padded(carrying(schedule, x_t, x_e, at.t, at.e), mask)
        error = mean_error((denoiser(x_t, at.t, **cond) - target).square(), mask)
        return (error + self.huber**2).sqrt() - self.huber

    def neighbour(self, schedule: Schedule, x_t: Tensor, at: Pairs, draw: Draw) -> Tensor:
        """x_s, one step down the path of x_t."""
        if draw.teacher is None:
            return noised(schedule, draw.x_0, draw.eps, at.s)
        x0_hat = draw.teacher(x_t, at.t)
        if self.order == 2:
            middle = carried(schedule, x_t, x0_hat, at.t, at.middle)
            x0_hat = draw.teacher(middle, at.middle)
        return carried(schedule, x_t, x0_hat, at.t, at.s)


def noised(schedule: Schedule, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t = alpha_t x_0 + sigma_t eps; t (B,)."""
    alpha, sigma = schedule(t)
    return expand(alpha, x_0) * x_0 + expand(sigma, x_0) * eps


def carried(schedule: Schedule, x_t: Tensor, x0_hat: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s = alpha_s x0_hat + sigma_s eps_hat: DDIM's step, each row's own; t, s (B,)."""
    noise = eps_hat(x_t, x0_hat, *schedule(t))
    return noised(schedule, x0_hat, noise, s)


def carrying(schedule: Schedule, x_t: Tensor, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The x0_hat by which `carried` goes from x_t to x_s: x_s - r x_t over alpha_s - r alpha_t,
    r = sigma_s / sigma_t. t, s (B,).
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    r = sigma_s / sigma_t
    return (x_s - expand(r, x_t) * x_t) / expand(alpha_s - r * alpha_t, x_t)
