"""Whether samples are copies: closer to pictures that were trained on than unseen pictures are.

The distance of a sample to its nearest training picture says nothing alone: of a large data set
every picture has a near one. Beside it stand the distances of held-out pictures to their nearest
training pictures, which are what a model has that copies nothing (Meehan, Chaudhuri & Dasgupta
2020). The area says how often a sample is the closer of the two; the share, how many samples are
closer than one held-out picture in a hundred is. Blurred samples are closer in pixels than held-out
pictures without being copies: look at the pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.metrics.area import area, area_error
from ldm.metrics.records import Figure, thousands
from ldm.system.batches import as_floats

SIDE = 32  # px, to which larger pictures are averaged before their pixels are compared
CHANCE = 0.01  # share of held-out pictures that are called close
CLEAR = 3.0  # errors above chance from which on samples are said to be copies


def small(images: Tensor) -> Tensor:
    """uint8 (B, C, H, W) -> (B, D): values of the pixels, so that distances are RMS differences.

    In shares of the range from black to white; of more than SIDE pixels a side averages.
    """
    x = (as_floats(images) + 1) / 2
    if max(x.shape[2:]) > SIDE:
        height, width = (min(side, SIDE) for side in x.shape[2:])
        x = F.adaptive_avg_pool2d(x, (height, width))
    return x.flatten(1) / x[0].numel() ** 0.5


class Nearest:
    """The nearest to each query (Q, d) of the rows that were seen: their index, (Q,).

    On the queries' device. `square` is by a matrix product, good to find the nearest by; measure
    the distance to it anew.
    """

    def __init__(self, queries: Tensor):
        self.centre = queries.mean(0)  # about which a matrix product rounds less
        self.queries = queries - self.centre
        self.own = self.queries.square().sum(1)
        self.square = torch.full_like(self.own, torch.inf)
        self.index = torch.full(self.own.shape, -1, device=queries.device)

    def see(self, rows: Tensor, index: Tensor) -> None:
        """Rows (B, d) of the index (B,); of two as near the first seen stays."""
        rows, index = rows.to(self.centre) - self.centre, index.to(self.index)
        table = self.own[:, None] + rows.square().sum(1) - 2 * self.queries @ rows.T
        square, at = table.min(1)
        nearer = square < self.square
        self.square = torch.where(nearer, square, self.square)
        self.index = torch.where(nearer, index[at], self.index)


@dataclass(frozen=True)
class Closeness:
    """Distances of samples (N,) and held-out pictures (M,) to their nearest training pictures.

    view: what they are distances of, in a name; nearest (N,): the training picture of each sample.
    """

    view: str
    samples: np.ndarray
    held_out: np.ndarray
    nearest: np.ndarray

    @property
    def rank(self) -> int:
        """Of the held-out distance that counts as close: the closest of few pictures."""
        return max(1, int(CHANCE * (len(self.held_out) + 1)))

    @property
    def close(self) -> float:
        """The distance below which CHANCE of the held-out pictures are."""
        return float(np.sort(self.held_out)[self.rank - 1])

    @property
    def share(self) -> float:
        """Of the samples that are closer than that."""
        return float((self.samples < self.close).mean())

    @property
    def chance(self) -> tuple[float, float]:
        """The share of samples of the data's own law, and its standard deviation.

        Exact for any law: the number of n draws below the k-th of m others is negative
        hypergeometric, with mean n k / (m + 1).
        """
        n, m = len(self.samples), len(self.held_out)
        p = self.rank / (m + 1)
        return p, (p * (1 - p) * (n + m + 1) / (n * (m + 2))) ** 0.5

    @property
    def copied(self) -> bool:
        """Whether more samples are close than chance allows."""
        expected, error = self.chance
        return self.share > expected + CLEAR * error

    def figures(self) -> dict[str, Figure]:
        """The area and the share, with what is expected of unseen pictures beside."""
        n, m = len(self.samples), len(self.held_out)
        value, (expected, error) = area(self.samples, self.held_out), self.chance
        said = "more than chance allows" if self.copied else "as chance allows"
        close = f"closer than {self.close:.3g}: {said}"
        return {
            f"copies_auc_{self.view}_{thousands(n)}": Figure(
                value, n, 0.5, m, area_error(value, n, m), area_error(0.5, n, m)
            ),
            f"copies_share_{self.view}_{thousands(n)}": Figure(
                self.share, n, expected, m, floor_std=error, note=close
            ),
        }
