"""Spectra of real jets: kept beside a checkpoint, read with suspicion, drawn behind others."""

import json

import numpy as np
import pytest
import torch
from helpers import ROOT

from ldm.errors import Refusal
from ldm.jets.files import read_jets
from ldm.jets.metrics import Cloud
from ldm.jets.plots import quantities, values
from ldm.jets.spectra import NAME, Reference, Spectra, compared

BOX = ROOT / "checkpoints/jets-gluon" / NAME


@pytest.fixture(scope="module")
def gluons():
    features, mask, _ = read_jets(ROOT / "tests/fixtures/gluon30_400.hdf5", 30)
    return Cloud(torch.from_numpy(features), torch.from_numpy(mask))


def test_spectra_are_densities_of_the_values(gluons):
    spectra, edges = Spectra.of(gluons), quantities(30)["mass"].edges
    density, error = spectra.density("mass", edges)
    masses = values(gluons)["mass"]
    inside = ((masses >= edges[0]) & (masses <= edges[-1])).mean()
    assert (density * np.diff(edges)).sum() == pytest.approx(inside)
    some = density > 0
    assert np.allclose((density[some] / error[some]) ** 2, spectra.counts["mass"][some])


def test_a_reference_is_the_same_after_its_file(gluons, tmp_path):
    Reference("jets of a test", {"gluon": Spectra.of(gluons)}).write(tmp_path / NAME)
    found = Reference.read(tmp_path / NAME)
    again, first = found.classes["gluon"], Spectra.of(gluons)
    assert found.source == "jets of a test" and again.jets == 400
    assert all(np.array_equal(again.counts[key], first.counts[key]) for key in first.counts)
    assert dict(again.numbers) == dict(first.numbers) and (tmp_path / NAME).stat().st_size < 10_000


def test_those_in_the_box_are_of_real_gluon_jets(gluons):
    """Of 19,500; the fixture's 400 are others of the same kind: their means agree to 4 errors."""
    box, few = Reference.read(BOX).classes[""], Spectra.of(gluons)
    assert box.jets == 19_500
    for key in ("mass", "leading_1", "leading_2", "leading_5"):
        edges = quantities(30)[key].edges
        middles = (edges[1:] + edges[:-1]) / 2
        mean, one = (np.average(middles, weights=of.counts[key]) for of in (box, few))
        spread = np.sqrt(np.average((middles - mean) ** 2, weights=box.counts[key]) / 400)
        assert abs(mean - one) < 4 * spread, key


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["classes"][""].update(jets=-1),
        lambda d: d["classes"][""].update(jets=True),
        lambda d: d["classes"][""].update(constituents=10**9),
        lambda d: d["classes"][""]["counts"].update(mass=[1, 2]),
        lambda d: d["classes"][""]["counts"].update({"../x": [1]}),
        lambda d: d["classes"][""]["counts"]["mass"].__setitem__(0, float("nan")),
        lambda d: d["classes"][""]["numbers"].pop("mass"),
        lambda d: d.pop("source"),
        lambda d: d.update(classes=[1]),
        lambda d: d.update(more="x" * 300_000),
    ],
)
def test_a_damaged_or_hostile_file_is_one_line(change, tmp_path):
    plain = json.loads(BOX.read_text())
    change(plain)
    (tmp_path / NAME).write_text(json.dumps(plain))
    with pytest.raises(
        Refusal, match=r"no spectra of real jets .*benchmarks\.jet_spectra"
    ) as error:
        Reference.read(tmp_path / NAME)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("text", ["", "null", "[" * 100_000, "\x00"])
def test_a_file_that_is_no_json_is_one_line(text, tmp_path):
    (tmp_path / NAME).write_text(text)
    with pytest.raises(Refusal, match="no spectra of real jets"):
        Reference.read(tmp_path / NAME)


def test_real_jets_are_drawn_behind_the_generated_ones(gluons):
    few = Spectra.of(Cloud(gluons.features[:50], gluons.mask[:50]))
    with_real = compared(few, Reference.read(BOX).classes[""])
    alone = compared(few, None)
    assert len(with_real) == len(alone) == 11
    for one, other in zip(with_real, alone, strict=True):
        assert filled(one) > 10_000 > 1000 > filled(other)


def filled(picture):
    """Pixels of the grey in which real jets are filled."""
    pixels = np.asarray(picture).astype(int)
    return ((np.ptp(pixels, -1) < 3) & (abs(pixels[..., 0] - 193) < 3)).sum()
