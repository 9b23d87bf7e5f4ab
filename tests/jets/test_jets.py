"""Jets: JetNet's files read and written, bad files, the space of point clouds, the set transformer."""

import math
import socket
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import ROOT

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.schedules import Cosine
from ldm.diffusion.solvers import DDIM, DDPM, DPMpp2M, sample
from ldm.errors import Refusal
from ldm.jets.data import JetNet, kind_of
from ldm.jets.files import read_jets, write_jets
from ldm.jets.kinematics import jet_kinematics
from ldm.jets.network import SetTransformer
from ldm.jets.space import PointCloudSpace
from ldm.jets.statistics import CloudStatistics
from ldm.system.batches import ResumableLoader, Shard, loader

REAL = ROOT / "tests/fixtures/gluon30_400.hdf5"  # 400 gluon jets made with Pythia 8
SHARED = ROOT.parent / "shared/data/jets"  # beside a developer's checkout


def arrays():
    with h5py.File(REAL) as file:
        return file["particle_features"][:60], file["jet_features"][:60]


def write(path, particles, jet, key="particle_features"):
    with h5py.File(path, "w") as file:
        file[key] = particles
        file["jet_features"] = jet
    return path


def data(path=REAL, **settings):
    return JetNet(root=str(path), download=False, **settings)


def tensors():
    return tuple(map(torch.from_numpy, read_jets(REAL, 30)))


# -- files -----------------------------------------------------------------------------------------
def test_the_file_comes_back_as_it_is():
    with h5py.File(REAL) as file:
        particles, jet = file["particle_features"][:], file["jet_features"][:]
    features, mask, read = read_jets(REAL, 30)
    assert np.array_equal(features, particles[..., :3]) and np.array_equal(
        mask, particles[..., 3] == 1
    )
    assert np.array_equal(read, jet) and features.dtype == np.float32


def test_the_split_is_the_jetnet_packages():
    """jetnet: default_rng(42).permutation(N), cut at 70 % and 85 %; "order" keeps the file's own."""
    jets, order = data().load(), np.random.default_rng(42).permutation(400)
    features = torch.from_numpy(read_jets(REAL, 30)[0])
    for part, rows in zip(
        (jets.train, jets.valid, jets.test), (order[:280], order[280:340], order[340:]), strict=True
    ):
        assert torch.equal(part.features, features[rows.copy()])
    cut = data(split="order", parts=(100, 50, 30)).load()
    assert torch.equal(cut.test.features, features[150:180]) and (
        len(cut.train),
        len(cut.valid),
    ) == (100, 50)


def test_batches_fit_the_loader():
    jets = data().load().train
    made = loader(jets, Shard(len(jets), 64, 1, 2), 0, False)
    batches = list(made)
    assert isinstance(made, ResumableLoader) and sum(len(b["index"]) for b in batches) == 140
    batch = batches[0]
    assert torch.equal(batch["particles"], jets.features[batch["index"]])
    assert torch.equal(batch["count"], jets.jet[batch["index"], 3].long())


def test_several_types_and_150_constituents(tmp_path):
    particles, jet = arrays()
    wide = np.pad(particles, ((0, 0), (0, 120), (0, 0)))
    wide[:, 30:35] = [0.1, 0.1, 1e-4, 1]  # 35 real ones or fewer, softer ones last
    for kind in "gq":
        write(tmp_path / f"{kind}.hdf5", particles, jet)
    write(tmp_path / "t150.hdf5", wide, jet)
    jets = data(tmp_path, types=("q", "g")).load()
    assert jets.classes == (
        "gluon",
        "light quark",
    ) and jets.train.types.float().mean() == pytest.approx(0.5, abs=0.1)
    assert data(tmp_path, types=("t",), constituents=150).load().shape == (150, 3)
    kept = data(tmp_path, types=("t",), truncate=True, split="order").load()
    full = particles[:10, -1, 3] == 1
    assert np.array_equal(
        kept.train.features[:10][full].numpy(), particles[:10][full, :, :3]
    )  # the 30 hardest, in order
    with pytest.raises(
        Refusal, match=r"jet 0 has 35 constituents, more than data.constituents = 30"
    ):
        data(tmp_path, types=("t",)).load()


def unequal(folder):
    """60 gluons and 20 light quarks, each jet's pt its row in its own file."""
    particles, jet = arrays()
    for kind, n in (("g", 60), ("q", 20)):
        jet[:, 0] = np.arange(1, 61)
        write(folder / f"{kind}.hdf5", particles[:n], jet[:n])
    return folder


