"""The forward chain and the reverse process of a few samples, drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, cast

import torch
from PIL import Image
from torch import Tensor

from ldm.config import SampleConfig
from ldm.diffusion import solvers
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.simulate import noising
from ldm.pictures.labels import Labels, labelled
from ldm.pictures.space import PictureSpace
from ldm.sampling.model import Model
from ldm.system.batches import as_bytes
from ldm.system.randomness import SampleNoise

COLUMNS, FRAMES = 11, 40  # of the strip; of the GIF each way, at most
TITLE = "The forward process, from data to noise, and the reverse process back to data"
DECODED = "; noise too is shown through stage 1's decoder"
FORWARD, REVERSE, GUESS = "forward: x_t", "reverse: x_t", "reverse: x_0 as predicted"


@dataclass
class Recorder:
    """What the first `count` samples of a batch went through: the `watch` of `generate`."""

    files: ClassVar[str] = "trajectory.png, trajectory.gif"
    model: Model
    settings: SampleConfig
    seeds: Sequence[int]
    count: int = 4
    states: list[Tensor] = field(default_factory=list)  # x_t at each of the times but the first
    guesses: list[Tensor] = field(default_factory=list)  # x0_hat at each of the times but the last

    def __call__(self, step: int, x_s: Tensor, x0_hat: Tensor) -> None:
        self.states.append(x_s[: self.count].clone())
        self.guesses.append(x0_hat[: self.count].clone())

    @property
    def space(self) -> PictureSpace:
        """The model's: it is one of pictures."""
        return cast(PictureSpace, self.model.space)

    @property
    def title(self) -> str:
        """What the strip says above it."""
        return TITLE + DECODED * (self.space.kind == "latent")

    @property
    def times(self) -> Tensor:
        return self.model.denoiser.schedule.grid(self.settings.steps, self.settings.grid)

    @torch.inference_mode()
    def rows(self, most: int) -> tuple[Tensor, Tensor]:
        """uint8 pictures (3, frames, N, C, H, W) and the frames' times, from noise (t = 1) to data.

        The forward chain x_t from the samples' own x_0, with noise of its own (it runs against this
        order); the reverse x_t; and x0_hat.
        """
        schedule, times, device = self.model.denoiser.schedule, self.times, self.states[0].device
        noise = SampleNoise(self.seeds[: self.count], self.model.space.shape, device)
        reverse = [solvers.start(schedule, times[0], noise()), *self.states]
        keep = torch.linspace(0, len(times) - 1, min(most, len(times))).round().long().tolist()
        there = noising(
            schedule,
            self.states[-1],
            times.flip(0)[[len(times) - 1 - i for i in keep[::-1]]],
            noise,
        ).flip(0)
        guesses = [*self.guesses, self.states[-1]]
        states = zip([*there, *(reverse[i] for i in keep)], times[[*keep, *keep]], strict=True)
        shown = [in_view(schedule, x, t) for x, t in states]
        shown += [guesses[i] for i in keep]
        images = torch.stack([as_bytes(self.space.decode(x)).cpu() for x in shown])
        return images.unflatten(0, (3, len(keep))), times[keep]

    def strip(self) -> Image.Image:
        """Three rows over time for each sample: the forward chain, x_t on its way back, x0_hat."""
        rows, times = self.rows(COLUMNS)
        # the forward row reads from left to right, from data to noise; the reverse rows from noise
        # to data
        pictures = torch.stack([rows[0].flip(0), rows[1], rows[2]])  # (3, frames, N, C, H, W)
        said = [f"t = {t:.2f}" for t in times.tolist()]
        samples = pictures.shape[2]
        labels = Labels(
            self.title, [said[::-1], said, ()] * samples, [FORWARD, REVERSE, GUESS] * samples
        )
        return labelled(pictures.permute(2, 0, 1, 3, 4, 5).flatten(0, 2), len(times), labels)

    def gif(self, path: Path) -> None:
        """There and back again, x_0 below x_t."""
        rows, times = self.rows(FRAMES)
        data, said = rows[2][-1:].expand_as(rows[2]), times.tolist()
        there = [("forward", "x_0", t) for t in said[::-1]]
        back = [("reverse", "x_0 as predicted", t) for t in said]
        pairs = [*zip(rows[0].flip(0), data, strict=True), *zip(rows[1], rows[2], strict=True)]
        frames = [
            labelled(torch.cat(pair), len(pair[0]), Labels(f"{way}: t = {t:.2f}", (), ("x_t", x_0)))
            for pair, (way, x_0, t) in zip(pairs, there + back, strict=True)
        ]
        drawn = [frame.convert("P", palette=Image.Palette.ADAPTIVE) for frame in same_size(frames)]
        lengths = [80] * len(drawn)
        lengths[0] = lengths[-1] = 1200
        drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=lengths, loop=0)

    def write(self, folder: Path, name: str = "trajectory") -> tuple[Image.Image, Path]:
        """<name>.png and <name>.gif in the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        strip, path = self.strip(), folder / f"{name}.gif"
        strip.save(folder / f"{name}.png")
        self.gif(path)
        return strip, path


def in_view(schedule: Schedule, x_t: Tensor, t: Tensor) -> Tensor:
    """x_t / sqrt(alpha_t^2 + sigma_t^2), to be shown: so noise of any schedule can be seen."""
    alpha, sigma = schedule(t)
    return x_t / (alpha.square() + sigma.square()).sqrt().to(x_t)


def same_size(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """White above and left of the smaller ones, so that pictures stay where they are."""
    width, height = max(one.width for one in frames), max(one.height for one in frames)
    wholes = [Image.new("RGB", (width, height), "white") for _ in frames]
    for whole, one in zip(wholes, frames, strict=True):
        whole.paste(one, (width - one.width, height - one.height))
    return wholes
