"""The space: where the diffusion happens. `encode(data, randn) -> x_0` and `decode(x) -> data`.

The pixel baseline, latent diffusion and point clouds are one training module with another space. A
space knows what a batch holds, what the denoiser is given of it, and what a finished sample is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
Noise = Callable[[Shape], Tensor]  # standard normal numbers of a shape
Reduce = Callable[[Tensor], Tensor]
# what the denoiser is given beside class and caption: the mask of clouds, channels beside x_t
Extras = dict[str, Tensor]


class SpaceConfig(ABC):
    """The base of every space's config. `modality`: which data and networks belong to it."""

    modality: ClassVar[str]

    @property
    def cached(self) -> bool:
        """Whether the training set is encoded once."""
        return False

    @property
    def first_stage(self) -> str | None:
        """What names the autoencoder under it; None where there is none."""
        return None

    @abstractmethod
    def build(
        self, shape: Shape, autoencoder: nn.Module | None, classes: int, features: int
    ) -> "Space":
        """The space of data of `shape`; `features`: how many the denoiser is conditioned on."""

    def upgraded(self, found: dict[str, Tensor], classes: int, features: int) -> dict[str, Tensor]:
        """A checkpoint's statistics with what an earlier version did not keep, unmeasured."""
        return found


class Space(nn.Module, ABC):
    """What all spaces have. `shape` is x_0's and `data_shape` the data's, without the batch.

    `modality` says which data, networks and panels belong to it ("pictures", "jets"), `kind` which
    tasks it can do.
    """

    modality: ClassVar[str]
    kind: ClassVar[str]
    measured: ClassVar[bool] = (
        False  # whether anything of the training set is measured before the first step
    )
    shape: Shape
    data_shape: Shape

    @abstractmethod
    def read(self, batch: Mapping[str, Any]) -> Tensor:
        """The data of a batch, (B, ...), as `encode` takes them."""

    @abstractmethod
    def mirror(self, data: Tensor, generator: torch.Generator, /) -> Tensor:
        """Half of the data mirrored, each row or not by the generator."""

    @abstractmethod
    def encode(self, data: Tensor, randn: Noise, /, **extras: Tensor) -> Tensor:
        """Data -> x_0, (B, *shape)."""

    @abstractmethod
    def finish(self, x: Tensor, extras: Extras) -> Tensor:
        """Finished samples, on the CPU: what is written and shown."""

    def extras(self, batch: Mapping[str, Any]) -> Extras:
        """What the denoiser is always given of a batch."""
        return {}

    def features(self, batch: Mapping[str, Any]) -> Extras:
        """What it may be given, and may be left without, beside the class."""
        return {}

    def draw(self, seeds: Sequence[int], labels: Sequence[int] | None = None) -> Extras:
        """What the denoiser is given when sampling, a row for each seed."""
        return {}

    def rows(self, count: int) -> Extras:
        """The same for rows of the largest size: what the denoiser is tried with."""
        return {}

    @property
    def first_stage(self) -> nn.Module | None:
        """The frozen autoencoder inside it, if there is one."""
        return None

    @property
    def units(self) -> tuple[Tensor, Tensor] | None:
        """Where x = 0 lies in the data or latents, and what x = 1 is there, if that is measured."""
        return None

    def note(self, about: Mapping[str, Any]) -> None:
        """The data's properties beside their shape (`DataSet.about`)."""

    def measure(
        self, batches: Iterable[Mapping[str, Any]], all_reduce: Reduce, device: torch.device | str
    ) -> str:
        """Measure statistics over the batches of every rank, and print them in one line."""
        return ""

    def expect_measured(self, where: str) -> None:
        """Refusal if a checkpoint's statistics cannot have been measured."""

    def verify(self, data: Tensor, all_reduce: Reduce) -> list[str]:
        """Lines about a batch of training data that went through the space.

        Refusal if nothing can be learnt there.
        """
        return []

    def posterior(self, data: Tensor) -> Tensor | None:
        """Moments (B, 2 z, h, w) of q(z | data), of a space of latents."""
        return None

    def statistics(self, x_0: Tensor) -> dict[str, Tensor]:
        """What validation logs of encoded data, by name."""
        return {}


def listed(values: Tensor) -> str:
    """A few numbers for a person."""
    return " ".join(f"{v:.3g}" for v in values.tolist())
