"""Four-vectors in GeV: masses are those computed relatively, whatever file they go through."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from helpers import ROOT, without_key

from ldm.errors import Refusal
from ldm.jets.files import read_jets, write_jets
from ldm.jets.kinematics import jet_kinematics
from ldm.jets.vectors import COLUMNS, Vectors, expect_format, four_vectors

REAL = ROOT / "tests/fixtures/gluon30_400.hdf5"


def masses(jets):
    return np.sqrt(np.maximum(0, jets[:, 3] ** 2 - (jets[:, :3] ** 2).sum(1)))


@pytest.fixture(scope="module")
def relative(tmp_path_factory):
    """A file as sample.py writes it: no pt but the relative one."""
    features, mask, _ = map(torch.from_numpy, read_jets(REAL, 30))
    path = tmp_path_factory.mktemp("jets") / "jets.hdf5"
    mask[0, 5:] = False
    write_jets(path, features * mask[..., None], mask)
    return path


def test_masses_are_the_relative_ones():
    """At the file's pt and eta, at others, and, of these jets, the masses that the file says."""
    features, mask, jet = map(torch.from_numpy, read_jets(REAL, 30))
    wanted = jet_kinematics(features, mask)
    own, other = Vectors.read(REAL), Vectors.read(REAL, pt=1000.0, eta=-2.0)
    for vectors, pt, eta in ((own, jet[:, 0], jet[:, 1]), (other, torch.tensor(1000.0), -2.0)):
        sums = vectors.jets
        np.testing.assert_allclose(masses(sums), wanted["mass"] * pt, rtol=1e-6)
        np.testing.assert_allclose(np.hypot(*sums[:, :2].T), wanted["pt"] * pt, rtol=1e-9)
        # of what has a mass the rapidity is moved by a boost, not the pseudorapidity
        transverse = torch.hypot(wanted["pt"], wanted["mass"])
        rapidity = torch.asinh(wanted["pt"] * wanted["eta"].sinh() / transverse)
        along = np.arctanh(sums[:, 2] / sums[:, 3])
        np.testing.assert_allclose(along, rapidity + eta, atol=1e-6)
    light = own.constituents[own.mask]
    np.testing.assert_allclose(light[:, 3] ** 2, (light[:, :3] ** 2).sum(1), rtol=1e-9)
    # the file's own masses are of all constituents, of which the 30 hardest are kept
    kept = masses(own.jets) / jet[:, 2].numpy()
    assert kept.max() < 1.01 and np.median(kept) > 0.6


def test_one_particle_by_hand():
    """pt 100 GeV of which 0.6, at eta 1 + 0.2, phi 0.3; padding is 0 whatever lies there."""
    features = torch.tensor([[[0.2, 0.3, 0.6], [9.0, 9.0, 9.0]]])
    mask = torch.tensor([[True, False]])
    found = four_vectors(features, mask, torch.tensor([100.0]), torch.tensor([1.0]))
    p = 60 * np.array([np.cos(0.3), np.sin(0.3), np.sinh(1.2), np.cosh(1.2)])
    np.testing.assert_allclose(found[0, 0], p, rtol=1e-6)
    assert not found[0, 1].any()


def read_back(path):
    """Constituents of each jet as a list of (n, 4), and the sums (N, 4)."""
    if path.suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(path).to_pydict()
        each = [np.stack(parts, 1) for parts in zip(*(table[c] for c in COLUMNS), strict=True)]
        return each, np.stack([table[f"jet_{c}"] for c in COLUMNS], 1)
    arrays = h5py.File(path) if path.suffix == ".hdf5" else np.load(path)
    with arrays:
        rows, mask, jets = (arrays[key][()] for key in ("constituents", "mask", "jets"))
    return [row[real] for row, real in zip(rows, mask, strict=True)], jets


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".parquet"])
def test_files_hold_the_jets(relative, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    vectors, path = Vectors.read(relative, pt=500.0), tmp_path / f"jets{suffix}"
    vectors.write(path)
    each, sums = read_back(path)
    assert [len(one) for one in each] == vectors.mask.sum(1).tolist() and len(each[0]) == 5
    np.testing.assert_array_equal(np.concatenate(each), vectors.constituents[vectors.mask])
    np.testing.assert_array_equal(sums, vectors.jets)
    assert [*tmp_path.iterdir()] == [path]
    transverse = np.hypot(*each[3][:, :2].T)
    assert (np.diff(transverse) <= 0).all()  # hardest first


def test_bad_input_is_one_line(relative, tmp_path):
    table = [
        (lambda: Vectors.read(relative), "no pt of their own.*--pt GEV"),
        (lambda: Vectors.read(relative, pt=-3.0), "--pt: -3 GEV".replace("GEV", "GeV")),
        (lambda: Vectors.read(relative, pt=float("nan")), "--pt: nan"),
        (lambda: Vectors.read(relative, pt=1.0, eta=1e3), "--eta: 1000"),
        (lambda: Vectors.read(ROOT / "README.md", pt=1.0), "cannot be read as HDF5"),
        (lambda: expect_format(tmp_path / "jets.root"), "'.root' is not one of .parquet"),
    ]
    for call, message in table:
        with pytest.raises(Refusal, match=message):
            call()
    features, mask, jet = map(torch.from_numpy, read_jets(REAL, 30))
    jet[7, 0] = 0
    write_jets(tmp_path / "zero.hdf5", features, mask, jet)
    with pytest.raises(Refusal, match="jet 7 has no pt above 0"):
        Vectors.read(tmp_path / "zero.hdf5")


def test_as_a_user_does(relative, tmp_path):
    """The command, its refusals with status 2, and nothing left behind by these."""
    run = lambda *words: subprocess.run(
        [sys.executable, "-m", "ldm.jets", *map(str, words)],
        env=without_key(PYTHONPATH=str(ROOT)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    refused = run(relative, "--output", "made/jets.npz")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "give one by --pt GEV" in refused.stderr and not [*tmp_path.iterdir()]
    done = run(relative, "--pt", 1000, "--output", "made/jets.npz")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote 400 jets of") and json.dumps(done.stderr) == '""'
    assert (tmp_path / "made/jets.npz").is_file()
