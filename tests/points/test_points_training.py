"""Points end to end: trained by the one module, sampled, evaluated, asked in Python, resumed,
refused in one line.
"""

import csv
import json
from dataclasses import replace

import pytest
import torch
from helpers import ROOT, TINY, here, largest_difference, load, one_line, overrides, run_config
from solver_models import ALL

import ldm
from ldm import config
from ldm.config import from_dict
from ldm.errors import Refusal
from ldm.evaluation.points import distance, errors, few, generate_like, nats
from ldm.points.metrics import error_times
from ldm.sampling.conditions import Condition
from ldm.sampling.density import Estimate
from ldm.sampling.generate import generate
from ldm.sampling.model import restore
from ldm.system.randomness import generator
from ldm.training.run import train_run


@pytest.fixture(scope="module")
def points_run(tmp_path_factory):
    """The folder of a tiny model of points, trained by train.py."""
    output = tmp_path_factory.mktemp("points")
    done = here("train.py", "--config", TINY / "points.yaml", *overrides("points", output))
    assert done.returncode == 0, done.stderr
    assert "Points: 300 training, 60 held out, (2,), 2 classes" in done.stdout
    assert "points: shift" in done.stdout
    return output / "tiny-points"


@pytest.fixture(scope="module")
def model(points_run):
    return restore(points_run)


def test_panels_and_figures(points_run):
    panels = {
        f"{n}-{s:07d}.png"
        for n in ("samples", "paths", "errors", "field", "density")
        for s in (0, 8)
    }
    assert {p.name for p in (points_run / "samples").iterdir()} == panels
    header = (points_run / "metrics.csv").read_text().splitlines()[0].split(",")
    wanted = {"val/energy_40", "val/energy_40_floor", "val/denoiser_rms", "val/nats", "val/loss"}
    assert wanted < {*header}


