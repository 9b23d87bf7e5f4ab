"""Samples against a reference from files alone: two files of jets, two folders of pictures."""

import json

import h5py
import numpy as np
import pytest
import torch
from helpers import ROOT, here
from PIL import Image

from ldm.errors import Refusal
from ldm.evaluation.files import FilesRequest, evaluate_files
from ldm.jets.files import read_jets, write_jets
from ldm.jets.kinematics import jet_kinematics
from ldm.jets.metrics import Cloud, evaluate_jets
from ldm.metrics.distances import Moments, frechet_distance
from ldm.metrics.features import choose
from ldm.pictures.images import Digits

REAL = ROOT / "tests/fixtures/gluon30_400.hdf5"


@pytest.fixture(scope="module")
def gluons():
    features, mask, jet = map(torch.from_numpy, read_jets(REAL, 30))
    return features, mask, jet


@pytest.fixture(scope="module")
def files(gluons, tmp_path_factory):
    """Two halves of real jets, the second with more room, and the first with half the pt."""
    folder, (features, mask, jet) = tmp_path_factory.mktemp("jets"), gluons
    pad = lambda x, n: torch.nn.functional.pad(x, (0, 0, 0, n) if x.ndim == 3 else (0, n))
    write_jets(folder / "g.hdf5", features[::2], mask[::2], jet[::2])
    write_jets(folder / "mine.hdf5", pad(features[1::2], 9), pad(mask[1::2], 9), jet[1::2])
    halved = features[::2] * torch.tensor([1, 1, 0.5])
    write_jets(folder / "halved.hdf5", halved, mask[::2], jet_type="light quark")
    return folder


def compared(out, samples, reference, **more):
    request = FilesRequest(str(samples), str(reference), output=str(out), device="cpu", **more)
    evaluate_files(request)
    lines = (out / "records.jsonl").read_text().splitlines()
    return {line["metric"]: line for line in map(json.loads, lines)}


def test_two_files_of_jets(files, gluons, tmp_path, capsys):
    """The figures are those of `evaluate_jets`; the floor is of the reference's own halves."""
    found = compared(tmp_path / "a", files / "mine.hdf5", files / "g.hdf5", metrics=("w1m", "auc"))
    features, mask, _ = gluons
    real, mine = Cloud(features[::2], mask[::2]), Cloud(features[1::2], mask[1::2])
    wanted = evaluate_jets(real, mine, ("w1m", "auc"), progress=False)
    for name, (value, error) in wanted.items():
        assert found[name]["value"] == pytest.approx(value), name
        assert found[name]["std"] == pytest.approx(error), name
    w1m = found["w1m_10k"]
    assert w1m["n"] == 200 and w1m["truth_vs_truth"]["n"] == 100
    assert 0 < w1m["value"] < 4 * w1m["truth_vs_truth"]["value"]
    assert w1m["samples"]["what"] == str(files / "mine.hdf5") and w1m["reference"]["n"] == 200
    assert len(w1m["samples"]["hash"]) == 16 and w1m["samples"]["hash"] != w1m["reference"]["hash"]
    assert "200 jets against 200 jets of" in capsys.readouterr().out
    halved = compared(tmp_path / "b", files / "halved.hdf5", files / "g.hdf5", metrics=("w1m",))
    masses = jet_kinematics(*real)["mass"].mean().item()
    assert halved["w1m_10k"]["value"] == pytest.approx(masses / 2, rel=0.05)
    said = capsys.readouterr().out
    assert "warning: the samples are of light quark jets, the reference of gluon jets" in said


def save(folder, images):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{i:03d}.png")
    return folder


