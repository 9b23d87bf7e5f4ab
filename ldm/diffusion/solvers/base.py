"""What a solver is, and the one loop that runs it.

A step returns x_s and the x0_hat it used. `past` holds the (t, x0_hat) of the steps before; it belongs to the loop, so a
solver has no state. t and s are 0-dim float64 on the CPU: coefficients are exact, x keeps its own dtype, and a GPU is
never waited for.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

from torch import Tensor

from ldm.diffusion.schedules import Schedule

Randn = Callable[[], Tensor]
Past = list[tuple[Tensor, Tensor]]
Step = tuple[Tensor, Tensor]


class Denoise(Protocol):
    """What a solver sees of a model: x_t, t -> x0_hat, and the schedule it was trained on."""

    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor: ...


class Solver:
    """A sampling method. Frozen dataclasses of settings; every one works for any law alpha_t, sigma_t."""

    def bind(self, schedule: Schedule, times: Tensor) -> "Solver":
        """What steps along this one loop's `times`: the solver itself, unless it must know them all beforehand."""
        return self

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        """x_t, (B, ...) -> x_s and the x0_hat at t; `randn()` draws noise of x_t's shape."""
        raise NotImplementedError


def sample(
    solver: Solver,
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    randn: Randn,
    watch: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Carry x from times[0] to times[-1]. `watch(step, x_s, x0_hat)` is called after every step."""
    past: Past = []
    solver = solver.bind(denoise.schedule, times)
    for i, (t, s) in enumerate(pairwise(times)):
        x, x0_hat = solver.step(denoise, x, t, s, randn, past)
        past = [*past[-3:], (t, x0_hat)]
        if watch is not None:
            watch(i, x, x0_hat)
    return x


def start(schedule: Schedule, t: Tensor, noise: Tensor) -> Tensor:
    """The prior at t = 1: x_1 = sigma_1 eps (alpha_1 x_0 is what the law forgets)."""
    return schedule(t)[1] * noise


class Counted:
    """A denoiser that counts its evaluations: `denoise = Counted(denoise)`, then `denoise.calls`."""

    def __init__(self, denoise: Denoise):
        self.denoise, self.schedule, self.calls = denoise, denoise.schedule, 0

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.denoise(x_t, t)