def test_sampled_as_a_user_does(points_run, model, tmp_path):
    out = tmp_path / "out"
    done = here(
        "sample.py",
        "--checkpoint",
        points_run,
        "--output",
        out,
        "--count",
        6,
        "--seed",
        3,
        "--label",
        "lower",
        "--trajectory",
        2,
    )
    assert done.returncode == 0, done.stderr
    with open(out / "points.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["x", "y", "class"] and {row["class"] for row in rows} == {"lower"}
    made = generate(model, model.settings, range(3, 9), Condition([1] * 6))
    found = torch.tensor([[float(row["x"]), float(row["y"])] for row in rows])
    assert (found - made).abs().max() < 1e-4
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert lines[5] == {"file": "points.csv", "row": 5, "seed": 8, "label": "lower"}
    names = {"points.png", "points.csv", "samples.jsonl", "settings.json", "trajectory.png"}
    assert {p.name for p in out.iterdir()} == names


def test_evaluated_as_a_user_does(points_run, tmp_path):
    done = here("evaluate.py", "--checkpoint", points_run, "--output", tmp_path, "--count", 50)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    found = {record["metric"]: record for record in map(json.loads, lines)}
    assert [*found] == ["energy_50", "nats_50", "denoiser_rms"]
    assert found["energy_50"]["value"] > found["energy_50"]["truth_vs_truth"]["value"] > 0
    assert found["nats_50"]["truth_vs_truth"]["value"] is None  # moons have no law in closed form
    for words, said in (("--metrics fid", "'fid' is not one of energy"), ("--clip 1", "of jets")):
        done = here("evaluate.py", "--checkpoint", points_run, *words.split())
        one_line(done, said)


def test_asked_in_python(points_run):
    model = ldm.load(points_run)
    points = model.sample(5, label="upper", seed=1)
    assert points.shape == (5, 2) and model.classes == ("upper", "lower")
    found = model.log_likelihood(points, estimate=Estimate(probes=0))
    again = model.log_likelihood(points, label="upper", estimate=Estimate(probes=0))
    assert found.nats.isfinite().all() and not torch.equal(found.nats, again.nats)
    with pytest.raises(Refusal, match=r"x: \(N, 2\)"):
        model.log_likelihood(torch.zeros(3, 4))


def test_what_points_are_not_asked(points_run, tmp_path):
    table = (
        (("--constituents", 3), "makes points, not jets"),
        (("--label", "loer"), "not one of the 2 classes"),
        (("--task", "denoise", "--image", ROOT / "docs"), "is of pictures"),
    )
    for words, said in table:
        done = here("sample.py", "--checkpoint", points_run, "--output", tmp_path / "no", *words)
        one_line(done, said)
        assert not (tmp_path / "no").exists()


def test_parts_of_other_data_are_refused():
    plain = {"name": "a", "data": {"name": "Points"}, "space": "Plain", "network": "MLP"}
    from_dict(plain)
    for key, other in (("space", "Pixels"), ("network", "UNet"), ("data", "Digits")):
        with pytest.raises(Refusal, match="do not fit"):
            from_dict(plain | {key: other})


@pytest.mark.parametrize("name", ALL)
def test_every_solver_on_a_trained_model(model, name):
    """Finite, guided and not; a point is the same alone and in a batch, but for AdaptiveODE."""
    settings = replace(model.settings, solver=ALL[name], steps=4, batch_size=3, guidance=2.0)
    together = generate(model, settings, [7, 8, 9])
    assert torch.isfinite(together).all()
    if name != "AdaptiveODE":
        assert (generate(model, settings, [9])[0] - together[2]).abs().max() < 1e-5


@pytest.mark.slow
def test_resume_ends_with_the_same_bits(points_run, tmp_path):
    train_run(run_config("points", tmp_path, "trainer.max_steps=5"))
    parts = load(train_run(run_config("points", tmp_path), resume=True) / "last.ckpt")
    whole = load(points_run / "last.ckpt")
    assert parts["global_step"] == whole["global_step"] == 8
    assert largest_difference(parts["state_dict"], whole["state_dict"]) == 0


def test_a_csv_of_three_columns_trains(tmp_path):
    """Every panel that there is of more than two columns; names of columns reach the samples."""
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 3, generator=random).tolist()
    text = "\n".join(["a,b,c", *(",".join(map(str, row)) for row in rows)])
    (tmp_path / "own.csv").write_text(text)
    data = f"data={{name: Points, kind: csv, file: {tmp_path}/own.csv, batch_size: 16}}"
    folder = train_run(run_config("points", tmp_path, data))
    names = {p.name for p in (folder / "samples").glob("*-0000008.png")}
    assert names == {f"{name}-0000008.png" for name in ("samples", "paths", "errors")}
    assert restore(folder).space.columns == ["a", "b", "c"]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """The model of configs/points/mixture.yaml, and its data: its tests are a group of one process,
    so that it is trained once.
    """
    output = tmp_path_factory.mktemp("mixture")
    run = config.load(ROOT / "configs/points/mixture.yaml", overrides("points", output))
    return restore(train_run(run)), run.data.load()


@pytest.mark.slow
@pytest.mark.xdist_group("mixture")
def test_the_mixture_is_learnt(mixture):
    """The denoiser within 5 % RMS of the exact one over t, the likelihood within 0.02 nats."""
    model, data = mixture
    assert errors(model, data, few(data.test, 2000), error_times()).mean() < 0.05
    learnt, exact = nats(model, data, few(data.test, 2000))
    assert abs(learnt.mean() - exact.mean()) < 0.02


@pytest.mark.slow
@pytest.mark.xdist_group("mixture")
@pytest.mark.xfail(
    reason="the statistic is noise at this size: one draw's value has a standard deviation of 0.36 "
    "of the floor, two real sets' 0.30; the means of six draws of seeds 0, 1 and 2 are 1.13, 1.28 "
    "and 1.07 (each +- 0.15) of the floor's expectation 2 E|x - x'| / 10,000"
)
def test_samples_of_the_mixture_are_as_near_as_data(mixture):
    """The energy distance of 10,000 samples within 1.2 of its floor, means of several draws."""
    model, data = mixture
    # one floor of two draws is worth little: it varies by a factor of two
    found, floors = [], []
    for i in range(4):
        made = generate_like(model, model.settings, data.test, seed=10_000 * i)
        one, other = (data.law.draw(10_000, generator("floor", i, k)).float() for k in range(2))
        found += [distance(model, one, made), distance(model, other, made)]
        floors.append(distance(model, one, other))
    assert sum(found) / 8 < 1.2 * sum(floors) / 4
