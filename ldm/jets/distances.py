"""Distances of jets' features: Frechet and kernel physics distance (Kansal et al. 2023)."""

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import curve_fit
from scipy.stats import iqr

from ldm.system.progress import shown


def frechet(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """Frechet distance of two Gaussians: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^{1/2}), float64.

    tr (C1 C2)^{1/2} is the sum of the roots of the eigenvalues of C1^{1/2} C2 C1^{1/2}: symmetric,
    so that no imaginary part has to be thrown away.
    """
    values, vectors = eigh(cov1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(eigh(root @ cov2 @ root, eigvals_only=True).clip(0)).sum()
    return float(np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross)


def mean_and_cov(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of rows."""
    return features.mean(0), np.cov(features, rowvar=False)


def normalised(real: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both over the real sample's largest absolute value of each feature: a tail sets the scale."""
    largest = np.abs(real).max(0)
    largest[largest == 0] = 1
    return real / largest, generated / largest


def fpd(
    real: np.ndarray,
    generated: np.ndarray,
    seed: int = 42,
    smallest: int = 20_000,
    largest: int = 50_000,
    quiet: bool = True,
) -> tuple[float, float]:
    """Frechet physics distance of (N, F) features, and its error, by JetNet's protocol.

    At 10 sample sizes evenly spaced in 1/N, 20 draws each with replacement; a line through the
    means against 1/N, its intercept and slope kept above 0, and the intercept is quoted. With less
    than `largest` jets the draws repeat jets: the intercept then is above 0 also between two real
    samples, so compare with a floor of the same sizes.
    """
    real, generated = normalised(real, generated)
    sizes = (1 / np.linspace(1 / smallest, 1 / largest, 10)).astype(int)
    rng = np.random.default_rng(seed)

    def draw(x: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Moments of n rows drawn with replacement, at the cost of the rows there are."""
        times = np.bincount(rng.choice(len(x), n), minlength=len(x))
        return times @ x / n, np.cov(x, rowvar=False, fweights=times)

    values = [
        frechet(*draw(real, n), *draw(generated, n))
        for n in shown(np.repeat(sizes, 20), "FPD", quiet)
    ]
    means = np.reshape(values, (-1, 20)).mean(1)
    line, errors = curve_fit(
        lambda x, a, b: a + b * x, 1 / sizes, means, bounds=([0, 0], [np.inf, np.inf])
    )
    return float(line[0]), float(np.sqrt(errors[0, 0]))


def kernel_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD^2 of rows (n, F), (m, F) by (x.y / F + 1)^4 (Gretton et al. 2012, eq. 3)."""
    times = np.ones(len(x)), np.ones(len(y))
    return _within(x, times[0]) + _within(y, times[1]) - 2 * _mean(x, times[0], y, times[1])


def _kernel_sum(x: np.ndarray, times: np.ndarray, y: np.ndarray, y_times: np.ndarray) -> float:
    """Sum of the kernel over all pairs of rows, of which each stands there so many times."""
    kernel = x @ y.T
    kernel /= x.shape[1]
    kernel += 1
    np.square(kernel, out=kernel)
    np.square(kernel, out=kernel)
    return float(times @ kernel @ y_times)


def _mean(x: np.ndarray, times: np.ndarray, y: np.ndarray, y_times: np.ndarray) -> float:
    return _kernel_sum(x, times, y, y_times) / (times.sum() * y_times.sum())


def _within(x: np.ndarray, times: np.ndarray) -> float:
    """Mean over pairs of two different draws."""
    n, itself = times.sum(), times @ np.square(np.square(np.square(x).sum(1) / x.shape[1] + 1))
    return (_kernel_sum(x, times, x, times) - float(itself)) / (n * (n - 1))


def kpd(
    real: np.ndarray,
    generated: np.ndarray,
    seed: int = 42,
    size: int = 5_000,
    batches: int = 10,
    quiet: bool = True,
) -> tuple[float, float]:
    """KPD: median and half the 16-84 % range of `kernel_mmd` over batches; may be below 0."""
    real, generated = normalised(real, generated)
    values = []
    for i in shown(range(batches), "KPD", quiet):
        rng = np.random.default_rng(seed + 1000 * i)
        x, n, y, m = (*_drawn(real, size, rng), *_drawn(generated, size, rng))
        values.append(_within(x, n) + _within(y, m) - 2 * _mean(x, n, y, m))
    return float(np.median(values)), float(iqr(values, rng=(16.275, 83.725)) / 2)


def _drawn(x: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows drawn with replacement, each once, and how often it was."""
    times = np.bincount(rng.choice(len(x), size), minlength=len(x))
    return x[times > 0], times[times > 0].astype(float)
