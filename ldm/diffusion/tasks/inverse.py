"""Inverse problems y = A x + n without training: the posterior's x0_hat from the prior's.

With E[x_0 | x_t] = x0_hat and Cov[x_0 | x_t] = S, Gaussian, the posterior's mean is
x0_hat + S A^T (A S A^T + s^2)^-1 (y - A x0_hat). The functions differ in what they take for S.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.diffusion.schedules import Schedule, expand
from ldm.diffusion.solvers import Denoise, Diffusers, Solver
from ldm.diffusion.solvers.base import Past, Randn, Step
from ldm.diffusion.solvers.ddpm import transition
from ldm.diffusion.tasks.operators import Operator


@dataclass
class Posterior:
    """A denoiser made of a denoiser, for one batch of measurements y."""

    denoise: Denoise
    operator: Operator
    y: Tensor

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule


@dataclass
class Projected(Posterior):
    """See `project`."""

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        x0_hat = self.denoise(x_t, t)
        return x0_hat + self.operator.pinv(self.y - self.operator(x0_hat))


def project(denoise: Denoise, operator: Operator, y: Tensor) -> Projected:
    """A^+ y + (I - A^+ A) x0_hat: A x = y exactly, no noise (Wang et al. 2023, DDNM, eq. 13).

    In latents with a mask it is the blend of known and made at every step.
    """
    return Projected(denoise, operator, y)


@dataclass
class Measured(Posterior):
    """See `guide`."""

    noise_std: float
    covariance: Callable[[Tensor], Tensor] | None
    std: float

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        if self.covariance is None:
            return self.pseudo_inverse(x_t, t)
        return self.exact(x_t, t, self.covariance(t).to(x_t))

    def pseudo_inverse(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule(t)
        r2 = posterior_variance(alpha, sigma, self.std)
        weight = 1 / (r2 * self.operator.gram + self.noise_std**2)
        if forgotten(alpha, sigma, self.std):
            x0_hat = self.denoise(x_t, t)
            return x0_hat + r2 * weight * self.operator.transpose(self.y - self.operator(x0_hat))
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.detach().clone().requires_grad_()
            x0_hat = self.denoise(x, t)
            towards = self.operator.transpose(self.y - self.operator(x0_hat.detach()))
            pull = torch.autograd.grad(x0_hat, x, towards)[0]
        return x0_hat.detach() + (sigma**2 / alpha * weight).to(x_t) * pull

    def exact(self, x_t: Tensor, t: Tensor, cov: Tensor) -> Tensor:
        x0_hat = self.denoise(x_t, t)
        units = torch.eye(cov.shape[0], dtype=cov.dtype, device=cov.device)
        matrix = self.operator(units.reshape(-1, *x_t.shape[1:])).flatten(1)  # A^T
        inner = matrix.T @ cov @ matrix
        inner.diagonal().add_(self.noise_std**2)
        # without noise a mask's rows may be 0, and there is no inverse
        solved = (
            torch.linalg.solve(inner, matrix.T)
            if self.noise_std
            else torch.linalg.pinv(inner, hermitian=True) @ matrix.T
        )
        gain = solved @ cov
        return x0_hat + ((self.y - self.operator(x0_hat)).flatten(1) @ gain).reshape(x_t.shape)


def guide(
    denoise: Denoise,
    operator: Operator,
    y: Tensor,
    noise_std: float = 0.0,
    covariance: Callable[[Tensor], Tensor] | None = None,
    std: float = 1.0,
) -> Measured:
    """Posterior of y = A x + n, n ~ N(0, noise_std^2), for one batch.

    Without `covariance`, pseudo-inverse guidance (Song et al. 2023, eq. 7): the score gains the
    gradient of log N(y; A x0_hat, r^2 A A^T + noise_std^2), r^2 = `posterior_variance` of
    data of standard deviation `std`; in x0_hat that is
    sigma^2 / alpha J^T A^T (r^2 A A^T + noise_std^2)^-1 (y - A x0_hat), J = d x0_hat / d x_t:
    a backward pass a call. With covariance(t) = Cov[x_0 | x_t], (D, D) over the flattened x: the
    exact posterior mean for Gaussian data.
    """
    return Measured(denoise, operator, y, noise_std, covariance, std)


def forgotten(alpha: Tensor, sigma: Tensor, std: float = 1.0) -> bool:
    """Whether x_t is nearly independent of x_0.

    Then Cov[x_0 | x_t] is the data's own, within a four-hundredth. Tweedie's sigma^2 / alpha
    d x0_hat / d x_t tends to it for the true denoiser, but divides a network's error by alpha.
    """
    return bool(alpha * std < 0.05 * sigma)


def posterior_variance(alpha: Tensor, sigma: Tensor, std: float) -> Tensor:
    """r^2 = Var[x_0 | x_t] = std^2 sigma^2 / (alpha^2 std^2 + sigma^2) of Gaussian data.

    Song et al. 2023, eq. 11.
    """
    return (std * sigma) ** 2 / ((alpha * std) ** 2 + sigma**2)


@dataclass
class Through(Posterior):
    """See `guide_through`."""

    decode: Callable[[Tensor], Tensor]
    noise_std: float
    steps: int

    @torch.inference_mode(False)
    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule(t)
        far = forgotten(alpha, sigma)
        with torch.enable_grad():
            x = x_t.detach().clone().requires_grad_()
            x0_hat = self.denoise(x, t)
            if far:
                x0_hat = x = x0_hat.detach().requires_grad_()
            seen = self.operator(self.decode(x0_hat))
        x0_hat, residual = x0_hat.detach(), self.y - seen.detach()
        scale = posterior_variance(alpha, sigma, 1.0) if far else sigma**2 / alpha

        def pull(v: Tensor) -> Tensor:
            return scale.to(v) * torch.autograd.grad(seen, x, v, retain_graph=True)[0]

        def inner(v: Tensor) -> Tensor:
            return self.push(x0_hat, seen.detach(), pull(v)) + self.noise_std**2 * v

        with torch.no_grad():
            return x0_hat + pull(conjugate_gradients(inner, residual, self.steps))

    def push(self, x0_hat: Tensor, seen: Tensor, d: Tensor) -> Tensor:
        """B d by a finite difference: fused attention has no derivatives in forward mode."""
        h = 1e-2 / dot(d, d).div(d[0].numel()).sqrt().clamp(min=1e-20)
        return (self.operator(self.decode(x0_hat + h * d)) - seen) / expand(h.flatten(), seen)


def guide_through(
    denoise: Denoise,
    decode: Callable[[Tensor], Tensor],
    operator: Operator,
    y: Tensor,
    noise_std: float,
    steps: int = 3,
) -> Through:
    """Posterior of y = A D(x_0) + n for latents x_0 and their decoder D, by both gradients.

    x0_hat + S B^T (B S B^T + noise_std^2)^-1 (y - A D(x0_hat)) with B = d A D / d x0_hat and
    S = sigma^2 / alpha J, J = d x0_hat / d x_t, the covariance that Tweedie's second formula gives;
    the inverse within `steps` conjugate gradients (Rozet et al. 2024, MMPS, eqs. 10-14, there for
    D = 1). Where x_t is next to noise S is that of whitened latents, 1. noise_std > 0, at least D's
    own error: no latent decodes to y exactly. Exact for Gaussian latents and a linear D.
    """
    if not noise_std > 0:
        raise ValueError(f"guide_through needs noise_std above 0, got {noise_std}")
    return Through(denoise, operator, y, decode, noise_std, steps)


def conjugate_gradients(matrix: Callable[[Tensor], Tensor], b: Tensor, steps: int) -> Tensor:
    """v with matrix(v) = b, row by row, within `steps`.

    A row ends where the matrix is not positive, as a network's may be.
    """
    v, left, search, size = torch.zeros_like(b), b, b, dot(b, b)
    for _ in range(steps):
        bent = matrix(search)
        curve = dot(search, bent)
        length = torch.where(curve > 0, size / curve.clamp(min=1e-20), 0)
        v, left = v + length * search, left - length * bent
        before, size = size, dot(left, left)
        search = left + size / before.clamp(min=1e-20) * search
    return v


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Each sample's inner product, (B, 1, ..., 1)."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)


@dataclass(frozen=True)
class Repaint(Solver):
    """RePaint's resampling around a solver (Lugmayr et al. 2022, algorithm 1).

    After a step from t to s the result is noised back to t and the step is taken again, `resamples`
    times in all, so that what is made and what is known agree. Their jumps go 10 steps of 250 back;
    ours one step of a coarser grid. ValueError for Diffusers, whose schedulers count their steps.
    """

    solver: Solver
    resamples: int = 4

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise ValueError(f"Repaint needs resamples of at least 1, got {self.resamples}")
        if isinstance(self.solver, Diffusers):
            raise ValueError("Repaint cannot take a step of Diffusers twice: use another solver")

    def bind(self, schedule: Schedule, times: Tensor) -> Solver:
        return Repaint(self.solver.bind(schedule, times), self.resamples)

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        x_s, x0_hat = self.solver.step(denoise, x_t, t, s, randn, past)
        a, b2 = transition(*denoise.schedule(t), *denoise.schedule(s))
        for _ in range(
            self.resamples - 1 if s > 0 else 0
        ):  # the data themselves are not noised again
            x_t = a * x_s + b2.sqrt() * randn()
            x_s, x0_hat = self.solver.step(denoise, x_t, t, s, randn, past)
        return x_s, x0_hat
