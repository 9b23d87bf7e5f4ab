"""Jets end to end: trained by the one module, sampled with the numbers asked for, read back,
refused in one line.
"""

import dataclasses
import json

import h5py
import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, largest_difference, load, run_config, script, task
from solver_models import ALL

from ldm import config
from ldm.errors import Refusal
from ldm.evaluation.jets import cloud, generate_like
from ldm.jets.data import JetNet
from ldm.jets.files import by_pt, read_jets, write_jets
from ldm.jets.space import PointCloudSpace
from ldm.jets.vectors import Vectors
from ldm.sampling.conditions import Condition, without
from ldm.sampling.generate import generate
from ldm.sampling.jets import asked_for, constituents
from ldm.sampling.model import restore
from ldm.sampling.run import SampleRequest, sample_to_folder
from ldm.sampling.settings import Overrides
from ldm.training.panels.jets import JetPanels
from ldm.training.run import train_run

REAL = ROOT / "tests/fixtures/gluon30_400.hdf5"


def jets_config(output, *more):
    return run_config("jets", output, f"data.root={REAL}", *more)


@pytest.fixture(scope="module")
def model(jets_run):
    return restore(jets_run)


@pytest.mark.slow
# -- as a user does --------------------------------------------------------------------------------
def test_train_then_sample_as_a_user_does(jets_run, tmp_path):
    """Two subprocesses; the file has JetNet's layout, the numbers of the file asked for, and zeros
    where there is none.
    """
    panels = {
        f"{name}-{step:07d}.png"
        for name in ("histograms", "jet-images", "reverse-process")
        for step in (0, 8)
    }
    assert {p.name for p in (jets_run / "samples").iterdir()} == panels
    header = (jets_run / "metrics.csv").read_text().splitlines()[0].split(",")
    for name in (
        "val/w1m_30",
        "val/w1m_30_floor",
        "val/w1p_30",
        "val/fpd_50k_of_30",
        "val/fpd_50k_of_30_floor",
        "val/loss",
    ):
        assert name in header
    out = tmp_path / "out"
    done = script(
        "sample.py",
        "--checkpoint",
        jets_run,
        "--output",
        out,
        "--constituents",
        REAL,
        "--count",
        70,
        "--seed",
        5,
    )
    assert done.returncode == 0, done.stderr
    features, mask, jet = read_jets(out / "jets.hdf5", 30)
    wanted = read_jets(REAL, 30)[1][:70].sum(1)
    assert (
        (mask.sum(1) == wanted).all()
        and len(set(wanted.tolist())) > 1
        and (features[~mask] == 0).all()
    )
    assert (
        features[mask].std() > 0.01 and (features[..., 2][mask] > 0).all() and (jet[:, 2] > 0).all()
    )
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert lines[69] == {
        "file": "jets.hdf5",
        "row": 69,
        "seed": 74,
        "constituents": int(wanted[69]),
    }
    with h5py.File(out / "jets.hdf5") as file:
        assert (
            "relative" in file.attrs["jet_units"]
            and json.loads(file.attrs["settings"])["step"] == 8
        )


def sample(jets_run, output, **given):
    plain = dict(
        checkpoint=str(jets_run),
        output=str(output),
        count=None,
        seed=0,
        label=None,
        weights="ema",
        device="cpu",
    )
    sample_to_folder(SampleRequest.parse(plain | dict(solver=None, eta=None) | given))


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


# -- padding, seeds --------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ALL)
def test_padding_is_zero_at_every_step_of_every_solver(model, name):
    """The state and x0_hat, exactly; and sample i is the same alone and in a batch, but for
    AdaptiveODE.
    """
    rows, padding = constituents(model, [4, 30, 11]), ~model.space.full([4, 30, 11])["mask"]

    def watch(step, x_s, x0_hat):
        assert (
            (x_s[padding] == 0).all()
            and (x0_hat[padding] == 0).all()
            and x_s[~padding].abs().min() > 0
        )

    settings = dataclasses.replace(model.settings, solver=ALL[name], steps=3, batch_size=3)
    together = generate(model, settings, [7, 8, 9], Condition(extras=rows), watch=watch)
    assert (together[padding] == 0).all() and torch.isfinite(together).all()
    if name != "AdaptiveODE":
        alone = generate(model, settings, [9], Condition(extras={"mask": rows["mask"][2:]}))
        assert torch.equal(alone[0], together[2])


