"""evaluate.py on jets: metrics by name, floors, references, records."""

import json
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from helpers import ROOT, here

from ldm.errors import Refusal
from ldm.evaluation.jets import available, cloud, fpnd_by_type, load_jets
from ldm.evaluation.requests import EvaluationRequest
from ldm.evaluation.run import evaluate_checkpoint as run_evaluation
from ldm.jets.data import JetNet
from ldm.jets.metrics import Comparison
from ldm.jets.particlenet import ParticleNet, fpnd


def evaluate(run, output, **given):
    plain = dict(
        checkpoint=str(run),
        count=None,
        features="auto",
        split=None,
        seed=0,
        weights="ema",
        device="cpu",
        data_root=None,
    )
    given = (
        dict(output=str(output), cache=None, batch_size=None, solver=None, eta=None, steps=2)
        | given
    )
    run_evaluation(EvaluationRequest.parse(plain | given))
    return {
        line["metric"]: line
        for line in map(json.loads, (output / "records.jsonl").read_text().splitlines())
    }


@pytest.mark.slow
def test_metrics_are_chosen_and_unknown_ones_refused_before_anything(jets_run, tmp_path, capsys):
    lines = evaluate(jets_run, tmp_path / "a", metrics="w1m, w1p,w1m", count=70, clip=0.5)
    assert list(lines) == ["w1m_10k", "w1p_10k", "w1p_eta_10k", "w1p_phi_10k", "w1p_pt_10k"]
    assert lines["w1m_10k"]["clip"] == 0.5 and lines["w1m_10k"]["n"] == 60
    said = capsys.readouterr().out
    assert "70 jets asked for; there are 60 test jets" in said and "of the generated jets" in said
    table = [
        (dict(metrics="w1m,w1x"), "metrics: 'w1x' is not one of .*did you mean 'w1"),
        (dict(metrics="fid"), "metrics: 'fid' is not one of w1m"),
        (dict(clip=-1.0), "--clip: -1 is not an angle above 0"),
    ]
    for given, message in table:
        with pytest.raises(Refusal, match=message):
            evaluate(jets_run, tmp_path / "b", **given)
        assert not (tmp_path / "b").exists()


def test_records_are_written_as_each_metric_ends(jets_run, tmp_path, monkeypatch, capsys):
    """Ctrl-C in the second metric: the first one's record is on the disk, and said."""

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "w1p", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(jets_run, tmp_path, metrics="w1m,w1p")
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["metric"] for line in lines] == [
        "w1m_10k"
    ] and "wrote 1 records" in capsys.readouterr().out


@pytest.fixture
def jetnet(tmp_path, monkeypatch):
    """A package `jetnet` with a ParticleNet of random weights, and moments of q and t that differ."""
    folder = tmp_path / "site/jetnet/evaluation/fpnd_resources/jetnet/30_particles"
    folder.mkdir(parents=True)
    (tmp_path / "site/jetnet/__init__.py").touch()
    torch.manual_seed(0)
    torch.save(ParticleNet().state_dict(), folder / "pnet_state_dict.pt")
    for kind, mean in (("q", 0.0), ("t", 1.0)):
        np.savetxt(folder / f"{kind}_mu.txt", np.full(256, mean))
        np.savetxt(folder / f"{kind}_sigma.txt", np.eye(256))
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


def test_fpnd_takes_the_types_own_reference(jetnet, two_types):
    _, folder = two_types
    jets = JetNet(root=str(folder), types=("g", "q"), download=False).load().train
    quarks = cloud(jets.rows(jets.types == 1))
    as_quarks, as_tops = (fpnd(*quarks, kind) for kind in "qt")
    assert as_tops > as_quarks + 1
    assert fpnd_by_type(jets, ("t", "q")).keys() == {"fpnd_t_44", "fpnd_q_12"}
    assert fpnd_by_type(jets, ("g", "q")) == {"fpnd_q_12": (pytest.approx(as_quarks), ANY)}
    alone = JetNet(root=str(folder / "q.hdf5"), types=("t",), download=False).load()
    assert (
        fpnd_by_type(alone.train, alone.kinds)["fpnd_14"][0]
        != fpnd_by_type(alone.train, ("q",))["fpnd_14"][0]
    )


def test_a_missing_reference_is_known_before_sampling(
    jetnet, two_types, jets_run, tmp_path, capsys
):
    """Gluons have none here: skipped and said where all metrics are taken, refused where it is
    asked for.
    """
    both = load_jets(two_types[0])
    assert "fpnd" in available(both) and "skipped for gluon jets" in capsys.readouterr().out
    wide = JetNet(
        root=str(ROOT / "tests/fixtures/gluon30_400.hdf5"), constituents=30, download=False
    ).load()
    assert (
        "fpnd" not in available(wide)
        and "fpnd is skipped: FPND is defined for" in capsys.readouterr().out
    )
    with pytest.raises(
        Refusal,
        match="--metrics: fpnd: FPND is defined for 30 constituents and types g, q, t; got 30 and 'g'",
    ):
        evaluate(jets_run, tmp_path / "e", metrics="w1m,fpnd")
    assert not (tmp_path / "e").exists()


@pytest.mark.slow
def test_evaluate_py_measures_jets_with_the_floor_beside(jets_run, tmp_path):
    """60 generated against 60 test jets, 60 others in their place for the floor, which an untrained
    model is far from.
    """
    done = here("evaluate.py", "--checkpoint", jets_run, "--output", tmp_path, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    lines = {
        line["metric"]: line
        for line in map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    }
    assert {
        "w1m_10k",
        "w1p_10k",
        "w1efp_10k",
        "fpd_50k",
        "kpd_5k",
        "cov_100",
        "mmd_100",
    } <= lines.keys()
    mass = lines["w1m_10k"]
    assert (
        mass["n"] == mass["truth_vs_truth"]["n"] == 60
        and mass["value"] > 3 * mass["truth_vs_truth"]["value"]
    )
    assert mass["constituents"] == "as test jets" and mass["checkpoint"]["step"] == 8
