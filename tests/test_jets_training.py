"""Jets end to end: trained by the one module, sampled with the numbers asked for, read back, refused in one line."""

import dataclasses
import json

import h5py
import pytest
import torch
from helpers import ROOT, TINY, largest_difference, load, overrides, run_config, script
from solver_models import ALL

from ldm import config
from ldm.clouds import asked_for, told
from ldm.data.jet_files import read_jets, write_jets
from ldm.data.jets import JetNet
from ldm.errors import Refusal
from ldm.jet_evaluation import generate_like
from ldm.model import restore, without
from ldm.pointcloud import PointCloudSpace
from ldm.sampling import generate, run, settings_from
from ldm.training.run import train
from ldm.uses.run import run_task

REAL = ROOT / "tests/fixtures/gluon30_400.hdf5"


def jets_config(output, *more):
    return run_config("jets", output, f"data.root={REAL}", *more)


@pytest.fixture(scope="module")
def jets_run(tmp_path_factory):
    """The folder of a tiny model of jets, trained by train.py in a subprocess as a user does."""
    output = tmp_path_factory.mktemp("jets")
    done = script("train.py", "--config", TINY / "jets.yaml", *overrides("jets", output, "sample.every=0"))
    assert done.returncode == 0, done.stderr
    assert "JetNet: 280 training, 60 held out, (30, 3)" in done.stdout and "constituents 29.9" in done.stdout
    return output / "tiny-jets"


@pytest.fixture(scope="module")
def model(jets_run):
    return restore(jets_run)


@pytest.mark.slow
# -- as a user does ---------------------------------------------------------------------------------------------------------
def test_train_then_sample_as_a_user_does(jets_run, tmp_path):
    """Two subprocesses; the file has JetNet's layout, the numbers of the file asked for, and zeros where there is none."""
    panels = {f"{name}-{step:07d}.png" for name in ("histograms", "jet-images", "reverse-process") for step in (0, 8)}
    assert {p.name for p in (jets_run / "samples").iterdir()} == panels
    header = (jets_run / "metrics.csv").read_text().splitlines()[0].split(",")
    for name in ("val/w1m_30", "val/w1m_30_floor", "val/w1p_30", "val/fpd_50k_of_30", "val/fpd_50k_of_30_floor", "val/loss"):
        assert name in header
    out = tmp_path / "out"
    done = script("sample.py", "--checkpoint", jets_run, "--output", out, "--constituents", REAL, "--count", 70, "--seed", 5)
    assert done.returncode == 0, done.stderr
    features, mask, jet = read_jets(out / "jets.hdf5", 30)
    wanted = read_jets(REAL, 30)[1][:70].sum(1)
    assert (mask.sum(1) == wanted).all() and len(set(wanted.tolist())) > 1 and (features[~mask] == 0).all()
    assert features[mask].std() > 0.01 and (features[..., 2][mask] > 0).all() and (jet[:, 2] > 0).all()
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert lines[69] == {"file": "jets.hdf5", "row": 69, "seed": 74, "constituents": int(wanted[69])}
    with h5py.File(out / "jets.hdf5") as file:
        assert "relative" in file.attrs["jet_units"] and json.loads(file.attrs["settings"])["step"] == 8


def sample(jets_run, output, **given):
    plain = dict(checkpoint=str(jets_run), output=str(output), count=None, seed=0, label=None, weights="ema", device="cpu")
    run(**plain | dict(solver=None, eta=None) | given)


def test_numbers_given_by_number_and_drawn_as_in_training(jets_run, model, tmp_path):
    sample(jets_run, tmp_path / "seven", constituents="7", count=5)
    assert read_jets(tmp_path / "seven/jets.hdf5", 30)[1].sum(1).tolist() == [7] * 5
    sample(jets_run, tmp_path / "drawn", count=5, trajectory=2)
    drawn = model.space.draw(range(5))["mask"]
    assert (read_jets(tmp_path / "drawn/jets.hdf5", 30)[1] == drawn.numpy()).all()
    assert (tmp_path / "drawn/trajectory.png").stat().st_size > 1000


def test_the_checkpoint_has_the_histogram_of_the_training_jets(model):
    counts = JetNet(root=str(REAL), download=False).load().train.counts
    assert torch.equal(model.space.numbers[0].long(), torch.bincount(counts, minlength=31))


