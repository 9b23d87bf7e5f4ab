"""The learning rate of a step."""

import math

from ldm.config import Optim


def learning_rate(optim: Optim, step: int, max_steps: int) -> float:
    """Linear warm-up, then constant, cosine or linear to 0 at max_steps: a function of the step."""
    warm = min(1.0, (step + 1) / max(1, optim.warmup))
    left = min(1.0, max(0.0, (max_steps - step) / max(1, max_steps - optim.warmup)))
    cosine = 0.5 - 0.5 * math.cos(math.pi * left)
    return optim.lr * warm * {"constant": 1.0, "linear": left, "cosine": cosine}[optim.decay]
