"""Points: a law in the plane to draw from, or the rows of a CSV, held in memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ldm.errors import require
from ldm.points.exact import Finite, Law, Mixture
from ldm.points.files import darkness, from_picture, read_csv
from ldm.points.shapes import SHAPES
from ldm.system.batches import Batch
from ldm.system.data import DataConfig, PlainRows
from ldm.system.identity import hash_of
from ldm.system.randomness import generator, permutation

Kind = Literal["mixture", "moons", "spiral", "rings", "checkerboard", "picture", "csv"]
HELD_OUT = 0.1  # share of a CSV's rows, and as many again to test on


class PointSet(PlainRows):
    """Points (N, D) float32 in memory, and the class of each (N,)."""

    def __init__(self, points: Tensor, labels: Tensor):
        self.points, self.labels = points.float(), labels.long()

    def __len__(self) -> int:
        return len(self.points)

    def identity(self) -> dict[str, str]:
        """Hashes of the points and of their classes, for the checkpoint."""
        return {"content": hash_of(self.points), "labels": hash_of(self.labels)}

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.tensor(indices)
        return {"points": self.points[rows], "label": self.labels[rows], "index": rows}


@dataclass
class Drawn:
    """A data set of points: three sets, the classes' names, the columns' names, and the law.

    `law` is None where nothing is known of the data but their rows.
    """

    train: PointSet
    held_out: PointSet
    test: PointSet
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    law: Mixture | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.columns),)

    def about(self) -> dict[str, Any]:
        """What a checkpoint keeps of it beside the config."""
        return {"columns": list(self.columns)}

    def shown(self, count: int) -> Tensor:
        """The first held-out points, (N, D)."""
        return self.held_out.points[:count]

    def known(self) -> tuple[Law, list[Law]]:
        """What an exact denoiser is made of: the law and that of each class.

        The mixture that was drawn from, or the law of the training set itself, `Finite`.
        """
        kinds = range(len(self.classes))
        if self.law is not None:
            return self.law, [self.law.only(k) for k in kinds]
        points, labels = self.train.points, self.train.labels
        return Finite(points), [Finite(points[labels == k]) for k in kinds]


@dataclass
class Points(DataConfig):
    """Points in the plane by `kind`, or of a CSV with 1 to 8 columns (`file`).

    mixture: round Gaussians at `means` of standard deviations `stds` and `weights` (empty: equal).
    noise: the blur of the other kinds; below 0 as is usual for the kind. picture: points lie where
    `file` is dark (empty: a face). csv: `label` names the column of classes. Of drawn kinds there
    are `count` training points and `held_out` more, twice: to validate and to test on.
    """

    batch_size: int = 1024
    kind: Kind = "mixture"
    count: int = 50_000
    held_out: int = 10_000
    noise: float = -1.0
    means: list[list[float]] = field(
        default_factory=lambda: [[-2, -1], [2.0, -1.5], [0.0, 2.0], [0.3, -0.3], [2.0, 1.2]]
    )
    stds: list[float] = field(default_factory=lambda: [0.4, 0.25, 0.5, 0.2, 0.3])
    weights: list[float] = field(default_factory=list)
    file: str = ""
    label: str = ""
    seed: int = 0  # of the drawing, or of the split of a CSV
    modality: ClassVar[str] = "points"
    axes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not self.flip, "flip is of pictures and jets")
        require(2 <= self.count <= 10_000_000, f"count must be in 2 ... 10^7, got {self.count}")
        require(
            1 <= self.held_out <= 10_000_000, f"held_out must be in 1 ... 10^7, got {self.held_out}"
        )
        require(self.kind != "csv" or bool(self.file), "kind=csv needs file=FILE.csv")
        require(not self.label or self.kind == "csv", "label is a column's name, of kind=csv")
        require(math.isfinite(self.noise), f"noise must be a finite number, got {self.noise}")
        self._expect_mixture()

    def _expect_mixture(self) -> None:
        widths, k = {len(mean) for mean in self.means}, len(self.means)
        require(
            len(widths) == 1 and 1 <= min(widths) <= 8, "means need 1 to 8 numbers each, as many"
        )
        fits = len(self.stds) == k and len(self.weights) in (0, k)
        require(fits, f"stds and weights need a number for each of {k} means")
        require(min(self.stds) > 0, "stds must be above 0")
        require(not self.weights or min(self.weights) > 0, "weights must be above 0")

    def load(self) -> Drawn:
        """Draw the points, or read and split the file; Refusal where it cannot be read."""
        if self.kind == "csv":
            return self._read()
        if self.kind == "mixture":
            law = Mixture.round(self.means, self.stds, self.weights or None)
            names = tuple(str(k + 1) for k in range(len(self.means)))
            width = len(self.means[0])
            return self._drawn(law.drawn, names if len(names) > 1 else (), width, law)
        if self.kind == "picture":
            dark = darkness(self.file)
            lie = lambda n, g: (from_picture(dark, n, g), torch.zeros(n))  # noqa: E731
            return self._drawn(lie, ())
        shape, usual, classes = SHAPES[self.kind]
        noise = usual if self.noise < 0 else self.noise
        return self._drawn(lambda n, g: shape(n, noise, g), classes)

    def _drawn(
        self,
        draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]],
        classes: tuple[str, ...],
        width: int = 2,
        law: Mixture | None = None,
    ) -> Drawn:
        """Three sets, each a function of the seed and its own name."""
        sizes = {"train": self.count, "held out": self.held_out, "test": self.held_out}
        sets = [
            PointSet(*draw(n, generator(self.seed, "points", name))) for name, n in sizes.items()
        ]
        columns = ("x", "y") if width == 2 else tuple(f"x{i + 1}" for i in range(width))
        return Drawn(sets[0], sets[1], sets[2], classes, columns, law)

    def _read(self) -> Drawn:
        table = read_csv(Path(self.file).expanduser(), self.label)
        n = len(table.points)
        order, held = permutation(n, self.seed, "split"), max(1, int(HELD_OUT * n))
        parts = order[2 * held :], order[:held], order[held : 2 * held]
        sets = [PointSet(table.points[rows], table.labels[rows]) for rows in parts]
        return Drawn(sets[0], sets[1], sets[2], table.classes, table.columns)
