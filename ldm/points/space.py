"""The space of points: every column standardised."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ldm.diffusion.schedules import Schedule
from ldm.diffusion.space import Extras, Noise, Reduce, Shape, Space, SpaceConfig, listed
from ldm.errors import Refusal, printable
from ldm.points.data import Drawn
from ldm.points.exact import ExactDenoiser, exact_denoiser


@dataclass
class Plain(SpaceConfig):
    """Diffuse the columns themselves, shifted and divided to mean 0 and standard deviation 1."""

    modality: ClassVar[str] = "points"

    def build(
        self, shape: Shape, autoencoder: nn.Module | None, classes: int, features: int
    ) -> "PlainSpace":
        return PlainSpace(shape)


class PlainSpace(Space):
    """x_0 = (points - shift) / scale, (D,); `shift` and `scale` are the training set's.

    `columns` are the names of the data's columns, for files and axes.
    """

    shift: Tensor
    scale: Tensor
    measured = True
    modality, kind = "points", "points"

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = self.data_shape = tuple(shape)
        self.columns = [f"x{i + 1}" for i in range(shape[0])]
        self.register_buffer("shift", torch.zeros(shape[0]))
        self.register_buffer("scale", torch.ones(shape[0]))

    def note(self, about: Mapping[str, Any]) -> None:
        """The columns' names, where there is one for each."""
        names = about.get("columns")
        if isinstance(names, list) and len(names) == self.shape[0]:
            self.columns = [printable(name)[:60] for name in names]

    @property
    def units(self) -> tuple[Tensor, Tensor]:
        return self.shift, self.scale

    def expect_measured(self, where: str) -> None:
        """Refusal if a checkpoint's statistics cannot have been measured."""
        if not (self.scale > 0).all() or not torch.cat([self.shift, self.scale]).isfinite().all():
            raise Refusal(f"{where}: the columns' scales are not all above 0; it is of no model")

    def read(self, batch: Mapping[str, Any]) -> Tensor:
        """The batch's points (B, D)."""
        return batch["points"]

    def mirror(self, data: Tensor, generator: torch.Generator, /) -> Tensor:
        """Points have no mirror image."""
        return data

    def measure(
        self, batches: Iterable[Mapping[str, Any]], all_reduce: Reduce, device: torch.device | str
    ) -> str:
        """Mean and standard deviation of each column over the batches of every rank.

        The sums are float64 on the CPU.
        """
        sums = torch.zeros(2 * self.shape[0] + 1, dtype=torch.float64)
        for batch in batches:
            points = batch["points"].double().cpu()
            rows = points.new_tensor([len(points)])
            sums += torch.cat([points.sum(0), points.square().sum(0), rows])
        sums = all_reduce(sums.to(device) if str(device) != "mps" else sums).cpu()
        mean, second = (sums[:-1] / sums[-1]).chunk(2)
        std = (second - mean.square()).clamp(min=0).sqrt()
        if not (std > 0).all():
            raise Refusal("data: a column is the same in every row; leave it out")
        self.shift.copy_(mean)
        self.scale.copy_(std)
        return f"points: shift {listed(self.shift)}, scale {listed(self.scale)}"

    def encode(self, data: Tensor, randn: Noise | None = None, /, **extras: Tensor) -> Tensor:
        """Points (B, D) -> x_0 (B, D)."""
        return (data.to(self.shift) - self.shift) / self.scale

    def decode(self, x: Tensor) -> Tensor:
        """x (B, D) -> points."""
        return x * self.scale + self.shift

    def finish(self, x: Tensor, extras: Extras) -> Tensor:
        """Finished samples as points on the CPU."""
        return self.decode(x).cpu()

    def exact(self, data: Drawn, schedule: Schedule) -> ExactDenoiser:
        """The exact denoiser of the data in this space, with that of each class."""
        law, classes = data.known()
        own = [one.scaled(self.shift, self.scale) for one in classes]
        return exact_denoiser(law.scaled(self.shift, self.scale), schedule, own)

    def log_jacobian(self) -> Tensor:
        """log |det d x_0 / d points| in nats: added to log p(x_0), the density of the points."""
        return -self.scale.double().log().sum()
