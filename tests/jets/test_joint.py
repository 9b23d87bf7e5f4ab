"""The joint law of pt, mass and number: which rows are kept, and what is drawn from them."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from ldm.errors import Refusal
from ldm.jets import joint
from ldm.jets.data import JetSet
from ldm.jets.space import PointCloudSpace

TYPES, N = 2, 3000


def jets(seed=0):
    """Of two types: a mass in a narrow peak beside a broad one, that goes up with the number."""
    random = np.random.default_rng(seed)
    types = np.arange(N) % TYPES
    numbers = np.where(types, random.integers(3, 6, N), random.integers(4, 11, N))
    pt = 1000 * np.exp(0.1 * random.normal(size=N))
    broad = 20.0 * numbers * np.exp(0.3 * random.normal(size=N))
    mass = np.where((types == 1) & (random.random(N) < 0.6), random.normal(80, 0.5, N), broad)
    mask = torch.arange(10) < torch.tensor(numbers)[:, None]
    features = torch.rand(N, 10, 3).masked_fill(~mask[..., None], 0)
    jet = torch.tensor(np.stack([pt, 0 * pt, mass, numbers], 1), dtype=torch.float32)
    return JetSet(features, mask, jet, torch.tensor(types))


def measured(data, parts=None, all_reduce=lambda sums: sums):
    space = PointCloudSpace((10, 3), classes=TYPES, jet=2)
    order = torch.arange(len(data)) if parts is None else parts
    space.measure(
        [data.__getitems__(part.tolist()) for part in order.split(256)], all_reduce, "cpu"
    )
    return space


@pytest.fixture(scope="module")
def data():
    return jets()


@pytest.fixture(scope="module")
def space(data):
    return measured(data)


def drawn(space, kind, count=4000, **given):
    extras = space.draw(range(count), [kind] * count, **given)
    return space.in_gev(extras["jet"]).double().numpy(), extras["mask"].sum(1).numpy()


# -- what is kept ----------------------------------------------------------------------------------
def test_two_ranks_in_any_batches_keep_what_one_keeps(data, space):
    """Each rank is given half of the rows, and the sum is taken over what both bring."""
    mine, other = torch.arange(N).split(N // 2)
    sums, brought = [], []
    measured(
        data, other.flip(0), lambda part: brought.append(part.clone()) or _wide(part, len(brought))
    )
    # of the other rank: its statistics, its number of rows, its rows in the whole set
    assert len(brought) == 3

    def both(part):
        sums.append(part)
        return part + brought[len(sums) - 1]

    again = measured(data, mine, both)
    for (name, a), b in zip(space.state_dict().items(), again.state_dict().values(), strict=True):
        assert (a - b).abs().max() < 1e-5, name
    assert torch.equal(again.joint[..., 2], space.joint[..., 2])


def _wide(part, call):
    """The number of rows of both ranks, without which a rank cannot place its own."""
    return torch.tensor(float(N), dtype=part.dtype) if call == 2 else part


def test_rows_are_spread_evenly_over_mass_and_pt(data):
    rows = torch.cat([data.jet[:, [0, 2]], data.jet[:, 3:]], 1).double()
    kept, random = joint.even(rows, 400), rows[torch.randperm(N, generator=torch.Generator())[:400]]
    off = lambda some, i: wasserstein_distance(some[:, i], rows[:, i]) / rows[:, i].std().item()
    for column in (0, 1):
        assert off(kept, column) < 0.03 and off(kept, column) < off(random, column)
    assert torch.equal(joint.even(rows, N), rows)
    assert len({*map(tuple, kept.tolist())}) == 400


def test_few_jets_of_a_type_are_all_kept():
    data = jets().rows(torch.arange(0, 300))
    table = measured(data).joint
    assert (table[..., 2] > 0).sum(1).tolist() == [150, 150] and (table[:, 150:] == 0).all()


# -- what is drawn ---------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", range(TYPES))
def test_pt_mass_and_number_are_drawn_jointly_by_type(data, space, kind):
    """Margins, and the mass of jets with few and with many constituents, as of other jets."""
    jet, numbers = drawn(space, kind)
    others = jets(1)
    real = others.jet[others.types == kind].double().numpy()
    floor = data.jet[data.types == kind].double().numpy()
    for column in (0, 2):
        off, least = (
            wasserstein_distance(real[:, column], some[:, column]) for some in (jet, floor)
        )
        assert off < 1.5 * least + 0.02 * real[:, column].std()
    assert abs(numbers.mean() - real[:, 3].mean()) < 0.1
    for number in np.unique(real[:, 3])[[0, -1]]:
        made, there = jet[numbers == number, 2], real[real[:, 3] == number, 2]
        assert wasserstein_distance(made, there) < 0.3 * there.std() + 1


def test_a_narrow_peak_stays_narrow_and_no_training_jet_comes_again(data, space):
    jet, _ = drawn(space, 1)
    real = data.jet[data.types == 1].numpy()
    peak = lambda mass: np.mean(abs(mass - 80) < 1.5)
    assert peak(jet[:, 2]) == pytest.approx(peak(real[:, 2]), abs=0.03)
    assert len(np.unique(jet[:, 2])) > 3900
    assert real[:, 2].min() * 0.999 < jet[:, 2].min() and jet[:, 2].max() < real[:, 2].max() * 1.001


def test_nothing_is_drawn_in_a_gap():
    """Between one jet far away and the others; the ends stay."""
    values = torch.tensor([0.5, -11, 0.0, 0.2, 0.6])
    low, high = joint.cell_of(values)
    assert low.tolist() == pytest.approx([0.45, -11, -0.1, 0.1, 0.6])
    assert high.tolist() == pytest.approx([0.55, -11, 0.1, 0.3, 0.6])


def test_what_is_given_is_kept_and_the_rest_drawn_by_it(data, space):
    heavy, light = (drawn(space, 0, 500, numbers=[n] * 500) for n in (10, 4))
    assert {*heavy[1]} == {10} and {*light[1]} == {4}
    assert heavy[0][:, 2].mean() > 1.8 * light[0][:, 2].mean()
    # no jet of training had this number: as of the nearest
    assert drawn(space, 1, 500, numbers=[9] * 500)[0][:, 2].mean() > 60
    for mass, least, most in ((60, 0, 6), (300, 8, 11)):
        asked = space.condition(torch.tensor([[1000.0, 0, mass, 0]])).expand(300, 2)
        extras = space.draw(range(300), [0] * 300, jet=asked)
        assert torch.equal(extras["jet"], asked)
        assert least < extras["mask"].sum(1).float().mean() < most
    both = space.draw(range(300), [0] * 300, numbers=[7] * 300, jet=asked)
    assert torch.equal(both["jet"], asked) and (both["mask"].sum(1) == 7).all()


def test_a_draw_depends_on_its_seed_alone(space):
    whole = space.draw(range(40), [i % 2 for i in range(40)])
    part = space.draw([7, 3], [1, 1])
    for key in ("mask", "jet"):
        assert torch.equal(whole[key][[7, 3]], part[key])


def test_a_network_that_takes_no_jet_gets_none(data):
    space = PointCloudSpace((10, 3), classes=TYPES)
    space.measure([data.__getitems__([*range(N)])], lambda sums: sums, "cpu")
    assert [*space.draw(range(3), [0, 1, 0])] == ["mask"] and "joint" not in space.state_dict()


# -- checkpoints -----------------------------------------------------------------------------------
def test_what_no_training_measures_is_refused(space):
    space.expect_measured("it")
    for change in (
        lambda table: table[0, 0, 2].fill_(2.5),
        lambda table: table[0, 0, 2].fill_(11),
        lambda table: table[1, 0, 2].fill_(-1),
        lambda table: table[1, 0, 1].fill_(1e6),
    ):
        odd = copy.deepcopy(space)
        change(odd.joint)
        with pytest.raises(Refusal, match="of no model"):
            odd.expect_measured("it")
