"""11. The exact likelihood along the flow; Hutchinson's estimate; the density of the moons."""

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.flow import Ode
from ldm.diffusion.likelihood import log_likelihood, normal_log_density
from ldm.diffusion.schedules import Cosine
from ldm.lecture.base import Made
from ldm.lecture.data import Lesson, few, learnt, plane
from ldm.points.exact import exact_denoiser
from ldm.points.plots import cloud, level, mesh, window
from ldm.points.shapes import moons
from ldm.system.plots import picture, plain_ticks, say, sheet, styled
from ldm.system.randomness import generator

ENDS, SIDE, PROBES = [(-2.2, 2.2), (-2.4, 2.4)], 40, (1, 4, 16, 64)
CAPTION = (
    "Left: log p of 40 points of the mixture by the flow with the exact trace, against the density "
    "in closed form: on the diagonal. Middle: Hutchinson's estimate of their mean with random "
    "probes, with its own error bar: it meets the exact value, and more probes narrow it. Right: "
    "the density of the moons by a network that saw samples alone (dots)."
)
BROKEN = (
    "The divergence is left out: log p of x_0 is taken to be the prior's of x_1. Left: no point is "
    "on the diagonal; a flow that squeezes space makes points dense, and that is forgotten. Right: "
    "the density of the moons is flat where it should be high."
)


def moon_points(count: int, random: torch.Generator) -> Tensor:
    """Moons of mean 0 and standard deviation 1."""
    points = moons(count, 0.1, random)[0]
    return (points - torch.tensor([0.5, 0.25])) / torch.tensor([0.87, 0.5])


def flow_nats(denoise: Denoiser, x: Tensor, *, broken: bool) -> Tensor:
    """log p by the flow; without the divergence by mistake."""
    found = log_likelihood(denoise, x, probes=0, ode=Ode(1e-4, 1e-4))
    if not broken:
        return found.nats
    sigma = denoise.schedule(torch.ones(()).double())[1]
    return normal_log_density(found.x_1.double(), torch.zeros(()), sigma)


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    law, random = plane(), generator("lecture", "likelihood")
    exact, x = exact_denoiser(law, Cosine()), law.draw(40, random)
    pair = law.log_density(x), flow_nats(exact, x, broken=broken)  # type: ignore[arg-type]
    probes = {}
    for n in PROBES[: few(len(PROBES), size, 2)]:
        found = log_likelihood(exact, x, generator("probes", n), n, Ode(1e-4, 1e-4))
        spread = found.error.square().sum().sqrt() / len(x) if n > 1 else None
        probes[n] = (found.nats.mean().item(), None if spread is None else spread.item())
    lesson = Lesson(steps=few(700, size, 100))
    network, side = learnt("moons", lesson, moon_points), few(SIDE, size, 12)
    density = flow_nats(network, mesh(ENDS, side), broken=broken).exp().reshape(side, side)
    cell = (ENDS[0][1] - ENDS[0][0]) * (ENDS[1][1] - ENDS[1][0]) / (side - 1) ** 2
    numbers = {
        "largest error of log p": (pair[1] - pair[0]).abs().max().item(),
        "mean log p": pair[0].mean().item(),
        "Hutchinson: mean, standard error": probes,
        "mass of the moons in the window": (density.sum() * cell).item(),
    }
    made = drawn(pair, probes, density, moon_points(400, random))
    return Made(made, BROKEN if broken else CAPTION, numbers)


@styled()
def drawn(
    pair: tuple[Tensor, Tensor],
    probes: dict[int, tuple[float, float | None]],
    density: Tensor,
    data: Tensor,
) -> Image.Image:
    """The diagonal, the error bars and the moons."""
    figure, axes = sheet("The exact likelihood along the flow", 1, 3, (13, 4.2))
    left, middle, right = axes[0]
    ends = [pair[0].min() - 0.5, pair[0].max() + 0.5]
    left.plot(ends, ends, "k", lw=1)
    left.plot(*pair, "o", color="#d1495b")
    say(left, "log p in closed form (nats)", "log p by the flow (nats)")
    n = [*probes]
    bars = [value[1] or 0 for value in probes.values()]
    middle.errorbar(n, [value[0] for value in probes.values()], bars, fmt="o", capsize=4)
    middle.axhline(pair[0].mean(), color="black", lw=1, label="exact mean")
    say(middle, "probes (the bar is one standard error)", "mean log p (nats)", xscale="log")
    plain_ticks(middle.xaxis)
    middle.legend()
    level(right, density, ENDS, density.max().item())
    cloud(right, data, "white", size=2)
    window(right, ENDS, title="density of the moons, learnt")
    return picture(figure)
