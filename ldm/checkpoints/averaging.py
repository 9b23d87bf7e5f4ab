"""Averages of weights over training, of exponential and of power profiles.

A power profile weighs the weights of step u, seen from step t, by u^gamma (Karras et al. 2024
"EDM2", eq. 1); its relative width is its standard deviation over t. Two such averages, kept at a
few steps, are a basis from which the average of another width is found by least squares (section
3.2, algorithm 3).
"""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ldm.checkpoints.weights import Weights
from ldm.errors import Refusal

WIDTHS = (0.05, 0.10)  # of the two that are kept (EDM2's choice)
Profile = tuple[int, float]  # step, relative width


def exponential_share(decay: float, n: int) -> float:
    """Share of the new weights in update n = 0, 1, ...: 1 - min(decay, (1 + n) / (10 + n))."""
    return 1 - min(decay, (1 + n) / (10 + n))


def exponent(width: float) -> float:
    """gamma of width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) (EDM2, eq. 126)."""
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def power_share(width: float, n: int) -> float:
    """Share of the new weights in update n = t - 1: 1 - (1 - 1/t)^(gamma + 1) (EDM2, eq. 127)."""
    return 1 - (1 - 1 / (n + 1)) ** (exponent(width) + 1)


def correlation(a: Profile, b: Profile) -> float:
    """Inner product of two power profiles, each of integral 1 (EDM2, appendix C.2)."""
    (step_a, width_a), (step_b, width_b) = a, b
    gamma_a, gamma_b = exponent(width_a), exponent(width_b)
    power = gamma_b if step_a < step_b else -gamma_a
    ratio = (step_a / step_b) ** power
    return (gamma_a + 1) * (gamma_b + 1) * ratio / ((gamma_a + gamma_b + 1) * max(step_a, step_b))


def coefficients(kept: Sequence[Profile], wanted: Profile) -> np.ndarray:
    """How much of each kept average makes the wanted one, by least squares.

    They sum to 1 (EDM2, algorithm 3).
    """
    matrix = np.array([[correlation(a, b) for b in kept] for a in kept])
    found = np.linalg.lstsq(matrix, np.array([correlation(a, wanted) for a in kept]), rcond=None)[0]
    return found / found.sum()


def write_snapshot(folder: Path, step: int, averages: dict[float, Weights]) -> Path:
    """snapshots/<step>.safetensors with the two averages of a step; whole or not at all."""
    path = folder / f"{step:08d}.safetensors"
    beside = path.with_suffix(".partial")
    folder.mkdir(parents=True, exist_ok=True)
    flat = {
        f"{width}/{name}": w.cpu().contiguous()
        for width, weights in averages.items()
        for name, w in weights.items()
    }
    try:
        save_file(flat, beside)
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:  # the latter of a full disk too
        beside.unlink(missing_ok=True)
        number = errno.ENOSPC if "space" in str(error).lower() else errno.EIO
        raise OSError(number, str(error), str(path)) from None
    return path


def _read(path: Path) -> dict[float, Weights]:
    """The averages in a snapshot by their width; the file is mapped, not loaded."""
    try:
        with safe_open(path, "pt") as file:
            found: dict[float, Weights] = {}
            for key in file.keys():  # noqa: SIM118  (a safetensors file is no dict)
                width, name = key.split("/", 1)
                found.setdefault(float(width), {})[name] = file.get_tensor(key)
            return found
    except (SafetensorError, OSError, ValueError) as error:
        raise Refusal(
            f"--weights: snapshot {path} is damaged ({error}); move it away to do without it"
        ) from None


def _each(
    files: Iterable[Path], step: int, now: dict[float, Weights]
) -> Iterator[tuple[int, dict[float, Weights]]]:
    for path in files:
        yield int(path.stem), _read(path)
    yield step, now


def reconstruct(folder: Path, step: int, now: dict[float, Weights], width: float) -> Weights:
    """The power average of `width` at `step`, of those kept then and before (EDM2, section 3.2).

    Summed in float64, a file at a time: together they may be larger than memory. Refusal if a file
    is damaged.
    """
    if not 0.01 <= width <= 0.25:
        raise Refusal(f"--weights: a relative width is between 0.01 and 0.25, got {width:g}")
    if not now:
        raise Refusal(
            f"--weights ema:{width:g}: this run kept no power averages; train with optim.posthoc=N"
        )
    files = [
        p
        for p in sorted(folder.glob("*.safetensors"))
        if p.stem.isdecimal() and 0 < int(p.stem) < step
    ]
    kept = [(int(p.stem), w) for p in files for w in WIDTHS] + [(step, w) for w in now]
    shares = dict(zip(kept, coefficients(kept, (step, width)), strict=True))
    total: Weights = {}
    for at, averages in _each(files, step, now):
        for kept_width, weights in averages.items():
            for name, w in weights.items():
                part = w.double() * shares[at, kept_width]
                total[name] = total[name] + part if name in total else part
    return {name: w.float() for name, w in total.items()}