def test_numbers_are_drawn_by_seed_from_the_histogram_of_the_type():
    space = PointCloudSpace((5, 3), classes=2)
    space.numbers.copy_(torch.tensor([[0, 1, 0, 3, 0, 0], [0, 0, 0, 0, 2, 2.0]]))
    counts = lambda seeds, label: space.draw(seeds, [label] * len(seeds))["mask"].sum(1)
    first, second = counts(range(2000), 0), counts(range(2000), 1)
    assert set(first.tolist()) == {1, 3} and set(second.tolist()) == {4, 5}
    assert (first == 3).float().mean() == pytest.approx(0.75, abs=0.03)
    assert (second == 5).float().mean() == pytest.approx(0.5, abs=0.035)
    assert torch.equal(first[100:200], counts(range(100, 200), 0))


# -- padding, seeds ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ALL)
def test_padding_is_zero_at_every_step_of_every_solver(model, name):
    """The state and x0_hat, exactly; and sample i is the same alone and in a batch, but for AdaptiveODE."""
    rows, padding = told(model, [4, 30, 11]), ~model.space.full([4, 30, 11])["mask"]

    def watch(step, x_s, x0_hat):
        assert (x_s[padding] == 0).all() and (x0_hat[padding] == 0).all() and x_s[~padding].abs().min() > 0

    settings = dataclasses.replace(model.settings, solver=ALL[name], steps=3, batch_size=3)
    together = generate(model, settings, [7, 8, 9], told=rows, watch=watch)
    assert (together[padding] == 0).all() and torch.isfinite(together).all()
    if name != "AdaptiveODE":
        alone = generate(model, settings, [9], told={"mask": rows["mask"][2:]})
        assert torch.equal(alone[0], together[2])


def test_a_jet_depends_on_its_seed_alone(model):
    settings = settings_from(model.settings, "EulerMaruyama", None, steps=4, batch_size=8)
    together = generate(model, settings, range(20))
    apart = torch.cat([generate(model, settings, part) for part in (range(3), range(3, 4), range(4, 20))])
    assert torch.equal(together, apart) and torch.equal(generate(model, settings, range(19, -1, -1)).flip(0), together)
    other = generate(model, dataclasses.replace(settings, batch_size=1), range(20))
    assert (other - together).abs().max() < 1e-5


# -- training ---------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_resume_ends_with_the_same_bits(jets_run, tmp_path):
    """Stopped at step 5 of 8, inside an epoch, and resumed; statistics and histogram come from the checkpoint."""
    train(jets_config(tmp_path, "sample.every=0", "trainer.max_steps=5", "sample.count=4"))
    parts = load(train(jets_config(tmp_path, "sample.every=0", "sample.count=4"), resume=True) / "last.ckpt")
    whole = load(jets_run / "last.ckpt")
    assert parts["global_step"] == whole["global_step"] == 8
    assert largest_difference(parts["state_dict"], whole["state_dict"]) == 0
    assert largest_difference(parts["ldm"]["ema"]["weights"], whole["ldm"]["ema"]["weights"]) == 0


def test_half_of_the_jets_are_mirrored_in_each_angle():
    features = torch.rand(4000, 5, 3) + 0.1
    space = PointCloudSpace((5, 3))
    mirrored = space.mirror(features, torch.Generator().manual_seed(0))
    assert torch.equal(mirrored.abs(), features) and (mirrored[..., 2] > 0).all()
    signs = mirrored[:, 0, :2].sign()
    assert torch.equal(mirrored[..., :2].sign(), signs[:, None].expand(-1, 5, -1))  # a jet as a whole
    for pattern in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        assert (signs == torch.tensor(pattern)).all(1).float().mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.slow
def test_flow_matching_by_two_lines(tmp_path):
    more = ("schedule=Linear", "loss.predict=velocity", "trainer.max_steps=2", "trainer.validate=2", "sample.count=4")
    flow = restore(train(jets_config(tmp_path, *more)))
    x = generate(flow, flow.settings, range(3))
    assert type(flow.denoiser.schedule).__name__ == "Linear" and torch.isfinite(x).all() and x.std() > 0


