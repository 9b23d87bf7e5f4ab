"""An optimiser step of which it is not known yet whether its gradient was finite.

To ask the device at once is to wait for it in every step. So the device itself leaves out a step
whose gradient is not finite (`found_inf` of PyTorch's fused optimisers, made for its GradScaler),
and the host asks one step later, before the next step changes the weights. Until then what the
host counts and averages waits too: a step that is refused has changed nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from ldm.errors import NotFinite
from ldm.system.device import Later

Noted = tuple[dict[str, Tensor], Tensor]  # a micro-batch's losses and the rows of its data


def guard(optimizers: Sequence[Optimizer], norms: Tensor) -> Tensor:
    """Let the device leave out the optimisers' step unless all norms are finite: 0, or 1."""
    bad = (~norms.isfinite().all()).float()
    for optimizer in optimizers:
        optimizer.found_inf = bad  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
    return bad


@dataclass
class Unsettled:
    """The step that began at global step `number`."""

    number: int
    norms: Later
    noted: list[Noted]

    def bad(self) -> float | None:
        """A gradient's norm that is not finite, if there is one."""
        norms = self.norms.read()
        return None if norms.isfinite().all() else float(norms[~norms.isfinite()][0])

    def refusal(self, norm: float) -> NotFinite:
        """What was in it."""
        found = [noted for noted in self.noted if not _finite(noted[0])] or self.noted
        said = "; ".join(
            f"{', '.join(f'{k} {v.mean():.4g}' for k, v in parts.items())}, rows {i[:8].tolist()}"
            for parts, i in found
        )
        saved = "the state before this step is saved: " if self.number else ""
        return NotFinite(
            f"the gradient is not finite ({norm:.4g}) at step {self.number}: {said}; "
            f"{saved}lower optim.lr{' and --resume' if saved else ''}, or set trainer.on_nan=skip"
        )


def _finite(parts: dict[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in parts.values())