def shares(part):
    return torch.bincount(part.types, minlength=2).tolist()


def test_order_cuts_each_type(tmp_path, capsys):
    """70, 15 and 15 % of the gluons and of the quarks, each in its file's own order; also where
    numbers are given.
    """
    jets = data(unequal(tmp_path), types=("g", "q"), split="order").load()
    assert [shares(part) for part in (jets.train, jets.valid, jets.test)] == [
        [42, 14],
        [9, 3],
        [9, 3],
    ]
    for kind, n in ((0, 60), (1, 20)):
        rows = [part.jet[part.types == kind][:, 0] for part in (jets.train, jets.valid, jets.test)]
        assert torch.cat(rows).tolist() == list(range(1, n + 1))
    assert "gluon 42, 9, 9; light quark 14, 3, 3" in capsys.readouterr().out
    numbered = data(tmp_path, types=("g", "q"), split="order", parts=(40, 8, 16)).load()
    assert [shares(part) for part in (numbered.train, numbered.valid, numbered.test)] == [
        [30, 10],
        [6, 2],
        [12, 4],
    ]
    assert jets.kinds == ("g", "q")


def test_a_part_of_the_jets_has_the_shares_of_the_whole(tmp_path):
    """Of the concatenation's first 16 all were gluons; the floor's jets are of each type as many as
    the generated ones'.
    """
    jets = data(unequal(tmp_path), types=("g", "q"), split="order", parts=(40, 20, 20)).load()
    few = jets.test.first(8)
    assert shares(few) == [6, 2] and shares(jets.valid.like(few)) == [6, 2]
    only = jets.train.rows(jets.train.types == 0)
    assert len(only.like(few)) == 0 and shares(jets.valid.rows(slice(0, 6)).like(few)) == shares(
        jets.valid.rows(slice(0, 4))
    )
    alone = data().load().train
    assert torch.equal(alone.first(50).features, alone.features[:50])  # of one type: as they lie


def test_a_file_of_another_size_is_refused_before_it_is_read(tmp_path):
    particles, jet = arrays()
    write(tmp_path / "g.hdf5", particles, jet)
    with pytest.raises(
        Refusal,
        match=r"150 asked for, .* holds g\.hdf5 of 30 alone; set data.constituents=30, or put g150",
    ):
        data(tmp_path, constituents=150).load()
    with pytest.raises(
        Refusal,
        match=r"data.constituents: 150 asked for, .*g\.hdf5 has room for 30 .*data.constituents=30",
    ):
        data(tmp_path / "g.hdf5", constituents=150).load()


@pytest.mark.parametrize(
    "name, kind",
    [
        ("g", "g"),
        ("q150", "q"),
        ("gluon30_mini", "g"),
        ("light-quark", "q"),
        ("top_jets", "t"),
        ("W", "w"),
        ("jets", None),
    ],
)
def test_the_type_is_read_off_the_name(name, kind):
    assert kind_of(Path("g/q") / f"{name}.hdf5") == kind


def test_a_file_of_another_type_is_named(tmp_path, capsys):
    write(tmp_path / "quark30.hdf5", *arrays())
    data(tmp_path / "quark30.hdf5").load()
    assert "says light quark jets, data.types says gluon" in capsys.readouterr().out


def test_jets_that_cannot_be_are_left_out_when_asked(tmp_path, capsys):
    """One NaN, one negative pt, one whole row of NaN: refused with the way out named, or left out,
    each kind counted.
    """
    particles, jet = arrays()
    particles[3, 4, 0], particles[7, 2, 2], particles[9], jet[11, 2] = np.nan, -0.1, np.nan, np.nan
    path = write(tmp_path / "g.hdf5", particles, jet)
    with pytest.raises(Refusal, match=r"data.bad=skip leaves such jets out"):
        data(path).load()
    jets = data(path, bad="skip", split="order", parts=(50, 2, 4)).load()
    kept = [i for i in range(60) if i not in (3, 7, 9, 11)]
    assert torch.equal(jets.train.features, torch.from_numpy(arrays()[0][kept[:50], :, :3]))
    said = capsys.readouterr().out
    whats = (
        "particle_features: its mask",
        "particle_features: a feature is NaN",
        "jet_features: a feature is NaN",
        "pt_rel is neg",
    )
    assert all(f"{what}" in said for what in whats) and said.count(": 1 jets are left out") == 4


