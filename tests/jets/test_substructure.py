"""Substructure against its definitions written out, and jets whose prongs are known; the classifier."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import ROOT
from scipy.stats import wasserstein_distance

from ldm.jets import twosample
from ldm.jets.files import read_jets
from ldm.jets.metrics import SUBSTRUCTURE, Cloud, evaluate_jets
from ldm.jets.substructure import (
    FEATURES,
    RATIOS,
    correlators,
    jet_features,
    kt_axes,
    ratios,
    subjettiness,
)


@pytest.fixture(scope="module")
def gluons():
    features, mask, _ = map(
        torch.from_numpy, read_jets(ROOT / "tests/fixtures/gluon30_400.hdf5", 30)
    )
    return Cloud(features, mask)


# -- the definitions, written out ------------------------------------------------------------------
def apart(a, b):
    around = abs(a[1] - b[1]) % (2 * math.pi)
    return math.hypot(a[0] - b[0], min(around, 2 * math.pi - around))


def axes(jet, count):
    """Exclusive kT with winner-takes-all recombination, pair by pair."""
    left = [tuple(one) for one in jet]
    while len(left) > count:
        distance = lambda a, b: min(a[2], b[2]) ** 2 * apart(a, b) ** 2
        a, b = min(itertools.combinations(left, 2), key=lambda pair: distance(*pair))
        left = [one for one in left if one is not a and one is not b]
        harder = max(a, b, key=lambda one: one[2])
        left.append((*harder[:2], a[2] + b[2]))
    return left


def tau(jet, count):
    total, found = sum(one[2] for one in jet), axes(jet, count)
    return sum(one[2] * min(apart(one, axis) for axis in found) for one in jet) / total


def energy_correlation(jet, count):
    total = sum(one[2] for one in jet)
    return sum(
        math.prod(one[2] / total for one in some)
        * math.prod(apart(a, b) for a, b in itertools.combinations(some, 2))
        for some in itertools.combinations(jet, count)
    )


def test_ratios_are_their_definitions(gluons):
    """Of real jets, one across the seam of phi, one with fewer constituents, pt in GeV."""
    few = Cloud(gluons.features[:8].double().clone(), gluons.mask[:8].clone())
    few.features[1, :, 1] = (
        torch.remainder(few.features[1, :, 1] + 2 * math.pi, 2 * math.pi) - math.pi
    )
    few.features[2, :, 1] += math.pi
    few.mask[3, 4:] = False
    few.features[4, :, 2] *= 900
    few.features[~few.mask] = 7.0  # what lies at padding is nothing
    taus, (e2, e3), found = subjettiness(*few), correlators(*few), ratios(*few)
    for i in range(8):
        jet = few.features[i][few.mask[i]].tolist()
        for n in (1, 2, 3):
            assert taus[i, n - 1].item() == pytest.approx(tau(jet, n), rel=1e-9), (i, n)
        assert e2[i].item() == pytest.approx(energy_correlation(jet, 2), rel=1e-9)
        assert e3[i].item() == pytest.approx(energy_correlation(jet, 3), rel=1e-9)
        assert found["tau21"][i] == pytest.approx(tau(jet, 2) / tau(jet, 1), rel=1e-9)
        assert found["tau32"][i] == pytest.approx(tau(jet, 3) / tau(jet, 2), rel=1e-9)
        assert found["d2"][i] == pytest.approx((e3 / e2**3)[i].item(), rel=1e-9)


def prongs(count, spread=0.0, each=4):
    """A jet of `count` directions at the corners of a figure of side 0.3, as hard as each other."""
    corners = torch.tensor([(0.0, 0.0), (0.3, 0.0), (0.15, 0.3 * math.sqrt(0.75))])[:count]
    place = corners.repeat_interleave(each, 0)
    place = place + spread * torch.randn(place.shape, generator=torch.Generator().manual_seed(0))
    pt = torch.full((len(place), 1), 1 / len(place)) * torch.linspace(0.9, 1.1, len(place))[:, None]
    features = torch.zeros(1, 12, 3)
    features[0, : len(place)] = torch.cat([place, pt], 1)
    return Cloud(features, torch.arange(12)[None] < len(place))


def test_known_jets():
    """One, two and three prongs: tau_N is 0 from as many axes on, as it is without width.

    Two prongs of half the pt and 0.3 apart: tau_1 = 0.15, e_2 = 0.075, e_3 = 0. Three of a third:
    tau_1 = 0.2, tau_2 = 0.1, e_2 = 3 0.3 / 9 = 0.1, e_3 = 0.3^3 / 27 = 0.001, so that D2 = 1.
    """
    equal = lambda count: Cloud(
        prongs(count).features.where(torch.tensor([True, True, False]), 1 / (4 * count)),
        prongs(count).mask,
    )
    known = {1: (0, 0, 0, 0), 2: (0.15, 0, 0.075, 0), 3: (0.2, 0.1, 0.1, 0.001)}
    for count, (first, second, e_2, e_3) in known.items():
        taus, (e2, e3) = subjettiness(*equal(count))[0], correlators(*equal(count))
        assert taus.tolist() == pytest.approx([first, second, 0], abs=1e-6), count
        assert (e2.item(), e3.item()) == pytest.approx((e_2, e_3), abs=1e-6), count
    assert ratios(*equal(3))["d2"].item() == pytest.approx(1, rel=1e-5)
    wide = {count: ratios(*prongs(count, 0.01)) for count in (1, 2, 3)}
    assert wide[2]["tau21"] < 0.15 < 0.4 < wide[1]["tau21"] and wide[2]["d2"] < wide[1]["d2"]
    assert wide[3]["tau32"] < 0.15 < 0.3 < min(wide[1]["tau32"], wide[2]["tau32"])


def test_jets_of_few_constituents():
    """One constituent has neither width nor prongs, two have no third: zeros, and no NaN."""
    features = torch.tensor([[0.1, 0.0, 0.6], [-0.1, 0.0, 0.4], [9.0, 9.0, 9.0]]).expand(2, 3, 3)
    mask = torch.tensor([[True, False, False], [True, True, False]])
    found = ratios(features, mask)
    assert not any(found[key][0] for key in found)
    assert found["tau21"][1] == found["tau32"][1] == found["d2"][1] == 0
    assert subjettiness(features, mask)[1, 0].item() == pytest.approx(0.4 * 0.2)
    table = jet_features(features, mask)
    assert table.shape == (2, len(FEATURES)) == (2, 22) and torch.isfinite(table).all()
    assert [axis[0, :, 2].tolist() for axis in kt_axes(features, mask)] == [[1], [1, 0], [1, 0, 0]]


def test_features_do_not_see_the_order_of_constituents(gluons):
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    mixed = Cloud(gluons.features[:50, order], gluons.mask[:50, order])
    torch.testing.assert_close(jet_features(*mixed), jet_features(*(x[:50] for x in gluons)))


# -- as metrics ------------------------------------------------------------------------------------
def test_substructure_is_seen(gluons):
    """Angles drawn anew for every constituent: its pt and its angle's law stay, its prongs do not."""
    halves = [Cloud(gluons.features[i::2], gluons.mask[i::2]) for i in (0, 1)]
    order = torch.randperm(200 * 30, generator=torch.Generator().manual_seed(2))
    places = halves[1].features[..., :2].reshape(-1, 2)[order].reshape(200, 30, 2)
    mixed = Cloud(torch.cat([places, halves[1].features[..., 2:]], -1), halves[1].mask)
    settings = dict(metrics=SUBSTRUCTURE, draws=2000, progress=False)
    floor, found = (evaluate_jets(halves[0], other, **settings) for other in (halves[1], mixed))
    assert [*found] == ["w1tau21_2k", "w1tau32_2k", "w1d2_2k"]
    for key in RATIOS:
        both = (ratios(*one)[key].numpy() for one in (halves[0], mixed))
        whole = wasserstein_distance(*both)  # of all of them, not of draws
        assert found[f"w1{key}_2k"][0] == pytest.approx(whole, rel=0.2), key
    for key in ("tau21", "d2"):
        assert found[f"w1{key}_2k"][0] > 3 * floor[f"w1{key}_2k"][0], key