def test_two_folders_of_pictures(tmp_path, capsys):
    """FID's definition over features of both; one with itself is at 0; both are cached."""
    images = Digits().load().train.images
    mine, theirs = save(tmp_path / "mine", images[:150]), save(tmp_path / "theirs", images[150:330])
    more = dict(features="digits", cache=str(tmp_path / "cache"))
    found = compared(tmp_path / "out", mine, theirs, **more)
    digits = choose("digits")
    moments = [Moments.of(digits(part)) for part in (images[:150], images[150:330])]
    fd = found["fd_digits_150"]
    assert fd["value"] == pytest.approx(frechet_distance(*moments), rel=1e-3)
    assert fd["truth_vs_truth"]["n"] == 90 and "class_share_150" not in found
    assert fd["samples"]["px"] == 8 and fd["features"]["name"] == "digits"
    assert {"kd_digits_150", "precision_150", "coverage_150"} <= found.keys()
    same = compared(tmp_path / "same", theirs, theirs, metrics=("fd",), **more)
    assert same["fd_digits_180"]["value"] == pytest.approx(0, abs=1e-3)
    assert len([*(tmp_path / "cache").iterdir()]) == 2
    noise = torch.randint(0, 256, (150, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    far = save(tmp_path / "noise", noise.byte())
    worse = compared(tmp_path / "worse", far, theirs, metrics=("fd",), **more)
    assert worse["fd_digits_150"]["value"] > 10 * fd["value"]


def test_pictures_of_several_sizes_want_a_size(tmp_path, capsys):
    """Then all are brought to it; what cannot be read is named and left out."""
    images = Digits().load().train.images
    mine, theirs = save(tmp_path / "mine", images[:40]), save(tmp_path / "theirs", images[40:80])
    Image.new("L", (30, 16)).save(mine / "wide.png")
    more = dict(features="digits", cache=str(tmp_path / "cache"), metrics=("fd",))
    with pytest.raises(Refusal, match=r"--samples: .*shorter sides of 8 to 16 px.*--size N"):
        compared(tmp_path / "out", mine, theirs, **more)
    (mine / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 60)
    found = compared(tmp_path / "out", mine, theirs, size=12, **more)
    line = found["fd_digits_41"]
    assert line["n"] == 41 and line["samples"]["px"] == line["reference"]["px"] == 12
    assert "broken.png cannot be read" in capsys.readouterr().out


def test_bad_input_is_one_line_and_nothing_is_left(files, tmp_path):
    """Whatever the file claims: status 2 before anything is read or written."""
    bomb, few = tmp_path / "bomb.hdf5", tmp_path / "few.hdf5"
    with h5py.File(bomb, "w") as file:
        for name, shape in (("particle_features", (10**7, 100, 4)), ("jet_features", (10**7, 4))):
            file.create_dataset(name, shape, "f4", chunks=(1000, *shape[1:]), compression="gzip")
    features, mask, jet = map(torch.from_numpy, read_jets(REAL, 30))
    write_jets(few, features[:5], mask[:5], jet[:5])
    (tmp_path / "text.hdf5").write_text("no jets")
    (tmp_path / "empty").mkdir()
    real, out = files / "g.hdf5", tmp_path / "out"
    table = [
        (("--samples", real), "--reference is missing"),
        (("--reference", real), "--samples is missing"),
        ((), "--checkpoint is missing"),
        (("--samples", tmp_path / "no", "--reference", real), "no' is not there"),
        (("--samples", bomb, "--reference", real), "claims 16000.0 MB"),
        (("--samples", tmp_path / "text.hdf5", "--reference", real), "cannot be read as HDF5"),
        (("--samples", few, "--reference", real), "has 5 jets, at least 20"),
        (("--samples", tmp_path, "--reference", real), "one is a folder and one a file"),
        (("--samples", tmp_path / "empty", "--reference", tmp_path / "empty"), "holds no pictures"),
        (("--samples", real, "--reference", real, "--metrics", "w1x"), "did you mean 'w1"),
        (("--samples", real, "--reference", real, "--size", 8), "they are of pictures"),
        (("--samples", real, "--reference", real, "--clip", -1), "--clip: -1 is not an angle"),
        (("--samples", real, "--reference", real, "--steps", 3), "--steps: it is of a checkpoint"),
        (("--samples", real, "--reference", real, "--checkpoint", "x"), "without a checkpoint"),
    ]
    for words, message in table:
        done = here("evaluate.py", *words, "--output", out)
        assert done.returncode == 2 and message in done.stderr, (words, done.stderr)
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
        assert not out.exists(), words


def test_folders_do_not_take_sizes_on_faith(tmp_path):
    """A picture that claims more pixels than are opened is left out; of nothing else, refused."""
    images = Digits().load().train.images
    theirs = save(tmp_path / "theirs", images[:40])
    mine = tmp_path / "mine"
    mine.mkdir()
    head = b"IHDR" + np.array([60000, 60000], ">u4").tobytes() + b"\x08\x00\x00\x00\x00"
    raw = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + head
    import zlib

    (mine / "huge.png").write_bytes(raw + zlib.crc32(head).to_bytes(4, "big"))
    done = here("evaluate.py", "--samples", mine, "--reference", theirs, "--output", tmp_path / "o")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "--samples: none of the 1 pictures" in done.stderr and not (tmp_path / "o").exists()