def test_padding_of_nan_is_padding(tmp_path):
    particles, jet = arrays()
    particles[:, 25:] = [np.nan, np.nan, np.nan, 0]
    features, mask, _ = read_jets(write(tmp_path / "g.hdf5", particles, jet), 30)
    assert (features[:, 25:] == 0).all() and not mask[:, 25:].any() and mask[:, :20].all()


def test_a_file_without_mask_or_with_fewer_places(tmp_path):
    particles, jet = arrays()
    features, mask, _ = read_jets(
        write(tmp_path / "g.hdf5", particles[..., :3].astype(np.float64), jet), 40
    )
    assert (
        features.shape == (60, 40, 3)
        and np.array_equal(mask[:, :30], particles[..., 3] == 1)
        and not mask[:, 30:].any()
    )


def test_jets_without_constituents_are_left_out(tmp_path, capsys):
    particles, jet = arrays()
    particles[5] = 0
    features, mask, _ = read_jets(write(tmp_path / "g.hdf5", particles, jet), 30)
    assert (
        len(features) == 59
        and mask.any(1).all()
        and "1 jets without a constituent" in capsys.readouterr().out
    )


def poke(index, value):
    def change(particles, jet):
        particles[index] = value

    return change


BAD = {
    "nan": (poke((3, 4, 0), np.nan), r"particle_features\[3, 4\]: a feature is NaN"),
    "infinite": (
        poke((3, 4, 1), np.inf),
        r"particle_features\[3, 4\]: a feature is NaN or infinite",
    ),
    "negative": (poke((7, 2, 2), -0.1), r"particle_features\[7, 2\]: pt_rel is negative"),
    "GeV": (poke((2, 0, 2), 120.0), r"particle_features\[2, 0\]: pt_rel is above 1"),
    "degrees": (poke((2, 1, 1), 90.0), r"particle_features\[2, 1\]: \|phi_rel\| is above pi"),
    "mask": (poke((9, 1, 3), 0.5), r"particle_features\[9, 1\]: its mask is neither 0 nor 1"),
    "padding": (
        poke((9, 29, 3), 0.0),
        r"particle_features\[9, 29\]: padding \(mask 0\) is not zero",
    ),
    "negative jet": (
        lambda p, j: j.__setitem__((8, 0), -1.0),
        r"jet_features\[8\]: pt is negative",
    ),
    "negative mass": (
        lambda p, j: j.__setitem__((8, 2), -20.0),
        r"jet_features\[8\]: mass is negative",
    ),
    "too large": (
        poke((3, 4, 1), 1e300),
        r"particle_features\[3, 4\]: a feature is NaN or infinite",
    ),
    "mass": (lambda p, j: j.__setitem__((8, 2), np.nan), r"jet_features\[8\]: a feature is NaN"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD.keys())
def test_bad_values_are_one_line_with_file_and_index(change, message, tmp_path):
    particles, jet = (array.astype(np.float64) for array in arrays())
    change(particles, jet)
    path = write(tmp_path / "g.hdf5", particles, jet)
    with pytest.raises(Refusal, match=message) as refusal:
        data(path).load()
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


LAYOUTS = {
    "columns": (lambda p, j: (p[..., :2], j), {}, r"wanted \(N, P, 4\)"),
    "rank": (lambda p, j: (p[0], j), {}, r"wanted \(N, P, 4\)"),
    "class column": (
        lambda p, j: (p, np.pad(j, ((0, 0), (1, 0)))),
        {},
        "fifth column is the class",
    ),
    "numbers": (lambda p, j: (p, j[:50]), {}, "same number of jets"),
    "empty": (lambda p, j: (p[:0], j[:0]), {}, "holds no jets"),
    "integers": (lambda p, j: (p.astype(int), j), {}, "int64, floats are wanted"),
    "key": (
        lambda p, j: (p, j),
        {"key": "constituents"},
        "no data set 'particle_features'.*constituents",
    ),
    "nothing real": (lambda p, j: (0 * p, j), {}, "no jet has a constituent"),
}


@pytest.mark.parametrize("change, names, message", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_wrong_layouts_are_refused(change, names, message, tmp_path):
    path = write(tmp_path / "g.hdf5", *change(*arrays()), **names)
    with pytest.raises(Refusal, match=message) as refusal:
        data(path).load()
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"not HDF5 at all", REAL.read_bytes()[:40_000]],
    ids=["empty", "text", "truncated"],
)
def test_broken_files_are_refused(content, tmp_path):
    path = tmp_path / "g.hdf5"
    path.write_bytes(content)
    with pytest.raises(Refusal, match=r"g\.hdf5 cannot be read as HDF5.*get it again"):
        data(path).load()