def test_a_classifier_tells_nothing_of_equal_laws_and_much_of_others(gluons):
    """Six splits of Gaussian numbers: the AUC is 0.5 to its error, each of which is the known one.

    Of two Gaussians whose means are d apart, no classifier is above Phi(d / sqrt 2).
    """
    rng = np.random.default_rng(0)
    pulls = []
    for seed in range(6):
        value, error = twosample.auc(rng.normal(size=(400, 3)), rng.normal(size=(400, 3)), seed)
        assert error == pytest.approx(1.5 * math.sqrt(1 / (6 * 400)), rel=0.05)
        pulls.append((value - 0.5) / error)
    assert np.sqrt(np.mean(np.square(pulls))) < 2 and abs(np.mean(pulls)) < 1.2
    value, error = twosample.auc(rng.normal(size=(900, 3)), rng.normal([1, 0, 0], 1, (600, 3)))
    best = 0.5 * (1 + math.erf(0.5))
    assert best - 0.06 < value < best + 3 * error


def test_the_classifier_is_a_metric(gluons):
    """Jets with pt and angles shuffled apart are told from real ones; its name has their number."""
    halves = [Cloud(gluons.features[i::2], gluons.mask[i::2]) for i in (0, 1)]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    mixed = Cloud(
        torch.cat([halves[1].features[..., :2], halves[1].features[:, order, 2:]], -1),
        halves[1].mask,
    )
    real, fake = (
        evaluate_jets(halves[0], one, ("auc",), progress=False) for one in (halves[1], mixed)
    )
    assert [*fake] == ["auc_200"] and fake["auc_200"][0] > 0.8
    assert abs(real["auc_200"][0] - 0.5) < 3 * real["auc_200"][1]
    again = evaluate_jets(halves[0], mixed, ("auc",), progress=False)
    assert again == fake