@pytest.mark.slow
def test_pt_mass_and_type_are_told(tmp_path):
    """Two types, network.jet=2: what is told reaches the samples, a row is dropped whole, each type has its file."""
    features, mask, jet = map(torch.from_numpy, read_jets(REAL, 30))
    for kind in "gq":
        write_jets(tmp_path / f"{kind}.hdf5", features[:60], mask[:60], jet[:60])
    data = f"data={{name: JetNet, root: {tmp_path}, types: [g, q], batch_size: 16}}"
    short = ("network.jet=2", "trainer.max_steps=8", "optim.lr=2e-2", "sample.every=0", "sample.count=4")
    folder = train(run_config("jets", tmp_path, data, *short))
    both = restore(folder)
    assert both.classes == ("gluon", "light quark") and both.space.numbers.sum(1).min() > 30
    few = JetNet(root=str(tmp_path), types=("g", "q"), download=False).load().test.first(6)
    light = dataclasses.replace(both.settings, steps=2)
    made, _ = generate_like(both, light, few)
    heavy = type(few)(few.features, few.mask, few.jet * torch.tensor([1, 1, 3, 1]), few.types)
    assert torch.equal(made.mask, few.mask) and not torch.equal(made.features, generate_like(both, light, heavy)[0].features)
    other = type(few)(few.features, few.mask, few.jet, 1 - few.types)
    assert not torch.equal(made.features, generate_like(both, light, other)[0].features)
    cond = {"label": torch.tensor([0, 1]), "jet": torch.ones(2, 2)}
    dropped = without(cond, torch.tensor([False, True]), 2)
    assert dropped["label"].tolist() == [0, 2] and dropped["jet"].isnan().tolist() == [[False] * 2, [True] * 2]
    sample(folder, tmp_path / "out", count=4)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.hdf5")) == ["gluon.hdf5", "light-quark.hdf5"]
    assert asked_for(str(tmp_path / "out/gluon.hdf5"), None)[1] is None  # relative features are no GeV


@pytest.mark.slow
def test_evaluate_py_measures_jets_with_the_floor_beside(jets_run, tmp_path):
    """60 generated against 60 test jets, 60 others in their place for the floor, which an untrained model is far from."""
    done = script("evaluate.py", "--checkpoint", jets_run, "--output", tmp_path, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    lines = {line["metric"]: line for line in map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())}
    assert {"w1m_10k", "w1p_10k", "w1efp_10k", "fpd_50k", "kpd_5k", "cov_100", "mmd_100"} <= lines.keys()
    mass = lines["w1m_10k"]
    assert mass["n"] == mass["truth_vs_truth"]["n"] == 60 and mass["value"] > 3 * mass["truth_vs_truth"]["value"]
    assert mass["constituents"] == "as test jets" and mass["checkpoint"]["step"] == 8


# -- refusals ---------------------------------------------------------------------------------------------------------------
KINDS = [
    (["space=Pixels"], r"jets need data JetNet, space PointCloud .*; got data JetNet, space Pixels, network SetTransformer"),
    (["network=UNet"], r"got data JetNet, space PointCloud, network UNet"),
    (["data=Digits"], r"got data Digits, space PointCloud, network SetTransformer"),
    (["stage=autoencoder", "network=AutoencoderKL"], r"no key 'space'|stage autoencoder is for pictures"),
    (["network.jet=3"], r"network: jet must be 0 or 2, got 3"),
    (["evaluate.every=5"], r"evaluate.every is for pictures"),
]


@pytest.mark.parametrize("given, message", KINDS, ids=lambda x: x[0] if isinstance(x, list) else "")
def test_kinds_that_do_not_go_together(given, message):
    with pytest.raises(Refusal, match=message) as error:
        config.load(TINY / "jets.yaml", given)
    assert "\n" not in str(error.value)


def test_an_autoencoder_of_jets_is_refused():
    with pytest.raises(Refusal, match="stage autoencoder is for pictures; data JetNet is of stage diffusion"):
        config.load(TINY / "autoencoder.yaml", ["data=JetNet"])


def test_constituents_that_cannot_be(jets_run, pixel_run, tmp_path):
    table = [
        (jets_run, dict(constituents="31"), r"--constituents: 31 is not in 1 \.\.\. 30"),
        (jets_run, dict(constituents="0"), r"--constituents: 0 is not in 1"),
        (jets_run, dict(constituents="many"), r"'many' is neither a number nor a file"),
        (jets_run, dict(constituents=str(TINY / "jets.yaml")), r"jets.yaml cannot be read as HDF5"),
        (jets_run, dict(constituents=str(REAL), count=401), r"--count: 401 jets asked for, .* has numbers for 400"),
        (pixel_run, dict(constituents="3"), r"--constituents: this checkpoint makes pictures"),
    ]
    for checkpoint, given, message in table:
        with pytest.raises(Refusal, match=message) as error:
            sample(checkpoint, tmp_path / "o", **given)
        assert "\n" not in str(error.value) and not any((tmp_path / "o").glob("*"))
    task = dict(image=["x.png"], mask=None, method=None, seed=0, label=None, weights="ema", device="cpu", devices=1)
    for more, message in (({}, "this checkpoint makes clouds"), ({"constituents": "3"}, "--constituents is of jets")):
        with pytest.raises(Refusal, match=message):
            run_task("inpaint", 4, checkpoint=str(jets_run), output=str(tmp_path / "o"), **task | more)
