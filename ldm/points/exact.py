"""Laws of points whose score, denoiser, density and posterior are known in closed form.

A mixture of Gaussians, and a finite data set (the optimum of training on it: what a network that
learnt its training set by heart would say). `exact_denoiser` makes a denoiser of a law, for every
solver, task, guidance and likelihood.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ldm.diffusion.schedules import Schedule

BLOCK = 2**22  # numbers of one table of distances


class Law(Protocol):
    """p(x_0) of points (D,), and what follows at noise: x_t = alpha x_0 + sigma eps.

    alpha and sigma are () or (B,).
    """

    def denoised(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x_t], (B, D)."""

    def log_density(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log p_t(x_t) in nats, (B,)."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Points of p(x_0), (count, D) float64."""

    def scaled(self, shift: Tensor, scale: Tensor) -> "Law":
        """The law of (x - shift) / scale; both (D,)."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """p(x_0) = sum_k w_k N(mu_k, C_k); means (K, D), covariances (K, D, D), weights (K,), float64.

    At noise p_t = sum_k w_k N(alpha mu_k, alpha^2 C_k + sigma^2): in the eigenvectors of C_k
    everything is one line.
    """

    means: Tensor
    covariances: Tensor
    weights: Tensor

    @classmethod
    def round(
        cls,
        means: Sequence[Sequence[float]],
        stds: Sequence[float],
        weights: Sequence[float] | None = None,
    ) -> "Mixture":
        """Of round Gaussians, C_k = std_k^2; equal weights by default."""
        mu, std = (torch.tensor(part, dtype=torch.float64) for part in (means, stds))
        w = torch.tensor([1.0] * len(mu) if weights is None else weights, dtype=torch.float64)
        units = torch.eye(mu.shape[1], dtype=torch.float64)
        return cls(mu, std.square()[:, None, None] * units, w / w.sum())

    @cached_property
    def axes(self) -> tuple[Tensor, Tensor]:
        """Variances (K, D) along the eigenvectors (K, D, D; columns) of each C_k."""
        values, vectors = torch.linalg.eigh(self.covariances)
        return values.clamp(min=0), vectors

    def _parts(
        self, x_t: Tensor, alpha: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log(w_k N(x_t; k)) (B, K); alpha; y (B, K, D) along the axes, and its variance."""
        values, vectors = (part.to(x_t.device) for part in self.axes)
        a, s = (part.double().reshape(-1, 1, 1).to(x_t.device) for part in (alpha, sigma))
        apart = x_t.double()[:, None] - a * self.means.to(x_t.device)
        y, variance = torch.einsum("bkd,kde->bke", apart, vectors), a**2 * values + s**2
        terms = y.square() / variance + variance.log() + math.log(2 * math.pi)
        return self.weights.to(x_t.device).log() - 0.5 * terms.sum(-1), a, y, variance

    def denoised(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """sum_k r_k (mu_k + alpha C_k (alpha^2 C_k + sigma^2)^-1 (x_t - alpha mu_k)).

        r_k is the probability of component k given x_t.
        """
        logs, a, y, variance = self._parts(x_t, alpha, sigma)
        values, vectors = (part.to(x_t.device) for part in self.axes)
        moved = torch.einsum("bke,kde->bkd", a * values / variance * y, vectors)
        return (logs.softmax(1)[..., None] * (self.means.to(x_t.device) + moved)).sum(1).to(x_t)

    def log_density(
        self, x_t: Tensor, alpha: Tensor = torch.ones(()), sigma: Tensor = torch.zeros(())
    ) -> Tensor:
        """log p_t(x_t) in nats, (B,) float64; by default of x_0 itself."""
        return self._parts(x_t, alpha, sigma)[0].logsumexp(1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return self.drawn(count, generator)[0]

    def drawn(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (count, D), and the component of each (count,)."""
        values, vectors = self.axes
        pick = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        along = values.sqrt()[pick] * noise
        return self.means[pick] + torch.einsum("be,bde->bd", along, vectors[pick]), pick

    def scaled(self, shift: Tensor, scale: Tensor) -> "Mixture":
        """The law of (x - shift) / scale; both (D,)."""
        shift, scale = shift.double().cpu(), scale.double().cpu()
        covariances = self.covariances / (scale[:, None] * scale)
        return replace(self, means=(self.means - shift) / scale, covariances=covariances)

    def only(self, k: int) -> "Mixture":
        """One component: the law of a class."""
        rows = slice(k, k + 1)
        return Mixture(self.means[rows], self.covariances[rows], torch.ones(1, dtype=torch.float64))

    def given(self, matrix: Tensor, y: Tensor, noise_std: float) -> "Mixture":
        """The posterior p(x_0 | y), y = A x_0 + n, n ~ N(0, noise_std^2): a mixture again.

        matrix A (M, D), y (M,). Of each component the Gaussian's posterior, mean
        mu + C A^T S^-1 (y - A mu) and covariance C - C A^T S^-1 A C with S = A C A^T + noise_std^2;
        its weight times N(y; A mu, S). ValueError where S has no inverse.
        """
        matrix, y = matrix.double(), y.double()
        spread = matrix @ self.covariances @ matrix.T  # (K, M, M)
        spread = spread + noise_std**2 * torch.eye(len(matrix), dtype=torch.float64)
        if not (torch.linalg.eigvalsh(spread) > 0).all():
            raise ValueError("a measurement of what has no spread, without noise")
        gain = torch.linalg.solve(spread, matrix @ self.covariances).mT  # (K, D, M)
        apart = y - self.means @ matrix.T
        law = torch.distributions.MultivariateNormal(torch.zeros_like(apart), spread)
        weights = (self.weights.log() + law.log_prob(apart)).softmax(0)
        means = self.means + torch.einsum("kdm,km->kd", gain, apart)
        covariances = self.covariances - gain @ matrix @ self.covariances
        return Mixture(means, (covariances + covariances.mT) / 2, weights)


@dataclass(frozen=True, eq=False)
class Finite:
    """The law of a finite data set, each of its points (N, D) with probability 1 / N.

    E[x_0 | x_t] = sum_i softmax_i(-|x_t - alpha x_i|^2 / (2 sigma^2)) x_i: where the loss of
    training has its minimum. As sigma -> 0 it is the nearest training point.
    """

    points: Tensor

    def _logs(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """-|x_t - alpha x_i|^2 / (2 sigma^2), (B, N) float64."""
        points = self.points.to(x_t.device).double()
        a, s = (part.double().reshape(-1, 1).to(x_t.device) for part in (alpha, sigma))
        x = x_t.double()
        squares = x.square().sum(1, keepdim=True) + a**2 * points.square().sum(1)
        return (a * (x @ points.T) - squares / 2) / s**2

    def _blocks(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> list[Tensor]:
        """`_logs` of so many rows at once as memory bears."""
        size = max(1, BLOCK // len(self.points))
        rows = [slice(i, i + size) for i in range(0, len(x_t), size)]
        own = lambda part, at: part[at] if part.ndim else part  # noqa: E731
        return [self._logs(x_t[at], own(alpha, at), own(sigma, at)) for at in rows]

    def denoised(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        points = self.points.to(x_t.device).double()
        found = [logs.softmax(1) @ points for logs in self._blocks(x_t, alpha, sigma)]
        return torch.cat(found).to(x_t)

    def log_density(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log p_t(x_t), sigma above 0: a kernel density estimate of width sigma."""
        sums = torch.cat([logs.logsumexp(1) for logs in self._blocks(x_t, alpha, sigma)])
        count, dim = self.points.shape
        return sums - math.log(count) - dim * (sigma.double().log() + 0.5 * math.log(2 * math.pi))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(self.points), (count,), generator=generator)
        return self.points[rows].double()

    def scaled(self, shift: Tensor, scale: Tensor) -> "Finite":
        """The law of (x - shift) / scale; both (D,)."""
        return Finite((self.points - shift.cpu()) / scale.cpu())


@dataclass(frozen=True, eq=False)
class ExactDenoiser:
    """`denoise(x_t, t)` = E[x_0 | x_t] of a law; with `label=` (B,) that of the class' own law.

    The label len(classes) is the null class, the whole law. It is bound by `cfg` as a trained
    denoiser is, so guidance is exact too.
    """

    law: Law
    schedule: Schedule
    classes: Sequence[Law] = field(default=())

    def __call__(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = self.schedule(t)
        if label is None:
            return self.law.denoised(x_t, alpha, sigma)
        found = torch.empty_like(x_t)
        for k in label.unique().tolist():
            rows, law = label == k, self.law if k == len(self.classes) else self.classes[k]
            own = (part[rows] if part.ndim else part for part in (alpha, sigma))
            found[rows] = law.denoised(x_t[rows], *own)
        return found


def exact_denoiser(law: Law, schedule: Schedule, classes: Sequence[Law] = ()) -> ExactDenoiser:
    """A denoiser that knows the law of the data; `classes`: the law of each class."""
    return ExactDenoiser(law, schedule, classes)