def test_files_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(Refusal, match=r"no g\.hdf5 in"):
        data(tmp_path).load()
    with pytest.raises(Refusal, match=r"x\.hdf5: no such file"):
        data(tmp_path / "x.hdf5").load()

    def unreachable(*_, **__):
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    with pytest.raises(
        Refusal, match=r"g\.hdf5 is not in .* and cannot be downloaded .*no network.*set data.root"
    ):
        JetNet(root=str(tmp_path)).load()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        {"types": ("x",)},
        {"constituents": 151},
        {"parts": (0, 0.5, 0.5)},
        {"parts": (math.inf, 1, 1)},
        {"types": ("g", "g")},
    ],
)
def test_settings_are_checked(settings):
    with pytest.raises(ValueError):
        JetNet(**settings)


def test_parts_that_the_file_cannot_give():
    with pytest.raises(Refusal, match="cannot be cut from the 400 jets"):
        data(parts=(390, 10, 10)).load()


def test_what_is_written_is_read_back(tmp_path):
    features, mask, jet = tensors()
    write_jets(
        tmp_path / "a.hdf5", features + 0.25 * ~mask[..., None], mask, jet, solver="Heun"
    )  # padding is written as 0
    for before, after in zip(
        (features, mask, jet), read_jets(tmp_path / "a.hdf5", 30), strict=True
    ):
        assert np.array_equal(before.numpy(), after)
    write_jets(tmp_path / "b.hdf5", features, mask)
    with h5py.File(tmp_path / "b.hdf5") as file:
        assert "relative" in file.attrs["jet_units"]
        mass = torch.from_numpy(file["jet_features"][:, 2])
    assert (
        mass < jet[:, 2] / jet[:, 0]
    ).all()  # the jet's own mass has also the 31st and softer constituents
    assert np.corrcoef(mass, jet[:, 2] / jet[:, 0])[0, 1] > 0.9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.hdf5", "b.hdf5"]


def test_constituents_are_written_hardest_first_and_jets_in_their_order(tmp_path):
    """JetNet's loader takes the first `num_particles` to be the hardest."""
    features, mask, jet = tensors()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    write_jets(tmp_path / "a.hdf5", features[:, order], mask[:, order], jet)
    with h5py.File(tmp_path / "a.hdf5") as file:
        written = torch.from_numpy(file["particle_features"][:])
        assert np.array_equal(file["jet_features"][:], jet)
    assert (written[..., 2].diff(dim=1) <= 0).all() and (written[..., 3].diff(dim=1) <= 0).all()
    assert torch.equal(written[..., 2], features[..., 2]) and torch.equal(
        written[..., 3] == 1, mask
    )
    zero = torch.tensor(
        [[[0.0, 0.0, 0.0], [0.1, 0.0, 0.2], [0.3, 0.0, 0.0]]]
    )  # a real one of pt 0 stays before padding
    write_jets(tmp_path / "b.hdf5", zero, torch.tensor([[False, True, True]]))
    with h5py.File(tmp_path / "b.hdf5") as file:
        assert np.allclose(
            file["particle_features"][0], [[0.1, 0, 0.2, 1], [0.3, 0, 0, 1], [0, 0, 0, 0]]
        )


def test_kinematics_of_two_particles():
    """m^2 = 2 pt_1 pt_2 (cosh d_eta - cos d_phi) for two massless particles."""
    first = [[0.3, 0.0, 0.5], [-0.3, 0.0, 0.5], [9.0, 9.0, 9.0]]
    second = [[0.1, 0.2, 0.6], [-0.2, -0.1, 0.3], [0.0, 0.0, 0.0]]
    sums = jet_kinematics(torch.tensor([first, second]), torch.tensor([[True, True, False]] * 2))
    expected = (
        math.sqrt(0.5 * (math.cosh(0.6) - 1)),
        math.sqrt(0.36 * (math.cosh(0.3) - math.cos(0.3))),
    )
    assert sums["mass"].tolist() == pytest.approx(expected, rel=1e-6)
    assert sums["pt"][0] == pytest.approx(1.0) and sums["eta"][0].abs() < 1e-7


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared jets are not here")
def test_shared_gluons_and_quarks():
    gluons = data(SHARED / "gluon30_mini.hdf5").load().train
    quarks = data(SHARED / "quark30_5k.hdf5").load().train
    assert quarks.counts.float().mean() + 1 < gluons.counts.float().mean()
    assert torch.equal(gluons.counts, gluons.jet[:, 3].long())


