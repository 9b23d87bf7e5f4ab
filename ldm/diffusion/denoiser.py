"""The denoiser: a network made into an estimate of x_0, and its loss.

x0_hat = c_skip x_t + c_out net(c_in x_t, c_noise) (Karras et al. 2022, eq. 7). What a network
"predicts" (eps, x0, v, EDM, velocity, score) is no more than the coefficients, so solvers and tasks
never ask which it was.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from torch import Tensor, nn

from ldm.diffusion.predictions import PREDICTIONS, Coefficients
from ldm.diffusion.schedules import Schedule, Spacing, expand
from ldm.diffusion.times import Importance, LogitNormal, LogNormal, Uniform
from ldm.diffusion.weights import EDM, MaximumLikelihood, MinSNR, One


class Teacher(Protocol):
    """A frozen denoiser bound to the condition of a micro-batch: x_t (B, ...), t (B,) -> x0_hat."""

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Draw:
    """What a loss is taken of: x_0 and eps (B, ...), uniform u (B,), the share of training done."""

    x_0: Tensor
    u: Tensor
    eps: Tensor
    progress: float = 0.0
    teacher: Teacher | None = None
    averaged: Callable[[], AbstractContextManager[None]] = nullcontext  # inside: averaged weights


@dataclass(frozen=True)
class Loss:
    """The prediction target, the loss weight of each time, and how training draws times."""

    predict: Literal["eps", "x0", "v", "edm", "velocity", "score"] = "v"
    weight: One | MinSNR | EDM | MaximumLikelihood = field(default_factory=One)
    times: Uniform | LogitNormal | LogNormal | Importance = field(default_factory=Uniform)
    std: float = 0.5  # of the data, for predict = edm; 1 for whitened latents
    few: ClassVar[bool] = False  # whether it makes a model of a few steps, for solver Consistency

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be above 0, got {self.std}")

    def coefficients(
        self, schedule: Schedule, t: Tensor, law: tuple[Tensor, Tensor] | None = None
    ) -> Coefficients:
        """c_skip, c_out, c_in of what is predicted, of t's shape; `law`: schedule(t), if known."""
        more = {"edm": lambda: (self.std,), "velocity": lambda: schedule.rates(t)}.get(
            self.predict, tuple
        )
        return PREDICTIONS[self.predict](*(law or schedule(t)), *more())

    def weigh(self, schedule: Schedule, t: Tensor, c_out: Tensor | None = None) -> Tensor:
        """Weight of the squared error in the network's output space: 1 is L_simple for eps.

        c_out: its coefficient at t, if known.
        """
        c_out = self.coefficients(schedule, t)[1] if c_out is None else c_out
        return self.weight.weigh(schedule, t, self.times.weight(schedule, t), c_out)

    @property
    def teachers_guidance(self) -> float | None:
        """Of the teacher that it needs; None where it needs none."""
        return None

    @property
    def pieces(self) -> int:
        """Segments of the path that each need a step of their own."""
        return 1

    @property
    def spacing(self) -> Spacing:
        """Of the grid that its segments end on."""
        return "auto"

    def bounded(self, schedule: Schedule) -> bool:
        """Whether the denoiser is as exact at t = 0 as the loss needs."""
        return True

    def measure(self, denoiser: "Denoiser", draw: Draw, **cond: Tensor) -> Tensor:
        """The loss of a micro-batch, one value a sample: (B,)."""
        return denoiser.loss(draw.x_0, denoiser.times(draw.u), draw.eps, **cond)