def test_a_jet_depends_on_its_seed_alone(model):
    settings = Overrides("EulerMaruyama", steps=4, batch_size=8).over(model.settings)
    together = generate(model, settings, range(20))
    apart = torch.cat(
        [generate(model, settings, part) for part in (range(3), range(3, 4), range(4, 20))]
    )
    assert torch.equal(together, apart) and torch.equal(
        generate(model, settings, range(19, -1, -1)).flip(0), together
    )
    other = generate(model, dataclasses.replace(settings, batch_size=1), range(20))
    assert (other - together).abs().max() < 1e-5


# -- training --------------------------------------------------------------------------------------
@pytest.mark.slow
def test_resume_ends_with_the_same_bits(jets_run, tmp_path):
    """Stopped at step 5 of 8, inside an epoch, and resumed; statistics and histogram come from the
    checkpoint.
    """
    train_run(jets_config(tmp_path, "sample.every=0", "trainer.max_steps=5", "sample.count=4"))
    parts = load(
        train_run(jets_config(tmp_path, "sample.every=0", "sample.count=4"), resume=True)
        / "last.ckpt"
    )
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
    assert torch.equal(
        mirrored[..., :2].sign(), signs[:, None].expand(-1, 5, -1)
    )  # a jet as a whole
    for pattern in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        assert (signs == torch.tensor(pattern)).all(1).float().mean() == pytest.approx(
            0.25, abs=0.03
        )


@pytest.mark.slow
def test_flow_matching_by_two_lines(tmp_path):
    more = (
        "schedule=Linear",
        "loss.predict=velocity",
        "trainer.max_steps=2",
        "trainer.validate=2",
        "sample.count=4",
    )
    flow = restore(train_run(jets_config(tmp_path, *more)))
    x = generate(flow, flow.settings, range(3))
    assert (
        type(flow.denoiser.schedule).__name__ == "Linear"
        and torch.isfinite(x).all()
        and x.std() > 0
    )


@pytest.mark.slow
def test_pt_mass_and_type_are_conditions(tmp_path):
    """Two types, network.jet=2: conditions reach the samples, a row is dropped whole, each type
    has its file.
    """
    features, mask, jet = map(torch.from_numpy, read_jets(REAL, 30))
    for kind in "gq":
        write_jets(tmp_path / f"{kind}.hdf5", features[:60], mask[:60], jet[:60])
    data = f"data={{name: JetNet, root: {tmp_path}, types: [g, q], batch_size: 16}}"
    short = (
        "network.jet=2",
        "trainer.max_steps=8",
        "optim.lr=2e-2",
        "sample.every=0",
        "sample.count=4",
    )
    folder = train_run(run_config("jets", tmp_path, data, *short))
    both = restore(folder)
    assert both.classes == ("gluon", "light quark") and both.space.numbers.sum(1).min() > 30
    few = JetNet(root=str(tmp_path), types=("g", "q"), download=False).load().test.first(6)
    light = dataclasses.replace(both.settings, steps=2)
    made, _ = generate_like(both, light, few)
    heavy = type(few)(few.features, few.mask, few.jet * torch.tensor([1, 1, 3, 1]), few.types)
    assert torch.equal(made.mask, few.mask) and not torch.equal(
        made.features, generate_like(both, light, heavy)[0].features
    )
    other = type(few)(few.features, few.mask, few.jet, 1 - few.types)
    assert not torch.equal(made.features, generate_like(both, light, other)[0].features)
    cond = {"label": torch.tensor([0, 1]), "jet": torch.ones(2, 2)}
    dropped = without(cond, torch.tensor([False, True]), 2)
    assert dropped["label"].tolist() == [0, 2] and dropped["jet"].isnan().tolist() == [
        [False] * 2,
        [True] * 2,
    ]
    sample(folder, tmp_path / "out", count=4)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.hdf5")) == [
        "gluon.hdf5",
        "light-quark.hdf5",
    ]
    assert asked_for(str(tmp_path / "out/gluon.hdf5"), None).jet is not None  # those drawn


