"""The joint law of a jet's pt, mass and number of constituents, by type: rows of the training set.

A row is log pt, log(mass / pt), both standardised, and a number n. Of each type up to `ROWS` jets
are kept, spread evenly over mass and pt. A draw takes n, then one of the rows with n, and moves
each feature evenly within its cell: by up to half the distance to the nearer of its neighbours
among all rows. That is close to the checkerboard form of the empirical copula (Genest, Neslehova &
Remillard 2017) with continuous margins: a narrow peak stays narrow, as no kernel has a width.
Cells that reach half-way to both neighbours would fill the gap between a jet of mass 0 and the next
with jets that are not there, from which a network makes nonsense.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.diffusion.space import Reduce
from ldm.errors import Refusal
from ldm.system.randomness import generator

ROWS = 2000  # jets of each type that are kept
NEAR = 32  # rows nearest in pt and mass, of which a number of constituents is one


class Rows:
    """The training jets of every rank: type, log pt, log(mass / pt) and number of each."""

    def __init__(self) -> None:
        self.places: list[Tensor] = []
        self.values: list[Tensor] = []

    def add(self, index: Tensor, types: Tensor, jet: Tensor, numbers: Tensor) -> None:
        """A batch of jets: their rows in the set (B,), types, features (B, 2) and numbers (B,)."""
        self.places.append(index.cpu())
        columns = [types[:, None], jet, numbers[:, None]]
        self.values.append(torch.cat([part.double().cpu() for part in columns], 1))

    def table(self, types: int, all_reduce: Reduce) -> Tensor:
        """(types, ROWS, 3) of log pt, log(mass / pt), number, zeros after the last row of a type.

        Which jets are kept depends on the training set alone: not on batches, nor on ranks.
        """
        places, values = torch.cat(self.places), torch.cat(self.values)
        total = int(all_reduce(torch.tensor(float(len(places)))))
        whole = values.new_zeros(total, 4)
        whole[places] = values  # every jet is of one rank, so that sums only bring them together
        whole = all_reduce(whole).cpu()
        table = values.new_zeros(types, ROWS, 3)
        for kind in range(types):
            rows = even(whole[whole[:, 0].clamp(max=types - 1) == kind][:, 1:], ROWS)
            table[kind, : len(rows)] = rows
        return table


def even(rows: Tensor, most: int) -> Tensor:
    """At most so many of the rows (N, 3), spread evenly over the second column, then the first.

    In strips of equal numbers by the second column, each in the order of the first, every
    (N / most)-th is kept: its margins are off by less than those of as many random rows.
    """
    if len(rows) <= most:
        return rows
    strips = rows[:, 1].argsort(stable=True).tensor_split(round(most**0.5))
    order = torch.cat([strip[rows[strip, 0].argsort(stable=True)] for strip in strips])
    return rows[order[((torch.arange(most) + 0.5) * len(rows) / most).long()]]


def of_type(table: Tensor) -> Tensor:
    """The rows (R, 3) of one type's table (ROWS, 3) that hold a jet, on the CPU."""
    return table[table[:, 2] > 0].cpu()


def expect_whole(table: Tensor, most: int, where: str) -> None:
    """Refusal of a checkpoint's table whose numbers are not whole ones of 0 ... most."""
    numbers = table[..., 2]
    if ((numbers < 0) | (numbers > most) | (numbers % 1 != 0)).any():
        raise Refusal(
            f"{where}: its jets' joint table has numbers that are not whole or above {most}; it "
            "is of no model"
        )


def features(rows: Tensor, asked: Sequence[tuple[int, int]]) -> Tensor:
    """Standardised log pt and log(mass / pt), (B, 2), of jets of a seed and a number each.

    Of rows (R, 3) with this number, or with the nearest that there is.
    """
    low, high = (torch.stack(ends, 1) for ends in zip(*map(cell_of, rows.T[:2]), strict=True))
    found = []
    for seed, number in asked:
        u = torch.rand(3, generator=generator("jet", int(seed)), dtype=torch.float64)
        off = (rows[:, 2] - number).abs()
        fitting = (off == off.min()).nonzero()[:, 0]
        row = fitting[int(u[0] * len(fitting))]
        found.append(torch.lerp(low[row].double(), high[row].double(), u[1:]))
    return torch.stack(found).float()


def cell_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of each cell of (R,) values: half the distance to the nearer neighbour on each side.

    The smallest and the largest do not move.
    """
    order = values.argsort(stable=True)
    gaps = values[order].diff()
    nothing = gaps.new_zeros(1)
    half = torch.empty_like(values)
    half[order] = torch.minimum(torch.cat([nothing, gaps]), torch.cat([gaps, nothing])) / 2
    return values - half, values + half


def number(rows: Tensor, jet: Tensor, u: float) -> int:
    """The u-th of the numbers that the NEAR rows nearest to jet (2,) have, 0 <= u < 1."""
    near = (rows[:, :2] - jet).square().sum(1).argsort(stable=True)[:NEAR]
    return int(rows[near[int(u * len(near))], 2])
