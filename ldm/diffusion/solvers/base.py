"""What a solver is, and the one loop that runs it.

A step returns x_s and the x0_hat it used. `past` holds the (t, x0_hat) of the steps before; it
belongs to the loop, so a solver has no state. t and s are 0-dim float64 on the CPU: coefficients
are exact, x keeps its own dtype, and a GPU is never waited for.
"""

from itertools import pairwise
from typing import ClassVar, Protocol

from torch import Tensor

from ldm.diffusion.schedules import Schedule

Past = list[tuple[Tensor, Tensor]]  # (t, x0_hat) of the steps before, the newest last
Step = tuple[Tensor, Tensor]  # x_s, x0_hat


class Denoise(Protocol):
    """What a solver sees of a model: x_t (B, ...), t () -> x0_hat, and its schedule."""

    @property
    def schedule(self) -> Schedule: ...

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Tensor: ...


class Randn(Protocol):
    """Standard normal noise of x_t's shape, new at every call."""

    def __call__(self) -> Tensor: ...


class Watch(Protocol):
    """Called after every step, with its index from 0, x_s and x0_hat."""

    def __call__(self, step: int, x_s: Tensor, x0_hat: Tensor, /) -> object: ...


class Solver:
    """A sampling method for any law alpha_t, sigma_t: a frozen dataclass of its settings."""

    few: ClassVar[bool] = False  # whether it is for models of a few steps, and for them alone

    @property
    def pieces(self) -> int:
        """The segments that its student was trained for, each a step."""
        return 1

    def bind(self, schedule: Schedule, times: Tensor) -> "Solver":
        """What takes the steps along `times`: the solver itself, unless it must know them all."""
        return self

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        """x_t (B, ...) at t -> x_s at s < t, and the x0_hat at t."""
        raise NotImplementedError


def sample(
    solver: Solver,
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    randn: Randn,
    watch: Watch | None = None,
) -> Tensor:
    """Carry x (B, ...) from times[0] to times[-1], of `schedule.grid`; `watch` sees every step."""
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
    """A denoiser that counts its calls: `denoise = Counted(denoise)`, then `denoise.calls`."""

    def __init__(self, denoise: Denoise):
        self.denoise, self.schedule, self.calls = denoise, denoise.schedule, 0

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.denoise(x_t, t)
