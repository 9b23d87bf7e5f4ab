"""Jets by Pythia in JetNet's layout, where it is installed."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT

from ldm.jets.files import by_pt, read_jets
from ldm.jets.kinematics import jet_kinematics

pytest.importorskip("pythia8mc")


@pytest.mark.slow
def test_jets_of_a_type_are_made_in_the_layout(tmp_path):
    """Z jets near 91 GeV and 1 TeV, hardest first, the same for the same seed."""
    made = []
    for name, more in (("z", ()), ("again", ()), ("other", ("--seed", "2"))):
        path = tmp_path / f"{name}.hdf5"
        flags = ("--type", "z", "--output", path, "--jets", "30", "--num-particles", "80", *more)
        command = [sys.executable, "-m", "benchmarks.make_jets", *map(str, flags)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        made.append(read_jets(path, 80))
    features, mask, jet = made[0]
    assert features.shape == (30, 80, 3) and mask.sum(1).max() > 30
    assert np.median(jet[:, 0]) == pytest.approx(1000, rel=0.05)
    assert np.median(jet[:, 2]) == pytest.approx(91, rel=0.1)
    again = by_pt(*map(torch.from_numpy, (features, mask)))
    assert (again[0].numpy() == features).all()
    # 80 constituents are nearly the whole jet, and nearly massless
    whole = jet_kinematics(*again)["mass"].numpy() * jet[:, 0]
    assert np.median(abs(whole / jet[:, 2] - 1)) < 0.04
    assert all((a == b).all() for a, b in zip(made[0], made[1], strict=True))
    assert (made[0][2] != made[2][2]).any()
