"""What is close by chance, and the nearest of many: against their definitions."""

import numpy as np
import pytest
import torch

from ldm.metrics.area import area, area_error
from ldm.metrics.copies import SIDE, Closeness, Nearest, small


def test_area_is_its_definition():
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 6, 40), rng.integers(2, 9, 30)  # with ties
    pairs = [(high > one).mean() + (high == one).mean() / 2 for one in low]
    assert area(low, high) == pytest.approx(np.mean(pairs))
    assert area(low, high) + area(high, low) == pytest.approx(1)
    assert area_error(0.5, 400, 300) == pytest.approx((701 / (12 * 400 * 300)) ** 0.5, rel=0.01)
    assert area_error(1.0, 9, 9) == 0 and area_error(0.2, 30, 30) == area_error(0.8, 30, 30)


def test_the_nearest_is_found_in_any_batches():
    """Also of copies, whose distance a matrix product gets wrong; of two as near the first seen."""
    generator = torch.Generator().manual_seed(0)
    rows, queries = (100 + torch.randn(n, 30, generator=generator) for n in (500, 70))
    rows[200] = rows[100]
    queries[:3] = rows[[7, 100, 450]]
    exact = torch.cdist(queries.double(), rows.double()).argmin(1)
    exact[1] = 100
    for size in (500, 64, 1):
        near = Nearest(queries)
        for i in range(0, 500, size):
            near.see(rows[i : i + size], torch.arange(i, min(i + size, 500)))
        assert torch.equal(near.index, exact), size


def test_distances_of_pixels_are_rms_differences():
    dark, grey = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.full((1, 3, 8, 8), 51).byte()
    assert (small(dark) - small(grey)).norm().item() == pytest.approx(0.2)
    large = torch.zeros(1, 1, 64, 128, dtype=torch.uint8)
    large[..., ::2] = 102  # stripes of a pixel are averaged away
    assert small(large).shape == (1, SIDE * SIDE)
    even = torch.full((1, 1, SIDE, SIDE), 51).byte()
    assert (small(large) - small(even)).norm().item() == pytest.approx(0, abs=1e-6)


def closeness(samples, held_out):
    return Closeness("pixels", samples, held_out, np.zeros(len(samples), int))


def test_chance_is_what_happens_by_chance():
    """Over 3,000 draws of one law: mean and deviation of the share, and no copies in most."""
    rng, found, said = np.random.default_rng(0), [], 0
    for _ in range(3000):
        one = closeness(rng.normal(size=60), rng.normal(size=250))
        found.append(one.share)
        said += one.copied
    mean, deviation = one.chance
    assert one.rank == 2 and mean == pytest.approx(2 / 251)
    assert np.mean(found) == pytest.approx(mean, abs=4 * deviation / 3000**0.5)
    assert np.std(found) == pytest.approx(deviation, rel=0.08)
    assert said < 3000 * 0.04
    few = closeness(rng.normal(size=60), rng.normal(size=20))
    assert (
        few.rank == 1 and few.chance[0] == pytest.approx(1 / 21) and few.close == few.held_out.min()
    )


def test_copies_are_flagged():
    rng = np.random.default_rng(0)
    held_out, fresh = rng.uniform(1, 2, 500), rng.uniform(1, 2, 400)
    some = np.where(np.arange(400) < 40, 0.1, fresh)  # a tenth
    assert not closeness(fresh, held_out).copied
    one = closeness(some, held_out)
    assert one.copied and one.share == pytest.approx(0.1, abs=0.02)
    figures = closeness(np.zeros(400), held_out).figures()
    assert [*figures] == ["copies_auc_pixels_400", "copies_share_pixels_400"]
    auc, share = figures.values()
    assert (
        auc.value == share.value == 1 and auc.floor == 0.5 and share.floor == pytest.approx(5 / 501)
    )
    assert "more than chance allows" in share.note and auc.floor_n == 500
