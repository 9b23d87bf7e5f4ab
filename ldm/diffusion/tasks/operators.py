"""Linear operators A of measurements y = A x + n: what is left of a picture.

All here have A A^T = gram times the identity on their range, so that pseudo-inverse and posterior
are one line each.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d


class Operator(Protocol):
    """A: x (B, C, H, W) -> y, its transpose, and its pseudo-inverse A^+ = A^T / gram.

    gram: the number in A A^T.
    """

    @property
    def gram(self) -> float: ...

    def __call__(self, x: Tensor) -> Tensor: ...

    def transpose(self, y: Tensor) -> Tensor: ...

    def pinv(self, y: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Identity:
    """y = x + n: de-noising."""

    gram: ClassVar[float] = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return x

    transpose = pinv = __call__


@dataclass(frozen=True, eq=False)
class Mask:
    """y = x where `known` is 1, and 0 elsewhere: in-painting.

    `known` broadcasts against x: (B, 1, H, W) or (1, H, W).
    """

    known: Tensor
    gram: ClassVar[float] = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self.known > 0, x, 0)

    transpose = pinv = __call__


@dataclass(frozen=True)
class AveragePool:
    """Super-resolution: y = means of squares of `factor` pixels; ValueError unless it divides."""

    factor: int

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"AveragePool needs a factor of at least 1, got {self.factor}")

    @property
    def gram(self) -> float:
        return 1 / self.factor**2

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ValueError(
                f"a factor of {self.factor} does not divide {x.shape[-2]} x {x.shape[-1]} pixels"
            )
        return avg_pool2d(x, self.factor)

    def transpose(self, y: Tensor) -> Tensor:
        return self.pinv(y) * self.gram

    def pinv(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)
