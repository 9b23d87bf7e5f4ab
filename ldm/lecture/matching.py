"""10. Denoising score matching has the same minimum, and is the same loss as before."""

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.denoiser import eps_hat, score
from ldm.diffusion.schedules import VP
from ldm.lecture.base import Made
from ldm.lecture.data import few, plane, randn
from ldm.points.exact import exact_denoiser
from ldm.system.plots import picture, say, sheet, styled

AT = 0.3
CAPTION = (
    "A family of models: the exact score times a factor, right at 1. Blue: score matching against "
    "the true score, which for real data no one has. Orange: denoising score matching against "
    "-eps / sigma, which everyone has, less a constant that no model changes: the two curves "
    "coincide. Dots: the lecture's loss of eps over sigma^2, less the same: the same loss before!"
)
BROKEN = (
    "The target is new noise, not the eps inside x_t. It cannot be predicted, so the loss is least "
    "at factor 0: training runs, the loss falls to its floor, and the network learns to answer 0."
)


def losses(factors: Tensor, count: int, *, broken: bool) -> dict[str, Tensor]:
    """The three losses at each factor, mean over points."""
    exact, t = exact_denoiser(plane(), VP()), torch.tensor(AT, dtype=torch.float64)
    alpha, sigma = exact.schedule(t)
    x_0, eps = plane().draw(count, torch.Generator().manual_seed(0)), randn(count, 2, key="eps")
    x_t = alpha * x_0 + sigma * eps
    x0_hat = exact(x_t, t)
    true, noise = score(x_t, x0_hat, alpha, sigma), eps_hat(x_t, x0_hat, alpha, sigma)
    aim = randn(count, 2, key="another eps") if broken else eps
    mean = lambda error: error.square().sum(1).mean()  # noqa: E731
    found: dict[str, list[Tensor]] = {"score": [], "denoising": [], "eps": []}
    for k in factors:
        found["score"].append(mean(k * true - true))
        found["denoising"].append(mean(k * true + aim / sigma))
        found["eps"].append(mean(k * noise - aim) / sigma**2)
    return {name: torch.stack(values) for name, values in found.items()}


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    factors = torch.linspace(-0.5, 2, 51).double()
    found = losses(factors, few(20_000, size, 4000), broken=broken)
    constant = found["denoising"].min()
    moved = {name: values - (0 if name == "score" else constant) for name, values in found.items()}
    numbers = {
        "constant": constant.item(),
        "best factor of denoising": factors[found["denoising"].argmin()].item(),
        "largest difference of the curves": (moved["score"] - moved["denoising"])
        .abs()
        .max()
        .item(),
        "height of the curves": moved["score"].max().item(),
        "eps against denoising": (moved["eps"] - moved["denoising"]).abs().max().item(),
    }
    return Made(drawn(factors, moved), BROKEN if broken else CAPTION, numbers)


@styled()
def drawn(factors: Tensor, found: dict[str, Tensor]) -> Image.Image:
    """The three curves."""
    figure, axes = sheet("Two losses that differ by a constant")
    ax = axes[0, 0]
    ax.plot(factors, found["score"], lw=5, alpha=0.4, label="against the true score")
    ax.plot(factors, found["denoising"], label=r"denoising, $-\epsilon/\sigma$, less a constant")
    ax.plot(factors[::4], found["eps"][::4], "k.", label=r"of $\epsilon$, over $\sigma^2$, less it")
    ax.axvline(1, color="black", lw=1, ls=":", label="the exact score")
    say(ax, "factor on the score", "loss")
    ax.legend()
    return picture(figure)
