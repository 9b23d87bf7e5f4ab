"""The area under the curve: how often numbers of one set are above those of another."""

import math

import numpy as np
from scipy.stats import rankdata


def area(low: np.ndarray, high: np.ndarray) -> float:
    """P(high > low) + P(high = low) / 2 over all pairs of two sets of numbers (Mann & Whitney)."""
    ranks = rankdata(np.concatenate([low, high]))
    above = ranks[len(low) :].sum() - len(high) * (len(high) + 1) / 2
    return float(above / (len(low) * len(high)))


def area_error(value: float, n: int, m: int) -> float:
    """The standard error of an area over n and m numbers (Hanley & McNeil 1982, eq. 2)."""
    most = max(value, 1 - value)
    q1, q2 = most / (2 - most), 2 * most**2 / (1 + most)
    spread = most * (1 - most) + (m - 1) * (q1 - most**2) + (n - 1) * (q2 - most**2)
    return math.sqrt(max(0.0, spread) / (n * m))
