"""5. eps, x0, v, score: one model, four losses over time; Algorithm 1 as on the slide."""

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser, Loss
from ldm.diffusion.schedules import VP, expand
from ldm.lecture.base import Made
from ldm.lecture.data import few, plane, randn
from ldm.points.exact import Mixture, exact_denoiser
from ldm.points.metrics import error_times
from ldm.system.plots import picture, say, sheet, styled

NAMES = {"eps": r"$\epsilon$", "x0": r"$x_0$", "v": r"$v$", "score": "score"}
SLIDE = r"""Algorithm 1

repeat
   $x_0 \sim q(x_0)$
   $t \sim \mathrm{Uniform}$
   $\epsilon \sim N(0, 1)$
   step on  $\nabla_\theta \,|\,\epsilon -$
      $\epsilon_\theta(\alpha_t x_0 + \sigma_t \epsilon,\ t)\,|^2$
until converged"""
CAPTION = (
    "The loss of one and the same denoiser, the exact one, as four losses count it over time. "
    "They differ by a weight alone: eps is hard near the data (all signal, hardly noise to find) "
    "and easy at noise, x0 the other way round, v is even, the score's grows without end as t -> "
    "0. Equal at every t: the model. Different: what training works at. Right: Algorithm 1, typed "
    "as here, gives the library's loss to all digits."
)
BROKEN = (
    "x0's squared error is weighed as eps' (by alpha^2 / sigma^2 twice): the curve called x0 is no "
    "loss of x0. It grows by orders of magnitude near the data, and training would work at nothing "
    "but the last trace of noise."
)


def weight(predict: str, t: Tensor) -> Tensor:
    """Of |x0_hat - x_0|^2 in the loss of a prediction: 1 / c_out^2."""
    return Loss(predict).coefficients(VP(), t)[1].square().reciprocal()  # type: ignore[arg-type]


def curves(law: Mixture, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Each loss of the exact denoiser at times of (0, 1)."""
    exact, times = exact_denoiser(law, VP()), error_times(40, 0.01)
    x_0 = law.draw(count, torch.Generator().manual_seed(0))
    errors = []
    for i, t in enumerate(times):
        alpha, sigma = exact.schedule(t)
        x_t = alpha * x_0 + sigma * randn(count, 2, key=f"predictions {i}")
        errors.append((exact(x_t, t) - x_0).square().mean())
    return times, {name: weight(name, times) * torch.stack(errors) for name in NAMES}


class Net(torch.nn.Module):
    """The exact denoiser as a network that predicts eps."""

    def __init__(self, law: Mixture):
        super().__init__()
        self.exact = exact_denoiser(law, VP())

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        t = c_noise / 1000
        alpha, sigma = (expand(part, x) for part in self.exact.schedule(t))
        return (x - alpha * self.exact(x, t)) / sigma


def algorithm_1(net: Net, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """The slide's loss, typed out."""
    alpha, sigma = (expand(part, x_0) for part in VP()(t))
    return (eps - net(alpha * x_0 + sigma * eps, 1000 * t)).square().mean()


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    law, n = plane(), few(4000, size, 500)
    times, found = curves(law, n)
    if broken:
        found["x0"] = found["x0"] * (weight("eps", times) / weight("x0", times)) ** 2
    x_0, eps = law.draw(n, torch.Generator().manual_seed(1)), randn(n, 2, key="slide")
    t = VP().times(torch.rand(n, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    net = Net(law)
    typed, ours = algorithm_1(net, x_0, t, eps), Denoiser(net, VP(), Loss("eps")).loss(x_0, t, eps)
    alpha, sigma = VP()(times)
    ratio = found["eps"] / found["x0"] / (alpha / sigma) ** 2
    numbers = {
        "loss at t = 0.1, 0.5, 0.9": {k: v[[4, 20, 36]].tolist() for k, v in found.items()},
        "eps over x0, over alpha^2 / sigma^2": [ratio.min().item(), ratio.max().item()],
        "Algorithm 1 typed": typed.item(),
        "Denoiser.loss": ours.mean().item(),
    }
    return Made(drawn(times, found), BROKEN if broken else CAPTION, numbers)


@styled()
def drawn(times: Tensor, found: dict[str, Tensor]) -> Image.Image:
    """Four curves, and the slide."""
    figure, axes = sheet("One model, four losses", 1, 2, (11, 4.4), width_ratios=(1.6, 1))
    for name, values in found.items():
        axes[0, 0].plot(times, values, label=f"loss of {NAMES[name]}")
    say(axes[0, 0], "time t (0 = data, 1 = noise)", "loss of the exact denoiser", yscale="log")
    axes[0, 0].set_ylim(1e-3, 1e3)
    axes[0, 0].legend()
    axes[0, 1].set_axis_off()
    axes[0, 1].text(0, 0.5, SLIDE, va="center", fontsize=12, linespacing=1.6)
    return picture(figure)
