"""Metrics of jets against cases computed by hand or by brute force, invariances, and the floor."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from helpers import ROOT

from ldm.errors import Refusal
from ldm.jets import efp
from ldm.jets.distances import fpd, frechet, kernel_mmd, kpd
from ldm.jets.files import read_jets
from ldm.jets.kinematics import jet_kinematics
from ldm.jets.metrics import CHEAP, Cloud, evaluate_jets
from ldm.jets.particlenet import LARGEST, NEIGHBOURS, ParticleNet, activations, fpnd, resources
from ldm.jets.plots import histograms, jet_images, mean_image, ratio, reverse_process
from ldm.jets.sample import checked

REAL = ROOT / "tests/fixtures/gluon30_400.hdf5"
SMALL = {"draws": 500, "progress": False}


def gluons(part=slice(None)):
    features, mask, _ = map(torch.from_numpy, read_jets(REAL, 30))
    return Cloud(features[part], mask[part])


def up_to_four(features, mask):
    """The 36 EFPs of at most 4 edges, (N, 36)."""
    return efp.with_products(efp.efps(features, mask, efp.GRAPHS))


def brute_force(graph, jet):
    """The definition, term by term."""
    n = max((max(edge) for edge in graph), default=0) + 1
    total = 0.0
    for chosen in product(range(len(jet)), repeat=n):
        term = math.prod(jet[i][2] for i in chosen)
        for a, b in graph:
            (eta1, phi1, _), (eta2, phi2, _) = jet[chosen[a]], jet[chosen[b]]
            term *= math.hypot(eta1 - eta2, phi1 - phi2)
        total += term
    return total


# -- energy flow polynomials -----------------------------------------------------------------------
def test_there_are_as_many_graphs_as_published():
    """Komiske et al. 2018, table 1: connected multigraphs 1, 2, 5, 12 and all 1, 3, 8, 23 for 1 ...
    4 edges.
    """
    assert [len(efp.connected_graphs(d)) for d in range(5)] == [1, 1, 2, 5, 12]
    assert len(efp.four_by_four()) == 5 and up_to_four(*gluons(slice(2))).shape == (2, 36)


@pytest.mark.parametrize("edges", range(5))
def test_polynomials_are_their_definition(edges):
    rng = np.random.default_rng(edges)
    jet = np.concatenate([rng.normal(0, 0.2, (4, 2)), rng.random((4, 1))], 1)
    features = torch.tensor(np.concatenate([jet, np.full((2, 3), 7.0)]))[
        None
    ]  # padding must not count
    graphs = efp.connected_graphs(edges)
    ours = efp.efps(features, torch.tensor([[True] * 4 + [False] * 2]), graphs)[0]
    assert ours == pytest.approx([brute_force(graph, jet) for graph in graphs], rel=1e-10)


def test_polynomials_of_two_particles_by_hand():
    """Two of pt a, b at distance r: one edge gives 2 a b r, a double one 2 a b r^2, the dot a + b."""
    jet = torch.tensor([[[0.0, 0.0, 0.6], [0.3, 0.4, 0.2]]], dtype=torch.float64)
    values = efp.efps(jet, torch.ones(1, 2).bool(), ((), ((0, 1),), ((0, 1), (0, 1))))[0]
    assert values == pytest.approx([0.8, 2 * 0.6 * 0.2 * 0.5, 2 * 0.6 * 0.2 * 0.25])


# -- distances -------------------------------------------------------------------------------------
def test_frechet_distance_by_hand():
    """Commuting covariances: |m|^2 + sum (s1 - s2)^2; and a rotation of both changes nothing."""
    a, b, m = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 0.25]), np.array([1.0, 2.0, 0.0])
    expected = 5 + (1 - 3) ** 2 + (2 - 1) ** 2 + 0.5**2
    assert frechet(np.zeros(3), np.diag(a), m, np.diag(b)) == pytest.approx(expected)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotated = frechet(np.zeros(3), turn @ np.diag(a) @ turn.T, turn @ m, turn @ np.diag(b) @ turn.T)
    assert rotated == pytest.approx(expected)


def test_kernel_mmd_is_the_double_sum():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(1, 1, size=(4, 3))
    k = lambda a, b: (a @ b / 3 + 1) ** 4
    mean = lambda pairs: np.mean([k(a, b) for a, b in pairs])
    within = lambda z: mean([(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])
    assert kernel_mmd(x, y) == pytest.approx(within(x) + within(y) - 2 * mean(product(x, y)))


def test_fpd_and_kpd_see_a_shift_and_scale_out():
    rng = np.random.default_rng(0)
    x, y = rng.random((2000, 4)), rng.random((2000, 4))
    same, shifted = (fpd(x, z, smallest=500, largest=2000)[0] for z in (y, y + 0.1))
    assert 0 <= same < 0.004 and shifted == pytest.approx(4 * 0.1**2, rel=0.2)
    units = np.array([1, 10, 1e-3, 7])
    assert fpd(x * units, y * units, smallest=500, largest=2000)[0] == pytest.approx(same, rel=1e-6)
    assert abs(kpd(x, y, size=500)[0]) < kpd(x, y + 0.1, size=500)[0] / 3


def test_energy_movers_distance_by_hand():
    pytest.importorskip("ot")
    from ldm.jets.emd import cov_mmd, energy_movers_distance

    one, moved = np.array([[0.0, 0.0, 0.5]]), np.array([[0.3, 0.4, 0.5]])
    heavier = np.array([[0.3, 0.4, 0.5], [0.0, 0.0, 0.2]])
    assert energy_movers_distance(one, moved) == pytest.approx(
        0.25
    )  # 0.5 of pt over a distance of 0.5
    assert energy_movers_distance(one, heavier) == pytest.approx(
        0.3 * 0.5 + 0.2
    )  # 0.2 stays, 0.3 moves, 0.2 is missing
    assert (
        energy_movers_distance(heavier, one) == pytest.approx(0.35)
        and energy_movers_distance(one, one) < 1e-12
    )
    at = lambda eta: np.array([[eta, 0.0, 1.0]])
    real, generated = (
        [at(0.0), at(0.5)],
        [at(0.05), at(0.1)],
    )  # both generated ones are nearest to the first real one
    assert cov_mmd(real, generated, size=20, batches=3)[0] == pytest.approx(
        (0.05, 0)
    )  # that is 1 of 20, drawn with replacement
    assert cov_mmd(real[:1], generated, size=20, batches=3)[1] == pytest.approx(
        (0.05, 0)
    )  # the nearer one's distance


# -- the whole protocol ----------------------------------------------------------------------------
def test_w1_of_known_changes():
    """Angles shifted by d: W1 of eta is d. pt halved: W1 of the mass is half the mean mass."""
    real = gluons()
    moved = Cloud(real.features + torch.tensor([0.01, 0, 0]), real.mask)
    halved = Cloud(real.features * torch.tensor([1, 1, 0.5]), real.mask)
    values = evaluate_jets(real, moved, CHEAP, clip=None, draws=20_000, batches=2, progress=False)
    assert values["w1p_eta_20k"][0] == pytest.approx(0.01, rel=0.1)
    assert values["w1p_20k"][0] == pytest.approx(
        np.mean([values[f"w1p_{c}_20k"][0] for c in ("eta", "phi", "pt")])
    )
    mass = jet_kinematics(*real)["mass"].mean().item()
    assert evaluate_jets(real, halved, ("w1m",), draws=20_000, progress=False)["w1m_20k"][
        0
    ] == pytest.approx(mass / 2, rel=0.02)


def test_the_floor_is_above_zero_and_shuffled_jets_show_in_the_mass_alone():
    real, other = gluons(slice(0, 200)), gluons(slice(200, 400))
    cheap = ("w1m", "w1p", "w1efp")
    floor = evaluate_jets(real, other, cheap, **SMALL)
    assert all(value > 0 and error > 0 for value, error in floor.values())
    assert floor == evaluate_jets(real, other, cheap, **SMALL)
    assert (
        floor["w1m_500"] == evaluate_jets(real, other, ("w1m",), **SMALL)["w1m_500"]
    )  # whichever others are asked for
    assert floor["w1m_500"] != evaluate_jets(real, other, ("w1m",), seed=1, **SMALL)["w1m_500"]
    shuffled = other.features.clone()
    for column in range(3):
        cells = shuffled[..., column][other.mask]
        shuffled[..., column][other.mask] = cells[
            torch.randperm(len(cells), generator=torch.Generator().manual_seed(column))
        ]
    bad = evaluate_jets(real, Cloud(shuffled, other.mask), cheap, **SMALL)
    assert (
        bad["w1m_500"][0] > 4 * floor["w1m_500"][0]
        and bad["w1efp_500"][0] > 3 * floor["w1efp_500"][0]
    )
    assert bad["w1p_500"][0] < 2 * floor["w1p_500"][0]


def test_order_padding_and_reflection_do_not_matter():
    real, other = gluons(slice(0, 200)), gluons(slice(200, 400))
    measure = lambda cloud: evaluate_jets(real, cloud, ("w1m", "w1p", "w1efp"), **SMALL)
    values = measure(other)
    order = torch.randperm(30)
    polynomials = up_to_four(*other)
    wider = torch.nn.functional.pad(
        other.features[:, order], (0, 0, 0, 10), value=0.3
    )  # what is in the padding is ignored
    mask = torch.nn.functional.pad(other.mask[:, order], (0, 10))
    for name, (value, _) in measure(Cloud(wider, mask)).items():
        assert value == pytest.approx(values[name][0], rel=1e-4, abs=1e-9), name
    assert np.allclose(up_to_four(wider * torch.tensor([-1, -1, 1]), mask), polynomials, rtol=1e-6)


def test_clipping_is_the_same_for_both():
    real = gluons(slice(0, 200))
    wild = real.features.clone()
    wild[0, 0, 0] = 50.0
    clipped = checked("wild", Cloud(wild, real.mask), 0.5)
    assert clipped.features[0, 0, 0] == 0.5 and (clipped.features[~real.mask] == 0).all()
    assert torch.equal(checked("wild", Cloud(wild, real.mask), None).features, wild)
    reference = up_to_four(*checked("real", real, 0.5))
    measure = lambda cloud: kpd(reference, up_to_four(*cloud), size=2000, batches=3)[
        0
    ]  # 2,000 draws of 200 jets: the wild one is among them
    assert measure(Cloud(wild, real.mask)) > 100 * abs(measure(clipped))


def test_stray_constituents_are_seen_unless_clipping_is_asked_for_and_then_counted(capsys):
    """0.2 % of the constituents at eta = 2.5 are several times the floor, and the clipped figure
    hides them.
    """
    real, other = gluons(slice(0, 200)), gluons(slice(200, 400))
    stray = other.features.clone()
    rows = other.mask.nonzero()[::500]
    stray[rows[:, 0], rows[:, 1], 0] = 2.5
    wild = Cloud(stray, other.mask)
    plain, clipped = (
        evaluate_jets(real, wild, ("w1m",), clip=clip, **SMALL)["w1m_500"][0]
        for clip in (None, 0.5)
    )
    assert evaluate_jets(real, wild, ("w1m",), **SMALL)["w1m_500"][0] == plain > 2 * clipped
    said = capsys.readouterr().out
    beyond = [int((x.features[..., :2].abs() > 0.5).any(-1).sum()) for x in (real, wild)]
    assert (
        said.count("\n") == 1
        and f"{beyond[0]} of {int(real.mask.sum())} constituents of the real jets" in said
    )
    assert (
        f"{beyond[1]} of {int(wild.mask.sum())} constituents of the generated jets moved" in said
        and beyond[1] >= len(rows)
    )


@pytest.mark.parametrize(
    "change, message", [(float("nan"), r"\(3, 2\) is not finite"), (-0.1, "negative pt")]
)
def test_bad_samples_are_refused(change, message):
    real, bad = gluons(), gluons().features.clone()
    bad[3, 2, 2] = change
    with pytest.raises(Refusal, match=f"generated jets: .*{message}"):
        evaluate_jets(real, Cloud(bad, real.mask), **SMALL)
    with pytest.raises(Refusal, match="needs a constituent"):
        evaluate_jets(real, Cloud(bad[:0], real.mask[:0]), **SMALL)
    with pytest.raises(Refusal, match=r"'w1mass' is not one of .* did you mean 'w1m'"):
        evaluate_jets(real, real, ("w1mass",), **SMALL)


# -- ParticleNet -----------------------------------------------------------------------------------
def test_particlenet_is_its_edge_convolution():
    """The first layer of one particle, written out: mean over the 16 nearest in angle of h(x_i, x_j
    - x_i).
    """
    torch.manual_seed(0)
    net = ParticleNet().eval()
    x = torch.randn(2, 30, 3)
    seen = []
    net.edge_nets[0].register_forward_hook(lambda _, inputs, out: seen.append(out.mean(2)))
    with torch.no_grad():
        out = net(x)
        near = [j for j in (x[1, :, :2] - x[1, 4, :2]).norm(dim=1).argsort().tolist() if j != 4][
            :NEIGHBOURS
        ]
        pairs = torch.cat([x[1, 4].expand(NEIGHBOURS, 3), x[1, near] - x[1, 4]], 1)
        assert (net.edge_nets[0].model(pairs).mean(0) - seen[0][1, 4]).abs().max() < 1e-5
        assert (net(x[:, torch.randperm(30)]) - out).abs().max() < 1e-4
        cloud = gluons(slice(3))
        expected = net(cloud.features / torch.tensor(LARGEST) - torch.tensor([0, 0, 0.5]))
    assert np.allclose(activations(net, *cloud), expected, atol=1e-5)


def test_fpnd_without_its_weights_says_what_to_do(tmp_path):
    with pytest.raises(Refusal, match="pip install --no-deps jetnet"):
        fpnd(*gluons(), folder=tmp_path)


@pytest.mark.slow
def test_fpnd_tells_gluons_from_other_references():
    try:
        resources()
    except Refusal:
        pytest.skip("the jetnet package is not installed")
    values = {kind: fpnd(*gluons(), kind) for kind in "gqt"}
    assert values["g"] < 5 < values["q"] < values["t"]


# -- pictures --------------------------------------------------------------------------------------
def test_ratio_by_hand():
    quotient, error, band = ratio(
        np.array([0.5, 0.5, 1.5, 1.5]), np.array([0.5, 0.5, 0.5, 1.5]), np.arange(4)
    )
    assert quotient[:2].tolist() == [1.5, 0.5] and np.isnan(quotient[2])
    assert error[:2] == pytest.approx([1.5 / math.sqrt(3), 0.5]) and band[:2] == pytest.approx(
        [1 / math.sqrt(2)] * 2
    )


def test_jet_image_holds_the_jets_pt():
    cloud = gluons()
    assert mean_image(cloud, reach=9).sum() == pytest.approx(
        (cloud.features[..., 2] * cloud.mask).sum(1).mean().item(), rel=1e-5
    )
    one = Cloud(torch.tensor([[[0.2, -0.3, 0.7]]]), torch.ones(1, 1).bool())
    assert np.argwhere(mean_image(one, side=4)).tolist() == [[3, 0]]


@pytest.mark.slow
def test_pictures_show_differences():
    real, other = gluons(slice(0, 200)), gluons(slice(200, 400))
    for draw in (histograms, jet_images):
        same, different = draw(real, real), draw(real, other)
        assert (
            same.mode == "RGB"
            and same.size == different.size
            and same.tobytes() != different.tobytes()
        )
    clouds = [real.features[:3] * scale for scale in (3.0, 1.0)]
    picture = reverse_process(clouds, real.mask[:3], (1.0, 0.0), jets=2)
    left, right = (
        np.asarray(picture)[:, half]
        for half in (slice(0, picture.width // 2), slice(picture.width // 2, None))
    )
    assert left.std() > 0 and right.std() > 0 and abs(left.mean() - right.mean()) > 0.01
