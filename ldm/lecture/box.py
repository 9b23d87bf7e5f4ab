"""What figures make of the models in the box: samples, how sure and how varied they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from matplotlib.axes import Axes
from torch import Tensor

from ldm.diffusion.schedules import expand
from ldm.diffusion.solvers import DPMpp2M, sample, start
from ldm.diffusion.tasks import cfg
from ldm.errors import Refusal
from ldm.pictures.grid import to_picture
from ldm.pictures.space import PictureSpace
from ldm.sampling.conditions import Condition, without
from ldm.sampling.model import Model, restore
from ldm.system.randomness import SampleNoise, generator

TIMES = (0.3, 0.5, 0.7)  # at which samples are judged: noisy enough to need the condition


def folder_of(name: str) -> Path:
    """Of a model in the repository's folder checkpoints/. Refusal where it is not there."""
    places = Path("checkpoints", name), Path(__file__).parents[2] / "checkpoints" / name
    found = next(filter(Path.is_dir, places), None)
    if found is None:
        raise Refusal(
            f"checkpoints/{name}: this figure is made by a model of the repository; draw it in the "
            "repository's folder"
        )
    return found


def in_the_box(name: str) -> Model:
    """A model of the repository's folder checkpoints/. Refusal where it is not there."""
    return restore(folder_of(name))


@dataclass(frozen=True)
class Asked:
    """Samples of one condition by a model, all from the seeds 0 ... count - 1."""

    model: Model
    condition: Condition
    count: int

    @property
    def pair(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The condition and the null one, as the network takes them."""
        cond = self.condition.tensors(self.model, self.count)
        return cond, without(cond, torch.ones(self.count).bool(), len(self.model.classes))

    @torch.no_grad()
    def guided(
        self, scale: float, steps: int, *, rescale: float = 0.0, broken: bool = False
    ) -> Tensor:
        """x_0 of the samples; broken: condition and null have changed places."""
        model, (cond, null) = self.model, self.pair
        pair = (null, cond) if broken else (cond, null)
        randn = SampleNoise(range(self.count), model.space.shape)
        denoise, times = (
            cfg(model.denoiser, *pair, scale, rescale=rescale),
            model.schedule.grid(steps),
        )
        return sample(DPMpp2M(), denoise, start(model.schedule, times[0], randn()), times, randn)

    @torch.no_grad()
    def evidence(self, x_0: Tensor) -> float:
        """The share of the null denoiser's error that the condition removes: 1 - E_cond / E_null.

        A diffusion model is a classifier: the condition that explains a sample is the one that
        denoises it best (Li et al. 2023, eq. 4).
        """
        random, (cond, null), found = generator("evidence"), self.pair, []
        for t in TIMES:
            now = torch.tensor(t, dtype=torch.float64)
            alpha, sigma = (expand(part, x_0).to(x_0) for part in self.model.schedule(now))
            x_t = alpha * x_0 + sigma * torch.randn(x_0.shape, generator=random)
            errors = [(self.model.denoiser(x_t, now, **of) - x_0).square() for of in (cond, null)]
            found.append(1 - errors[0].mean() / errors[1].mean())
        return torch.stack(found).mean().item()

    def pictures(self, x_0: Tensor) -> Tensor:
        """In [-1, 1], (N, C, H, W)."""
        return cast(PictureSpace, self.model.space).decode(x_0)

    def measured(self, x_0: Tensor) -> dict[str, float]:
        """Evidence for the condition; variety and contrast of the pictures, in units of [-1, 1].

        Variety: the standard deviation over samples, a pixel. Contrast: over each one's pixels.
        """
        pictures = self.pictures(x_0)
        return {
            "evidence": self.evidence(x_0),
            "variety": pictures.std(0).mean().item(),
            "contrast": pictures.flatten(1).std(1).mean().item(),
        }


def wall(ax: Axes, pictures: Tensor, columns: int, title: str = "", side: int = 64) -> None:
    """Pictures (N, C, H, W) in a grid on an axis without numbers."""
    ax.imshow(to_picture(pictures, columns, side))
    ax.set_axis_off()
    ax.set_title(title)
