"""3. The score of a mixture at every time: arrows uphill on the density of noisy data."""

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.denoiser import eps_hat
from ldm.diffusion.denoiser import score as score_of
from ldm.diffusion.schedules import Cosine
from ldm.lecture.base import Made
from ldm.lecture.data import few, plane
from ldm.points.exact import ExactDenoiser, exact_denoiser
from ldm.points.plots import ARROWS, level, mesh, window
from ldm.system.plots import picture, sheet, styled

ENDS = [(-2.6, 2.6), (-2.6, 2.6)]
STILLS = (0.8, 0.45, 0.25, 0.08)
CAPTION = (
    "Colours: the density p_t of noisy data. Arrows: the score, grad log p_t, exact. At t near 1 "
    "all arrows point at one hill; as t falls it splits into the five peaks of the data, and the "
    "arrows learn to choose. Sampling follows them."
)
BROKEN = (
    "eps-hat is shown in place of the score: the minus of score = -eps_hat / sigma_t is missing. "
    "Every arrow points away from the data; a sampler that takes it for the score flies off."
)


def field(exact: ExactDenoiser, x: Tensor, t: Tensor, *, broken: bool) -> Tensor:
    """The score, or eps-hat by mistake."""
    alpha, sigma = exact.schedule(t)
    x0_hat = exact(x, t)
    return eps_hat(x, x0_hat, alpha, sigma) if broken else score_of(x, x0_hat, alpha, sigma)


def uphill(exact: ExactDenoiser, t: float, *, broken: bool) -> float:
    """Mean cosine of the arrows and the gradient of log p_t by automatic differentiation."""
    x, now = mesh(ENDS, ARROWS).double().requires_grad_(), torch.tensor(t, dtype=torch.float64)
    (slope,) = torch.autograd.grad(exact.law.log_density(x, *exact.schedule(now)).sum(), x)
    arrows = field(exact, x.detach(), now, broken=broken)
    return torch.cosine_similarity(arrows, slope, dim=1).mean().item()


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    exact = exact_denoiser(plane(), Cosine())
    times = torch.linspace(0.95, 0.05, few(24, size, 2)).tolist()
    frames = [drawn(exact, (t,), broken=broken) for t in times]
    cosines = {f"t={t}": uphill(exact, t, broken=broken) for t in STILLS}
    numbers = {"cosine with the gradient": cosines}
    still = drawn(exact, STILLS, broken=broken)
    return Made(still, BROKEN if broken else CAPTION, numbers, frames)


@styled()
def drawn(exact: ExactDenoiser, times: tuple[float, ...], *, broken: bool) -> Image.Image:
    """Density and arrows at a few times."""
    title = "From one hill to five peaks: density and score"
    figure, axes = sheet(title, columns=len(times), size=(3.1 * max(1.4, len(times)), 4))
    at, fine = mesh(ENDS, ARROWS), mesh(ENDS, 80)
    for ax, t in zip(axes[0], times, strict=True):
        now = torch.tensor(t, dtype=torch.float64)
        p = exact.law.log_density(fine, *exact.schedule(now)).exp().reshape(80, 80)
        level(ax, p, ENDS, p.max().item())
        arrows = field(exact, at, now, broken=broken)
        arrows = arrows / (1 + arrows.norm(dim=1, keepdim=True) / 2)  # long ones shown shorter
        how = {"angles": "xy", "scale_units": "xy", "scale": 4}
        ax.quiver(*at.T, *arrows.T, color="white", width=0.007, **how)
        window(ax, ENDS, title=f"t = {t:.2f}")
    return picture(figure)
