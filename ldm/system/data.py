"""What a data set is to the rest of the program: protocols for pictures, jets and your own."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from ldm.errors import require
from ldm.system.batches import Batch, Columns
from ldm.system.identity import hash_of


class Rows(Protocol):
    """Rows that are loaded in whole batches. Every batch has `label` and `index`, (B,) int64."""

    @property
    def captions(self) -> Sequence[str]:
        """Of every row, "" where there is none; nothing where no row has one."""

    @property
    def columns(self) -> Columns:
        """A batch's keys beside the data themselves, `label` and `index`: captions are `text`.

        They are had without reading the data: so a latent cache has them too.
        """

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Batch: ...

    def __getitems__(self, indices: list[int]) -> Batch:
        """These rows, stacked."""

    def identity(self) -> dict[str, str]:
        """Short hashes: `content` of the rows, `labels` and `captions` of their annotations."""

    def fingerprint(self) -> str:
        """A hash of all from which something is computed and kept: the latent cache's key."""


class PlainRows(Dataset[Batch], ABC):
    """Rows without captions and without further columns, whose hashes are all there is to know."""

    @property
    def captions(self) -> tuple[str, ...]:
        return ()

    @property
    def columns(self) -> dict[str, Tensor]:
        return {}

    def __getitem__(self, i: int) -> Batch:
        return self.__getitems__([i])

    @abstractmethod
    def __getitems__(self, indices: list[int]) -> Batch:
        """These rows, stacked."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """As of `Rows`."""

    def fingerprint(self) -> str:
        return hash_of(*self.identity().values())


class DataSet(Protocol):
    """A loaded data set: three sets of rows, the classes' names, and the shape of one row."""

    @property
    def train(self) -> Rows: ...

    @property
    def held_out(self) -> Rows:
        """What training measures itself on."""

    @property
    def test(self) -> Rows: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def about(self) -> dict[str, Any]:
        """What a checkpoint keeps of it beside the config."""

    def shown(self, count: int) -> Tensor:
        """Held-out data for a panel."""


@dataclass
class DataConfig(ABC):
    """Settings of every data set. `batch_size` is per device; `flip` mirrors half of training."""

    batch_size: int = 128
    workers: int = 0
    flip: bool = False
    modality: ClassVar[str]
    axes: ClassVar[int]  # of one row
    evaluated: ClassVar[bool] = False  # whether `evaluate.every` has figures of them
    features: ClassVar[str] = ""  # the data set whose classifier judges it, where not its own
    configured: ClassVar[bool] = True  # whether a config is enough to load it

    def __post_init__(self) -> None:
        got = f"got {self.batch_size}, {self.workers}"
        whole = self.batch_size >= 1 and self.workers >= 0
        require(whole, f"batch_size must be at least 1 and workers at least 0, {got}")

    @property
    def side(self) -> int | None:
        """Pixels of the longer side, where the settings fix it."""
        return None

    @abstractmethod
    def load(self) -> DataSet:
        """Read the data set; Refusal where it cannot be had."""
