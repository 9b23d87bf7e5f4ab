"""Clothes by the model in the box: guided (figure 12), and made large again (figure 15)."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ldm.diffusion.tasks import AveragePool
from ldm.lecture.box import Asked, in_the_box
from ldm.sampling.conditions import Condition
from ldm.sampling.model import Model
from ldm.sampling.settings import Overrides
from ldm.tasks.super_resolution import SuperResolution

COAT, FACTOR, OTHERS, STEPS = 4, 4, 7, 12  # OTHERS: samples of each small picture
VARIED = 0.1  # standard deviation of a pixel that is worth a rank


@lru_cache(maxsize=1)
def wardrobe() -> Model:
    """The model."""
    return in_the_box("fashion-latent")


def coats(count: int) -> Asked:
    """A class, and how many samples of it."""
    return Asked(wardrobe(), Condition(labels=[COAT] * count), count)


@dataclass(frozen=True)
class Enlarged:
    """Pictures that the model made, their means over squares, and samples of what those may be.

    What the model makes is drawn from the law that the sampler believes in: so the truth is known,
    and must lie among the samples like one of them.
    """

    truth: Tensor  # (N, 1, H, W)
    small: Tensor  # (N, 1, H / FACTOR, W / FACTOR)
    samples: Tensor  # (N, OTHERS, 1, H, W)

    def ranks(self) -> Tensor:
        """Of the truth among the samples, 0 ... OTHERS, of every pixel that varies over them."""
        both = torch.cat([self.truth[:, None], self.samples], 1)
        varied = both.std(1) > VARIED
        return (self.samples < self.truth[:, None]).sum(1)[varied]

    def seen(self) -> float:
        """RMS of the samples' means over squares against the given ones, of [-1, 1]."""
        made = AveragePool(FACTOR)(self.samples.flatten(0, 1)).unflatten(0, self.samples.shape[:2])
        return (made - self.small[:, None]).square().mean().sqrt().item()


def enlarged(count: int, *, broken: bool) -> Enlarged:
    """Coats made small and large again; broken: every sample from the same noise."""
    asked = coats(count)
    truth = asked.pictures(asked.guided(1.0, 25))
    small = AveragePool(FACTOR)(truth)
    task = SuperResolution.asked({"factor": FACTOR}).of(wardrobe())
    how = Overrides(steps=STEPS, guidance=1.0, batch_size=count * OTHERS)
    seeds = [1000] * OTHERS if broken else list(range(1000, 1000 + OTHERS))
    condition = Condition(labels=[COAT] * OTHERS)
    settings = task.settings(wardrobe(), how)
    return Enlarged(truth, small, task.solve(wardrobe(), small, None, seeds, condition, settings))