def jets_of(folder, name="gluon"):
    """The features, mask and jet features that sample.py wrote."""
    return read_jets(folder / f"{name}.hdf5", 30)


def test_pt_and_mass_are_given_by_value(two_types, tmp_path):
    """Another mass gives other jets; the conditions stand in the file, in GeV; numbers are as of
    such jets in training.
    """
    run, _ = two_types
    for name, mass in (("light", 80), ("heavy", 300)):
        sample(run, tmp_path / name, jet=[f"mass={mass}", "pt=1e3"], label="gluon", count=4)
    light, heavy = jets_of(tmp_path / "light"), jets_of(tmp_path / "heavy")
    both = light[1] & heavy[1]
    assert abs(light[0] - heavy[0])[both].max() > 1e-4
    assert heavy[2][:, :3].tolist() == [[1000, 0, 300]] * 4
    model = restore(run)
    given = model.space.condition(torch.tensor([[1e3, 0, 300]])).expand(4, 2)
    extras = model.space.draw(range(4), [0] * 4, jet=given)
    made, mask = by_pt(
        generate(model, model.settings, range(4), Condition([0] * 4, extras=extras)), extras["mask"]
    )
    assert (made - torch.from_numpy(heavy[0])).abs().max() < 1e-5 and (
        mask == torch.from_numpy(heavy[1])
    ).all()


def test_pt_and_mass_are_drawn_as_in_training(two_types, tmp_path):
    """All four, by type and seed; recorded in GeV, so that four-vectors need no pt; the file gives
    the same jets again.
    """
    run, _ = two_types
    sample(run, tmp_path / "once", count=6, seed=3)
    space, lines = restore(run).space, (tmp_path / "once/samples.jsonl").read_text().splitlines()
    jet = space.in_gev(space.draw(range(3, 9), [1, 0] * 3)["jet"])
    for line, row in zip(map(json.loads, lines), jet.tolist(), strict=True):
        assert [line["pt"], line["mass"]] == pytest.approx([row[0], row[2]])
    features, mask, written = jets_of(tmp_path / "once")
    assert (abs(written[:, :3] - jet[1::2, :3].numpy()) < 1e-3).all()
    assert written[:, 0].min() > 300 and len({*written[:, 2]}) == 3
    vectors = Vectors.read(tmp_path / "once/gluon.hdf5")
    assert vectors.constituents[..., 0].sum(1) == pytest.approx(
        (features[..., 2] * np.cos(features[..., 1]) * mask).sum(1) * written[:, 0], rel=1e-4
    )
    again = asked_for(str(tmp_path / "once/gluon.hdf5"), None)
    assert again.jet is not None and (again.jet.numpy() == written).all()


def test_a_checkpoint_without_a_joint_table_is_sampled_without_pt_and_mass(two_types, tmp_path):
    """One made before there was a table: relative features, and a warning, as then."""
    state = load(two_types[0] / "last.ckpt")
    assert state["state_dict"].pop("space.joint")[..., 2].max() == 30
    torch.save(state, tmp_path / "old.ckpt")
    old = restore(tmp_path / "old.ckpt")
    assert [*old.space.draw(range(3), [0, 1, 0])] == ["mask"]
    sample(tmp_path / "old.ckpt", tmp_path / "out", count=2, label="gluon")
    assert asked_for(str(tmp_path / "out/gluon.hdf5"), None).jet is None
    del state["state_dict"]["space.numbers"]
    torch.save(state, tmp_path / "odd.ckpt")
    with pytest.raises(Refusal, match=r"'numbers' is missing"):
        restore(tmp_path / "odd.ckpt")


