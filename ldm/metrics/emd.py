"""Coverage and minimum matching distance by the energy mover's distance (Komiske, Metodiev & Thaler 2019, eq. 1)."""

import numpy as np

from ldm.errors import Refusal


def energy_movers_distance(a: np.ndarray, b: np.ndarray) -> float:
    """min_f sum_ij f_ij theta_ij / R + |sum pt_a - sum pt_b| for jets (n, 3) = eta, phi, pt, R = 1, as energyflow has it.

    The lighter jet gets one more particle with the missing pt at distance R from everything: one balanced transport.
    """
    ot = _transport()
    pt_a, pt_b = a[:, 2].astype(np.float64), b[:, 2].astype(np.float64)
    theta = np.hypot(a[:, None, 0] - b[None, :, 0], a[:, None, 1] - b[None, :, 1])
    padded = np.ones((len(a) + 1, len(b) + 1))
    padded[:-1, :-1], padded[-1, -1] = theta, 0
    missing = pt_b.sum() - pt_a.sum()
    scale = max(pt_a.sum(), pt_b.sum(), 1e-12)
    left, right = np.append(pt_a, max(missing, 0)), np.append(pt_b, max(-missing, 0))
    return scale * ot.emd2(left / left.sum(), right / right.sum(), padded)


def _transport() -> object:
    try:
        import ot
    except ImportError:
        raise Refusal("coverage and MMD need the exact optimal transport of POT: pip install POT") from None
    return ot


def cov_mmd(
    real: list[np.ndarray], generated: list[np.ndarray], seed: int = 0, size: int = 100, batches: int = 10
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Coverage and MMD, each with the standard deviation over batches, by JetNet's protocol.

    Of `size` real and generated jets, drawn with replacement: coverage is the share of real jets that are some generated
    jet's nearest, MMD the mean distance of a real jet to its nearest generated one. Both depend on `size`: name it.
    Jets are arrays (n, 3) of their real constituents alone; pt must not be negative.
    """
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(batches):
        rows = rng.choice(len(real), size), rng.choice(len(generated), size)
        table = np.array([[energy_movers_distance(generated[j], real[i]) for i in rows[0]] for j in rows[1]])
        values.append((len(np.unique(table.argmin(1))) / size, table.min(0).mean()))
    means, stds = np.mean(values, 0), np.std(values, 0)
    return (float(means[0]), float(stds[0])), (float(means[1]), float(stds[1]))
