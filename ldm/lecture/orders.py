"""9. The order of every solver, and what an error costs."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.exact import flow, flow_errors, slopes
from ldm.diffusion.schedules import Cosine, Schedule
from ldm.diffusion.solvers import DDIM, DPMpp2M, DPMpp3M, Euler, Heun, Solver
from ldm.lecture.base import Made
from ldm.lecture.data import few, plane
from ldm.points.exact import ExactDenoiser, exact_denoiser
from ldm.system.plots import picture, plain_ticks, say, sheet, styled

SOLVERS: dict[str, tuple[Solver, int]] = {
    "DDIM": (DDIM(), 1),
    "Euler": (Euler(), 1),
    "Heun": (Heun(), 2),
    "DPM++2M": (DPMpp2M(), 1),
    "DPM++3M": (DPMpp3M(), 1),
}  # and the evaluations of a step
COUNTS = (8, 16, 32, 64, 128, 256)
CAPTION = (
    "Largest error against the exact flow of a mixture, from t = 0.95 to 0.05. Left: over steps on "
    "log-log axes: straight lines, whose slope is the solver's order (in the legend: measured over "
    "the last doubling). Right: the same over evaluations of the network, which is what one pays: "
    "Heun pays two a step, the multistep solvers one."
)
BROKEN = (
    "x0_hat is clipped to [-1, 1], as is usual for pictures, but the data reach beyond. Every "
    "solver now converges to another flow: all errors stop at the same height, however many "
    "steps and whatever order. No solver mends a wrong denoiser."
)


@dataclass(frozen=True)
class Clipped:
    """A denoiser clipped to [-1, 1]; `flow` is that of the one inside."""

    inner: ExactDenoiser

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.inner(x_t, t).clamp(-1, 1)

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return flow(self.inner, x, t, s)


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    exact = exact_denoiser(plane(), Cosine())
    denoise = Clipped(exact) if broken else exact
    counts = COUNTS[-few(len(COUNTS), size, 2) :]
    errors = {
        name: dict(zip(counts, flow_errors(solver, denoise, counts), strict=True))
        for name, (solver, _) in SOLVERS.items()
    }
    orders = {name: slopes([*found.values()])[-1] for name, found in errors.items()}
    caption = BROKEN if broken else CAPTION
    return Made(drawn(errors, orders), caption, {"orders": orders, "errors": errors})


@styled()
def drawn(errors: dict[str, dict[int, float]], orders: dict[str, float]) -> Image.Image:
    """Errors over steps and over evaluations."""
    figure, axes = sheet("Order and cost of the solvers", 1, 2, (11, 4.6), sharey=True)
    for (name, found), marker in zip(errors.items(), "ovsD^", strict=True):
        label = f"{name}: order {orders[name]:.2f}"
        for ax, cost in zip(axes[0], (1, SOLVERS[name][1]), strict=True):
            n = torch.tensor([*found]) * cost
            ax.plot(n, [*found.values()], marker + "-", label=label)
    say(axes[0, 0], "steps", "largest error", xscale="log", yscale="log")
    say(axes[0, 1], "evaluations of the network", "largest error", xscale="log", yscale="log")
    for ax in axes[0]:
        plain_ticks(ax.xaxis)
    shown = axes[0, 0].get_legend_handles_labels()
    figure.legend(*shown, loc="outside lower center", ncols=len(errors), fontsize=8)
    return picture(figure)