def test_a_file_of_one_type_labels_its_rows_and_our_own_output_is_such_a_file(two_types, tmp_path):
    """As FILE, what was made from g.hdf5 gives the same jets again: type, numbers, pt and mass are
    kept.
    """
    run, folder = two_types
    sample(run, tmp_path / "once", constituents=str(folder / "q.hdf5"))
    assert [p.name for p in (tmp_path / "once").glob("*.hdf5")] == ["light-quark.hdf5"]
    first = jets_of(tmp_path / "once", "light-quark")
    renamed = (tmp_path / "once/light-quark.hdf5").rename(
        tmp_path / "any.hdf5"
    )  # the file itself says its type
    sample(run, tmp_path / "twice", constituents=str(renamed))
    for a, b, c in zip(
        first, jets_of(tmp_path / "twice", "light-quark"), jets_of(folder, "q"), strict=True
    ):
        assert (a == b).all() and (
            a.ndim == 3 or (a == c).all()
        )  # particles, or masks and jets: those of FILE too
    sample(
        run, tmp_path / "other", constituents=str(renamed), label="gluon", jet=["pt=900", "mass=70"]
    )
    assert (
        jets_of(tmp_path / "other")[2][:, 0].tolist() == [900] * 20
        and len(list((tmp_path / "other").glob("*.hdf5"))) == 1
    )


def test_what_is_asked_of_jets_and_cannot_be(two_types, jets_run, pixel_run, tmp_path):
    run, folder = two_types
    (tmp_path / "jets.hdf5").write_bytes((folder / "g.hdf5").read_bytes())
    (tmp_path / "top.hdf5").write_bytes((folder / "g.hdf5").read_bytes())
    table = [
        (run, dict(jet=["pt=1000"]), "--jet: mass is missing"),
        (
            run,
            dict(jet=["pt=1000", "mas=80"]),
            r"--jet: 'mas' is not one of pt, mass; did you mean 'mass'",
        ),
        (run, dict(jet=["pt=1000", "mass"]), r"--jet: mass: '' is not a number"),
        (run, dict(jet=["pt=1TeV", "mass=80"]), r"--jet: pt: '1TeV' is not a number"),
        (run, dict(jet=["pt=0", "mass=80"]), r"--jet: pt=0 cannot be: above 0"),
        (run, dict(jet=["pt=nan", "mass=80"]), r"--jet: pt=nan cannot be"),
        (run, dict(jet=["pt=1000", "mass=-1"]), r"--jet: mass=-1 cannot be"),
        (run, dict(jet=["pt=1", "pt=2", "mass=1"]), r"--jet: pt is given twice"),
        (
            run,
            dict(constituents=str(tmp_path / "jets.hdf5")),
            r"does not name the type .* gluon, light quark: .*--label",
        ),
        (
            run,
            dict(constituents=str(tmp_path / "top.hdf5")),
            r"is of top jets; this checkpoint makes gluon, light quark",
        ),
        (run, dict(constituents="2.5"), r"--constituents: '2.5' is not a whole number"),
        (run, dict(constituents="-3"), r"--constituents: -3 is not in 1 \.\.\. 30"),
        (run, dict(constituents="9" * 5000), r"--constituents: .* is not a whole number"),
        (
            jets_run,
            dict(jet=["pt=1000", "mass=80"]),
            r"--jet: this checkpoint is not conditioned on pt",
        ),
        (pixel_run, dict(jet=["pt=1000", "mass=80"]), r"--jet: this checkpoint makes pictures"),
        (
            pixel_run,
            dict(constituents=str(folder / "g.hdf5")),
            r"--constituents: this checkpoint makes pictures",
        ),
    ]
    for checkpoint, given, message in table:
        with pytest.raises(Refusal, match=message) as error:
            sample(checkpoint, tmp_path / "o", **given)
        assert "\n" not in str(error.value) and not (tmp_path / "o").exists()


