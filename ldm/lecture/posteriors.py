"""15. De-noising and in-painting beside the exact posterior; calibration by rank histograms."""

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.schedules import Cosine
from ldm.diffusion.solvers import DPMpp2MSDE, Heun, Solver, sample
from ldm.diffusion.tasks import Mask, denoising_start, guide, project
from ldm.diffusion.tasks.starts import below
from ldm.lecture.base import Made
from ldm.lecture.data import few, plane, randn
from ldm.points.exact import exact_denoiser
from ldm.points.metrics import energy_distance
from ldm.points.plots import cloud, window
from ldm.system.plots import picture, say, sheet, styled

NOISE, SEEN, RANKS = 0.8, 1.0, 15
CAPTION = (
    "Left: one noisy point (cross) and samples of what it may have been (red) over the exact "
    "posterior (grey): the same. Middle: x alone is known (dashed line); y is in-painted by "
    "guidance and by projection; the exact posterior's histogram behind. De-noising is exact; "
    "in-painting by either is an approximation, and here one sees how good. Right: the rank of the "
    "truth among 15 samples, over many noisy points: flat, so the samples are as uncertain as they "
    "should be."
)
BROKEN = (
    "The same start, solved by the ODE, which draws no noise: every sample of one noisy point is "
    "the same point (left). The truth is above or below all of them: ranks at the two ends only "
    "(right). A posterior needs a stochastic solver, or other starts."
)


def denoised(y: Tensor, key: str, *, broken: bool) -> Tensor:
    """A sample of what each noisy point (B, 2) may have been."""
    exact = exact_denoiser(plane(), Cosine())
    t, x_t = denoising_start(exact.schedule, y, NOISE)
    solver: Solver = Heun("angle") if broken else DPMpp2MSDE()
    times, keys = below(exact.schedule.grid(30), t), iter(range(1000))
    return sample(solver, exact, x_t, times, lambda: randn(*y.shape, key=f"{key} {next(keys)}"))


def painted(method: str, count: int) -> Tensor:
    """y of points whose x is SEEN."""
    exact, keys = exact_denoiser(plane(), Cosine()), iter(range(1000))
    known, y = Mask(torch.tensor([1.0, 0.0]).double()), torch.tensor([[SEEN, 0.0]]).double()
    y = y.expand(count, 2)
    task = project(exact, known, y) if method == "projection" else guide(exact, known, y, 0.02)
    noise = lambda: randn(count, 2, key=f"paint {next(keys)}")  # noqa: E731
    return sample(DPMpp2MSDE(), task, noise(), exact.schedule.grid(60), noise)[:, 1]


def ranks(count: int, *, broken: bool) -> Tensor:
    """Of the truth's x among RANKS samples each: 0 ... RANKS, (count,)."""
    truth = plane().draw(count, torch.Generator().manual_seed(3))
    y = truth + NOISE * randn(count, 2, key="noise of the truth")
    drawn = denoised(y.repeat(RANKS, 1), "rank", broken=broken)[:, 0].reshape(RANKS, count)
    return (drawn < truth[:, 0]).sum(0)


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    n = few(1500, size, 300)
    y, law = torch.tensor([[0.35, -0.3]]).double(), plane()
    made = denoised(y.expand(n, 2), "one", broken=broken)
    exact = law.given(torch.eye(2), y[0], NOISE).draw(n, torch.Generator().manual_seed(0))
    line = law.given(torch.tensor([[1.0, 0.0]]), torch.tensor([SEEN]), 0.0)
    wanted = line.draw(n, torch.Generator().manual_seed(1))[:, 1]
    filled = {name: painted(name, n) for name in ("guidance", "projection")}
    rank = ranks(few(600, size, 100), broken=broken)
    ends = ((rank == 0) | (rank == RANKS)).double().mean().item()
    numbers = {
        "de-noising: energy distance to the posterior": energy_distance(made, exact, unbiased=True),
        "in-painting: the same": {
            name: energy_distance(part[:, None], wanted[:, None], unbiased=True)
            for name, part in filled.items()
        },
        "share of ranks at an end": ends,
        "of calibrated samples": 2 / (RANKS + 1),
    }
    shown = (made, exact, y), (filled, wanted), rank
    return Made(drawn(*shown), BROKEN if broken else CAPTION, numbers)


@styled()
def drawn(
    noisy: tuple[Tensor, Tensor, Tensor], filled: tuple[dict[str, Tensor], Tensor], rank: Tensor
) -> Image.Image:
    """The three panels."""
    figure, axes = sheet("What may it have been? Samples and the exact posterior", 1, 3, (13, 4.4))
    left, middle, right = axes[0]
    cloud(left, noisy[1], "#9aa0a6", size=5, name="exact posterior")
    cloud(left, noisy[0], "#d1495b", size=5, name="samples")
    left.plot(*noisy[2][0], "kx", ms=10, mew=2, label="the noisy point")
    window(left, [(-2.6, 2.6), (-2.6, 2.6)], title=f"de-noising, noise {NOISE}")
    left.legend(fontsize=8)
    edges = torch.linspace(-2.5, 2.5, 60).numpy()
    middle.hist(filled[1].numpy(), edges, density=True, color="#bbbbbb", label="exact posterior")
    for name, part in filled[0].items():
        middle.hist(part.numpy(), edges, density=True, histtype="step", lw=1.5, label=name)
    say(middle, "y, in-painted", "density", f"in-painting: x = {SEEN} is known")
    middle.legend(fontsize=8)
    bins = torch.arange(RANKS + 2).numpy() - 0.5
    right.hist(rank.numpy(), bins, density=True, color="#0072b2")
    right.axhline(1 / (RANKS + 1), color="black", ls=":", label="calibrated")
    say(right, f"rank of the truth among {RANKS} samples", "share", "calibration of de-noising")
    right.legend()
    return picture(figure)