# -- space -----------------------------------------------------------------------------------------
def space():
    """Measured on two ranks, in batches."""
    made, (features, mask, jet) = PointCloudSpace((30, 3)), tensors()
    ranks = CloudStatistics(), CloudStatistics()
    for i in range(0, 400, 50):
        ranks[i // 50 % 2].add(features[i : i + 50], mask[i : i + 50], jet[i : i + 50])
    made.set_statistics(ranks[0], lambda sums: sums + ranks[1].sums)
    return made


def test_the_space_standardises_what_is_real():
    made, (features, mask, jet) = space(), tensors()
    x = made.encode(features, mask=mask)
    assert (
        (x[~mask] == 0).all()
        and x[mask].mean(0).abs().max() < 0.02
        and (x[mask].std(0) - 1).abs().max() < 1e-3
    )
    condition = made.condition(jet)
    assert condition.mean(0).abs().max() < 1e-4 and (condition.std(0) - 1).abs().max() < 2e-3
    flipped = made.encode(features * torch.tensor([-1, 1, 1]), mask=mask)
    assert torch.equal(flipped, x * torch.tensor([-1, 1, 1]))  # a reflection stays one
    again = PointCloudSpace((30, 3))
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.encode(features, mask=mask), x)


def test_a_constant_feature_is_not_blown_up(tmp_path):
    """Of jets with one pt and constituents of one phi: another pt given is a small number, and all
    comes back.
    """
    features, mask, jet = tensors()
    features[..., 1] = 0
    jet[:, 0] = 1000
    statistics, made = CloudStatistics(), PointCloudSpace((30, 3), jet=2)
    statistics.add(features, mask, jet)
    made.set_statistics(statistics)
    assert made.jet_scale[0] == 1 and made.scale[1] == 1 and 0.01 < made.jet_scale[1] < 1
    other = jet.clone()
    other[:, 0] = 1100
    assert (
        made.condition(jet)[:, 0].abs().max() < 1e-3
        and made.condition(other)[:, 0].abs().max() < 0.2
    )
    assert (made.decode(made.encode(features, mask=mask), mask) - features).abs().max() < 1e-5


def test_what_a_logit_cannot_bear_is_counted_and_jets_without_pt_are_not_told():
    features, mask, jet = tensors()
    features[0, 0, 2], features[1, 29, 2] = 1.0, 1e-9
    before = ((features[..., 2] < 1e-6) | (features[..., 2] > 1 - 1e-4))[mask].sum()
    batch = {
        "particles": features,
        "mask": mask,
        "jet": jet,
        "label": torch.zeros(400, dtype=torch.long),
        "index": torch.arange(400),
    }
    same = lambda sums: sums
    assert (
        f"; {before} constituents of pt_rel below"
        in PointCloudSpace((30, 3)).measure([batch], same, "cpu")
        and before >= 2
    )
    jet[:3, 0] = 0
    PointCloudSpace((30, 3)).measure([batch], same, "cpu")
    with pytest.raises(Refusal, match=r"3 training jets have no pt above 0 .*network.jet=2"):
        PointCloudSpace((30, 3), jet=2).measure([batch], same, "cpu")


def test_the_space_is_inverted_and_stays_physical():
    made, (features, mask, _) = space(), tensors()
    back = made.decode(made.encode(features, mask=mask), mask)
    assert (back - features).abs().max() < 1e-5 and (back[~mask] == 0).all()
    pt, ours = features[..., 2][mask], back[..., 2][mask]
    assert ((ours - pt).abs() / pt)[pt > 2e-6].max() < 1e-5
    wild = made.decode(1e3 * torch.randn(8, 30, 3), mask[:8])
    assert (
        torch.isfinite(wild).all()
        and wild[..., 2].min() >= 0
        and wild[..., 2].max() <= 1
        and (wild[~mask[:8]] == 0).all()
    )
    ends = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])
    assert (
        made.decode(made.encode(ends, mask=torch.ones(1, 2).bool()), torch.ones(1, 2).bool()) - ends
    ).abs().max() < 2e-4


# -- network ---------------------------------------------------------------------------------------
def network(jet=2, classes=3):
    """With every weight away from its starting 0."""
    torch.manual_seed(0)
    net = SetTransformer(16, 2, 2, jet=jet).build((30, 3), classes)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return net