def test_what_training_has_not_seen_is_said(two_types, tmp_path, capsys):
    run, _ = two_types
    low, high = restore(run).space.seen(0)
    assert 20 < low <= high == 30
    table = [
        (
            dict(constituents="3"),
            f"--constituents: 2 jets of 3 ... 3; training saw gluon jets of {low} ... 30 alone",
        ),
        (dict(jet=["pt=5", "mass=1"]), "pt or mass of 2 jets lie more than 5 standard deviations"),
        (dict(), None),
        (dict(constituents="30", jet=["pt=1000", "mass=80"]), None),
    ]
    for i, (given, warning) in enumerate(table):
        sample(run, tmp_path / str(i), label="gluon", count=2, steps=2, **given)
        said = capsys.readouterr().out
        assert f"warning: {warning}" in said if warning else "warning" not in said


def test_panels_hold_every_type_by_the_same_share(two_types, tmp_path):
    """Of 45 gluons and 15 quarks: generated, held-out and the floor's others alike."""
    _, folder = two_types
    held = (
        JetNet(root=str(folder), types=("g", "q"), split="order", parts=(10, 68, 2), download=False)
        .load()
        .valid
    )
    panels = JetPanels(tmp_path, 1, 20, held)
    assert [
        torch.bincount(part.types).tolist() for part in (panels.real, panels.others, panels.asked)
    ] == [[15, 5]] * 3
    rows = lambda part: {tuple(row) for row in part.features.flatten(1).tolist()}
    assert not rows(panels.real) & rows(panels.others)
    lonely = JetPanels(tmp_path, 1, 4, held.first(1))
    assert len(lonely.asked) == 4 and not len(lonely.others)
    assert "val/w1m_1" in lonely.figures(cloud(lonely.asked)) and not lonely.floor


# -- refusals --------------------------------------------------------------------------------------
KINDS = [
    (
        ["space=Pixels"],
        r"do not fit: data JetNet is for jets, space Pixels is for pictures, network SetTransformer is for jets",
    ),
    (["network=UNet"], r"space PointCloud is for jets, network UNet is for pictures"),
    (["data=Digits"], r"data Digits is for pictures, space PointCloud is for jets"),
    (
        ["stage=autoencoder", "network=AutoencoderKL"],
        r"no key 'space'|stage autoencoder is for pictures",
    ),
    (["network.jet=3"], r"network: jet must be 0 or 2, got 3"),
    (["evaluate.every=5"], r"evaluate.every is for pictures"),
]


@pytest.mark.parametrize("given, message", KINDS, ids=lambda x: x[0] if isinstance(x, list) else "")
def test_kinds_that_do_not_go_together(given, message):
    with pytest.raises(Refusal, match=message) as error:
        config.load(TINY / "jets.yaml", given)
    assert "\n" not in str(error.value)


def test_an_autoencoder_of_jets_is_refused():
    with pytest.raises(
        Refusal, match="stage autoencoder is for pictures; data JetNet is of stage diffusion"
    ):
        config.load(TINY / "autoencoder.yaml", ["data=JetNet"])


def test_constituents_that_cannot_be(jets_run, pixel_run, tmp_path):
    table = [
        (jets_run, dict(constituents="31"), r"--constituents: 31 is not in 1 \.\.\. 30"),
        (jets_run, dict(constituents="0"), r"--constituents: 0 is not in 1"),
        (jets_run, dict(constituents="many"), r"'many' is neither a number nor a file"),
        (jets_run, dict(constituents=str(TINY / "jets.yaml")), r"jets.yaml cannot be read as HDF5"),
        (
            jets_run,
            dict(constituents=str(REAL), count=401),
            r"--count: 401 jets asked for, .* has numbers for 400",
        ),
        (pixel_run, dict(constituents="3"), r"--constituents: this checkpoint makes pictures"),
    ]
    for checkpoint, given, message in table:
        with pytest.raises(Refusal, match=message) as error:
            sample(checkpoint, tmp_path / "o", **given)
        assert "\n" not in str(error.value) and not any((tmp_path / "o").glob("*"))
    for more, message in (
        ({}, "this checkpoint makes jets"),
        ({"constituents": "3"}, "--constituents is of jets"),
    ):
        with pytest.raises(Refusal, match=message):
            task(jets_run, tmp_path / "o", "inpaint", image=["x.png"], **more)
