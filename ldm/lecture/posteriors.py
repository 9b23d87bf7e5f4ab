"""15. De-noising, in-painting, super-resolution beside the exact posterior, and calibrated."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from ldm.diffusion.schedules import Cosine
from ldm.diffusion.solvers import DPMpp2MSDE, Heun, Solver, sample
from ldm.diffusion.tasks import Mask, denoising_start, guide, project
from ldm.diffusion.tasks.operators import Operator
from ldm.diffusion.tasks.starts import below
from ldm.lecture.base import Made
from ldm.lecture.box import wall
from ldm.lecture.clothes import OTHERS, Enlarged, enlarged
from ldm.lecture.data import few, plane, randn
from ldm.points.exact import exact_denoiser
from ldm.points.metrics import energy_distance
from ldm.points.plots import cloud, window
from ldm.system.plots import picture, say, sheet, styled

NOISE, SEEN, MEAN, RANKS, COATS = 0.8, 1.0, -0.2, 15, 10
CAPTION = (
    "Above, points, with the exact posterior in grey. Left: one noisy point (cross) and samples of "
    "what it may have been. Middle: x alone is known; y is in-painted by guidance and by "
    "projection. Right: the mean of x and y alone is known, a picture of two pixels seen as one; "
    "super-resolution by the same two. De-noising is exact; the others are approximations, which "
    "find every peak and give the rare ones too much weight. How far off they are depends on what "
    "is measured: were the mean 0.1, guidance would miss by an energy distance of 0.65 in place of "
    "0.04. Below: coats that the model made, their means over 4 x 4 pixels, and samples of what "
    "those may be: not the truth, but as likely. Calibration: the rank of the truth among the "
    "samples is flat, so they are as uncertain as they should be."
)
BROKEN = (
    "The same start, solved without new noise: every sample of one noisy point is the same point "
    "(left), every coat the same coat. The truth is above or below all of them: ranks at the two "
    "ends only. A posterior needs a stochastic solver, or other starts."
)


@dataclass(frozen=True)
class Pair:
    """A of super-resolution by 2 in one dimension: the mean of x and y."""

    gram: ClassVar[float] = 0.5

    def __call__(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)

    def transpose(self, y: Tensor) -> Tensor:
        return self.gram * self.pinv(y)

    def pinv(self, y: Tensor) -> Tensor:
        return y.expand(len(y), 2)


def denoised(y: Tensor, key: str, *, broken: bool) -> Tensor:
    """A sample of what each noisy point (B, 2) may have been."""
    exact = exact_denoiser(plane(), Cosine())
    t, x_t = denoising_start(exact.schedule, y, NOISE)
    solver: Solver = Heun("angle") if broken else DPMpp2MSDE()
    times, keys = below(exact.schedule.grid(30), t), iter(range(1000))
    return sample(solver, exact, x_t, times, lambda: randn(*y.shape, key=f"{key} {next(keys)}"))


def solved(operator: Operator, y: Tensor, method: str) -> Tensor:
    """Points (B, 2) whose A x is y."""
    exact, keys, shape = exact_denoiser(plane(), Cosine()), iter(range(1000)), (len(y), 2)
    task = (
        project(exact, operator, y) if method == "projection" else guide(exact, operator, y, 0.02)
    )
    noise = lambda: randn(*shape, key=f"paint {next(keys)}")  # noqa: E731
    return sample(DPMpp2MSDE(), task, noise(), exact.schedule.grid(60), noise)


@dataclass(frozen=True)
class Solved:
    """What is not known of points, by both methods, and by the exact posterior."""

    by: dict[str, Tensor]
    exact: Tensor

    @classmethod
    def of(
        cls, operator: Operator, y: Tensor, row: Tensor, value: float, shown: Tensor
    ) -> "Solved":
        """Of A x = y, where `row` x = value, along the direction `shown` (2,)."""
        methods = ("guidance", "projection")
        law = plane().given(row[None], torch.tensor([value]), 0.0)
        exact = law.draw(len(y), torch.Generator().manual_seed(1))
        return cls({name: solved(operator, y, name) @ shown for name in methods}, exact @ shown)

    def distances(self) -> dict[str, float]:
        """Energy distance to the exact posterior."""
        wanted = self.exact[:, None]
        return {k: energy_distance(x[:, None], wanted, unbiased=True) for k, x in self.by.items()}


def measured(count: int) -> dict[str, Solved]:
    """In-painting of y where x is SEEN; super-resolution where their mean is MEAN."""
    pick = lambda *row: torch.tensor(row, dtype=torch.float64)  # noqa: E731
    known, y = Mask(pick(1, 0)), pick(SEEN, 0).expand(count, 2)
    return {
        "in-painting": Solved.of(known, y, pick(1, 0), SEEN, pick(0, 1)),
        "super-resolution": Solved.of(
            Pair(), pick(MEAN).expand(count, 1), pick(0.5, 0.5), MEAN, pick(1, -1)
        ),
    }


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
    filled = measured(n)
    rank = ranks(few(600, size, 100), broken=broken)
    clothes = enlarged(few(COATS, size, 3), broken=broken)
    numbers = {
        "de-noising: energy distance to the posterior": energy_distance(made, exact, unbiased=True),
        "the same of": {name: one.distances() for name, one in filled.items()},
        "share of ranks at an end": at_an_end(rank, RANKS),
        "of calibrated samples": 2 / (RANKS + 1),
        "coats: share of ranks at an end": at_an_end(clothes.ranks(), OTHERS),
        "coats: of calibrated samples": 2 / (OTHERS + 1),
        "coats: means over squares, error": clothes.seen(),
    }
    shown = drawn((made, exact, y), filled, rank, clothes)
    return Made(shown, BROKEN if broken else CAPTION, numbers)


def at_an_end(rank: Tensor, most: int) -> float:
    """The share of ranks that are 0 or the highest."""
    return ((rank == 0) | (rank == most)).double().mean().item()


@styled()
def drawn(
    noisy: tuple[Tensor, Tensor, Tensor],
    filled: dict[str, Solved],
    rank: Tensor,
    clothes: Enlarged,
) -> Image.Image:
    """Three tasks on points; calibration; clothes and theirs."""
    title = "What may it have been? Samples and the exact posterior"
    figure, axes = sheet(title, 2, 3, (13, 8.4))
    left = axes[0, 0]
    cloud(left, noisy[1], "#9aa0a6", size=5, name="exact posterior")
    cloud(left, noisy[0], "#d1495b", size=5, name="samples")
    left.plot(*noisy[2][0], "kx", ms=10, mew=2, label="the noisy point")
    window(left, [(-2.6, 2.6), (-2.6, 3.4)], title=f"de-noising, noise {NOISE}")
    left.legend(fontsize=8, loc="upper left")
    words = (
        ("y, in-painted", f"in-painting: x = {SEEN} is known"),
        ("x - y", f"(x + y) / 2 = {MEAN}"),
    )
    for ax, one, (axis, said) in zip(axes[0, 1:], filled.values(), words, strict=True):
        histogram(ax, one, axis, said)
    flat(axes[1, 0], rank, RANKS, "calibration of de-noising")
    up = torch.nn.functional.interpolate(clothes.small, scale_factor=4)
    rows = [
        torch.cat([clothes.truth[i : i + 1], up[i : i + 1], clothes.samples[i, :4]])
        for i in (0, 1, 2)
    ]
    wall(axes[1, 1], torch.cat(rows), 6, "coats: truth, given, four samples")
    flat(axes[1, 2], clothes.ranks(), OTHERS, "calibration of the coats' pixels")
    return picture(figure)


def histogram(ax: Axes, one: Solved, axis: str, title: str) -> None:
    """Both methods over the exact posterior."""
    ends = one.exact.min().item() - 0.8, one.exact.max().item() + 0.8
    edges = torch.linspace(*ends, 60).tolist()
    ax.hist(one.exact.numpy(), edges, density=True, color="#bbbbbb", label="exact posterior")
    for name, part in one.by.items():
        ax.hist(part.numpy(), edges, density=True, histtype="step", lw=1.5, label=name)
    say(ax, axis, "density", title, ylim=(0, 1.3 * ax.get_ylim()[1]))
    ax.legend(fontsize=8, loc="upper left")


def flat(ax: Axes, rank: Tensor, most: int, title: str) -> None:
    """Ranks, which should be level."""
    bins = (torch.arange(most + 2) - 0.5).tolist()
    ax.hist(rank.numpy(), bins, density=True, color="#0072b2")
    ax.axhline(1 / (most + 1), color="black", ls=":", label="calibrated")
    say(ax, f"rank of the truth among {most} samples", "share", title)
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])
    ax.legend(loc="upper right")