def batch(places=12):
    torch.manual_seed(1)
    mask = torch.arange(places)[None] < torch.tensor([[5], [1], [12]])
    x = torch.randn(3, places, 3)
    rest = {
        "c_noise": torch.tensor([3.0, 400.0, 990.0]),
        "jet": torch.randn(3, 2),
        "label": torch.tensor([0, 1, 3]),
    }
    return x, mask, rest


def test_network_is_equivariant():
    net, (x, mask, rest) = network(), batch()
    order = torch.randperm(12)
    moved = net(x[:, order], mask=mask[:, order], **rest)
    assert (moved - net(x, mask=mask, **rest)[:, order]).abs().max() < 1e-5
    assert net(x, mask=mask, **rest)[mask].std() > 0.1


def test_padding_is_zero_and_neither_its_content_nor_its_length_matters():
    net, (x, mask, rest) = network(), batch()
    out = net(x, mask=mask, **rest)
    assert (out[~mask] == 0).all()
    for content in (100.0, float("nan")):
        assert torch.equal(net(x.masked_fill(~mask[..., None], content), mask=mask, **rest), out)
    longer = net(
        torch.cat([x, torch.randn(3, 30, 3)], 1),
        mask=torch.cat([mask, torch.zeros(3, 30).bool()], 1),
        **rest,
    )
    assert (longer[:, :12] - out).abs().max() < 1e-5 and (longer[:, 12:] == 0).all()
    alone = net(
        x[:1, :5], rest["c_noise"][:1], mask[:1, :5], jet=rest["jet"][:1], label=rest["label"][:1]
    )
    assert (alone - out[:1, :5]).abs().max() < 1e-5


def test_constituents_see_each_other_and_every_condition_matters():
    net, (x, mask, rest) = network(), batch()
    out = net(x, mask=mask, **rest)
    changed = x.clone()
    changed[0, 0] += 1
    assert (net(changed, mask=mask, **rest) - out)[0, 1:5].abs().min() > 1e-5
    near = rest | {"c_noise": rest["c_noise"] + 10}
    others = (
        near,
        rest | {"jet": rest["jet"] + 1},
        rest | {"label": torch.tensor([2, 2, 2])},
        rest | {"count": torch.tensor([6, 2, 11])},
    )
    for other in others:
        assert (net(x, mask=mask, **other) - out)[mask].std() > 1e-3 * out[mask].std()
    assert torch.equal(net(x, mask=mask, count=mask.sum(1), **rest), out)
    null = net(x, mask=mask, **rest | {"jet": torch.full((3, 2), torch.nan)})
    assert torch.equal(null, net(x, mask=mask, **rest | {"jet": None})) and not torch.equal(
        null, out
    )


def test_network_starts_at_zero_and_every_parameter_learns():
    x, mask, rest = batch()
    fresh = SetTransformer(16, 2, 2).build((30, 3))
    assert (fresh(x, rest["c_noise"], mask) == 0).all()
    net = network()
    (net(x, mask=mask, **rest) - 1).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    "solver", [DDIM(), DDIM(1.0), DDPM(), DPMpp2M()], ids=["DDIM", "DDIM-1", "DDPM", "DPMpp2M"]
)
def test_padding_stays_zero_under_the_solvers(solver):
    """Where the noise is masked too: x_0 is then 0 at padding, exactly, at every step."""
    denoiser = Denoiser(network(jet=0, classes=0), Cosine())
    mask = batch()[1]
    randn = lambda: torch.randn(3, 12, 3) * mask[..., None]
    denoise = lambda x, t: denoiser(x, t, mask=mask)
    denoise.schedule = denoiser.schedule
    with torch.no_grad():
        x = sample(
            solver,
            denoise,
            randn(),
            denoiser.schedule.grid(5),
            randn,
            lambda i, x, _: check(x[~mask]),
        )
    assert torch.isfinite(x).all() and x[mask].abs().min() > 0


def check(padding):
    assert (padding == 0).all()


def test_overfits_eight_jets():
    """Network, space and loss together: the loss on 8 real jets falls below a third of where it
    starts.
    """
    made, (features, mask, _) = space(), tensors()
    x_0, mask = made.encode(features[:8], mask=mask[:8]), mask[:8]
    torch.manual_seed(0)
    denoiser = Denoiser(SetTransformer(32, 2, 4).build((30, 3)), Cosine())
    optimiser = torch.optim.Adam(denoiser.parameters(), 5e-3)
    t, eps = torch.linspace(0.3, 0.7, 8), torch.randn_like(x_0) * mask[..., None]
    losses = []
    for _ in range(120):
        loss = denoiser.loss(x_0, t, eps, mask=mask).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