class Denoiser(nn.Module):
    """`forward(x_t, t, **cond) -> x0_hat` around a network `net(x, c_noise, **cond)`.

    x_t: (B, ...); t: () or (B,); the condition's tensors have B rows. c_noise = 1000 t, because the
    time embeddings of diffusers' networks have their frequencies chosen for 0 ... 1000.
    """

    def __init__(self, net: nn.Module, schedule: Schedule, loss: Loss = Loss()):
        super().__init__()
        self.net, self.schedule, self.loss_config = net, schedule, loss

    def coefficients(self, t: Tensor) -> Coefficients:
        """c_skip, c_out, c_in at time t, of t's shape."""
        return self.loss_config.coefficients(self.schedule, t)

    def times(self, u: Tensor) -> Tensor:
        """Training times for uniform numbers u in [0, 1)."""
        return self.loss_config.times.quantile(self.schedule, u)

    def run(self, x_t: Tensor, t: Tensor, c_in: Tensor, **cond: Tensor) -> Tensor:
        """The raw network, fed in its own units."""
        return self.net(expand(c_in, x_t) * x_t, noise_levels(t, x_t), **cond)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        c_skip, c_out, c_in = self.coefficients(t)
        skipped = expand(c_skip, x_t) * x_t  # before the network: gradients add up in this order
        return skipped + expand(c_out, x_t) * self.run(x_t, t, c_in, **cond).to(x_t.dtype)

    def loss(
        self, x_0: Tensor, t: Tensor, eps: Tensor, mask: Tensor | None = None, **cond: Tensor
    ) -> Tensor:
        """Weighted squared error in the network's output space, one value a sample: (B,).

        weight(t) (net - target)^2 with target = (x_0 - c_skip x_t) / c_out, x_t = alpha x_0 + sigma
        eps: algorithm 1 of Ho et al. 2020, whose last line is `predict = eps, weight = one`. The
        target is multiplied out, so that nothing is subtracted that cancels.

        mask: (B, N), true for the real constituents of point clouds x_0 (B, N, F). The network is
        given it as `mask=`, and x_t = 0 at the padding; the error is the mean over what is real, 0
        for a cloud of none.
        """
        alpha, sigma = law = self.schedule(t)
        c_skip, c_out, c_in = self.loss_config.coefficients(self.schedule, t, law)
        x_t = expand(alpha, x_0) * x_0 + expand(sigma, x_0) * eps
        of_x_0, of_eps = (1 - c_skip * alpha) / c_out, c_skip * sigma / c_out
        target = expand(of_x_0, x_0) * x_0 - expand(of_eps, x_0) * eps
        if mask is not None:
            mask = mask.bool()
            x_t, cond = padded(x_t, mask), cond | {"mask": mask}
        error = (self.run(x_t, t, c_in, **cond).to(target.dtype) - target).square()
        return self.loss_config.weigh(self.schedule, t, c_out) * mean_error(error, mask)


def padded(x: Tensor, mask: Tensor | None) -> Tensor:
    """x with 0 where the mask (B, N) of clouds (B, N, F) is false."""
    return x if mask is None else x.masked_fill(~mask.bool()[..., None], 0)


def noise_levels(t: Tensor, x_t: Tensor) -> Tensor:
    """c_noise = 1000 t of x_t's kind, (B,). A solver's t on the CPU is filled in, not copied.

    A copy to a GPU would be waited for at each call; a fill takes the number along.
    """
    if t.ndim or t.device == x_t.device:
        return (1000 * t).to(x_t).expand(len(x_t))
    return x_t.new_full((len(x_t),), float(1000 * t))


def mean_error(error: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over all but the first axis, (B,); with a mask (B, N) of the real rows of (B, N, F)."""
    if mask is None:
        return error.flatten(1).mean(1)
    # filled, not multiplied: padding may be anything
    real = padded(error, mask).flatten(1).sum(1)
    return real / (mask.sum(1) * error.shape[-1]).clamp(min=1)


def eps_hat(x_t: Tensor, x0_hat: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise that x0_hat implies: (x_t - alpha x0_hat) / sigma."""
    return (x_t - expand(alpha, x_t) * x0_hat) / expand(sigma, x_t)


def score(x_t: Tensor, x0_hat: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """grad log p_t(x_t) = -eps_hat / sigma (Tweedie; Vincent 2011, eq. 9)."""
    return -eps_hat(x_t, x0_hat, alpha, sigma) / expand(sigma, x_t)


def velocity(
    x_t: Tensor,
    x0_hat: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    alpha_rate: Tensor,
    sigma_rate: Tensor,
) -> Tensor:
    """d x_t / dt = alpha' x0_hat + sigma' eps_hat: flow matching's, the probability-flow ODE's.

    Lipman et al. 2023, eq. 10; Song et al. 2021, eq. 13.
    """
    noise = eps_hat(x_t, x0_hat, alpha, sigma)
    return expand(alpha_rate, x_t) * x0_hat + expand(sigma_rate, x_t) * noise
