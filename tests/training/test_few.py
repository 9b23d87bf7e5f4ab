"""Students of a few steps: from a run's weights and space, with its guidance inside."""

import pytest
import torch
from helpers import TINY, here, largest_difference, load, overrides, run_config

from ldm.errors import Refusal
from ldm.sampling.generate import generate
from ldm.sampling.model import fingerprint, restore
from ldm.training.run import train_run

FEW = ("sample={solver: {name: Consistency}, steps: 2, guidance: 1, count: 10, every: 4}", "drop=0")


def student(origin, *more, guidance="1.5"):
    loss = f"loss={{name: Consistency, guidance: {guidance}, first: 2, last: 4}}"
    return f"init={origin}", loss, "name=student", *FEW, *more


def stopping(origin, *more):
    """A student of two segments, a second-order teacher and the average's target, grid fixed."""
    loss = "loss={name: Consistency, segments: 2, order: 2, grid: angle, first: 4, last: 4,"
    sampled = (
        "sample={solver: {name: Consistency, segments: 2}, steps: 2, grid: angle, guidance: 1}"
    )
    return f"init={origin}", f"{loss} target: average}}", "name=student", sampled, "drop=0", *more


@pytest.fixture(scope="module")
def segmented(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmented")
    return train_run(run_config("pixel", folder, *stopping(teacher)))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A tiny pixel run of 8 steps."""
    return train_run(run_config("pixel", tmp_path_factory.mktemp("teacher")))


def test_a_student_starts_at_its_teachers_average(teacher, tmp_path):
    """Of a learning rate of almost nothing: the weights are the teacher's averaged ones."""
    folder = train_run(
        run_config("pixel", tmp_path, *student(teacher, "optim.lr=1e-12", "trainer.max_steps=2"))
    )
    theirs = load(teacher / "last.ckpt")["ldm"]["ema"]["weights"]
    mine = load(folder / "last.ckpt")["ldm"]["ema"]["weights"]
    assert 0 < largest_difference(mine, theirs) < 1e-6
    about = load(folder / "last.ckpt")["ldm"]
    assert about["init"] == fingerprint(restore(teacher).denoiser.net)


def test_a_student_is_sampled_from_its_checkpoint_alone(teacher, tmp_path):
    """Two evaluations by default, and the teacher's weights are not inside."""
    folder = train_run(run_config("pixel", tmp_path, *student(teacher)))
    state = load(folder / "last.ckpt")
    assert len(state["state_dict"]) == len(load(teacher / "last.ckpt")["state_dict"])
    done = here("sample.py", "--checkpoint", folder, "--output", tmp_path / "out", "--count", 2)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) >= 2
    settings = restore(folder).settings
    assert (type(settings.solver).__name__, settings.steps) == ("Consistency", 2)


@pytest.mark.parametrize(
    "flags, why",
    [
        (("--solver", "DDIM"), "solver DDIM and loss Consistency do not fit"),
        (("--guidance", "2"), "guidance inside"),
    ],
)
def test_what_a_student_cannot_is_refused(teacher, tmp_path, flags, why):
    folder = train_run(run_config("pixel", tmp_path, *student(teacher, "trainer.max_steps=2")))
    given = "--checkpoint", folder, "--output", tmp_path / "out", *flags
    done = here("sample.py", *given)
    assert done.returncode == 2 and why in done.stderr and not (tmp_path / "out").exists()


def test_a_plain_model_is_not_sampled_as_a_student(teacher, tmp_path):
    given = "--checkpoint", teacher, "--output", tmp_path / "out", "--solver", "Consistency"
    done = here("sample.py", *given)
    assert done.returncode == 2 and "nothing else does" in done.stderr


@pytest.mark.parametrize(
    "more, why",
    [
        (("init=null",), "needs init: its teacher"),
        (("sample.guidance=2",), "sample.guidance must be 1"),
        (("loss.predict=eps",), "Consistency needs predict"),
        (("schedule=Discrete",), "needs continuous time"),
        (("loss.predict=velocity",), "undefined at t = 0"),
        (("sample.solver=DDIM",), "do not fit"),
        (("loss.first=9",), "1 <= first <= last"),
    ],
)
def test_a_config_that_cannot_be(teacher, tmp_path, more, why):
    with pytest.raises(Refusal, match=why):
        run_config("pixel", tmp_path, *student(teacher), *more)


@pytest.mark.parametrize(
    "more, why",
    [
        (("sample.steps=4",), "sampled in as many steps on its grid: sample.steps=2"),
        (("sample.grid=uniform",), "sample.grid=angle"),
        (("sample.solver.segments=1",), "must be loss.segments = 2"),
        (("loss.segments=5",), "segments must be 1 to first = 4"),
    ],
)
def test_segments_that_do_not_fit(teacher, tmp_path, more, why):
    with pytest.raises(Refusal, match=why):
        run_config("pixel", tmp_path, *stopping(teacher), *more)


@pytest.mark.parametrize(
    "flags, why",
    [
        (("--steps", "4"), "sample.steps=2"),
        (("--grid", "uniform"), "sample.grid=angle"),
        (("--solver-option", "segments=1"), "must be loss.segments = 2"),
        (("--task", "edit", "--image", "x.png"), "give the checkpoint of its teacher"),
    ],
)
def test_what_a_student_of_segments_cannot_is_refused(segmented, tmp_path, flags, why):
    given = "--checkpoint", segmented, "--output", tmp_path / "out", *flags
    done = here("sample.py", *given)
    assert done.returncode == 2 and why in done.stderr and not (tmp_path / "out").exists()


def test_segments_draw_no_noise_but_the_first(segmented):
    """One seed is one path; the solver of the checkpoint knows its segments."""
    model = restore(segmented)
    assert model.settings.solver.segments == 2
    made = [generate(model, model.settings, [seed]) for seed in (3, 3, 4)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_a_resumed_student_has_the_same_bits(teacher, segmented, tmp_path):
    """Weights, averages and optimiser, after a stop half-way; the target is the average."""
    train_run(run_config("pixel", tmp_path, *stopping(teacher, "trainer.max_steps=4")))
    again = train_run(run_config("pixel", tmp_path, *stopping(teacher)), resume=True)
    mine, whole = (load(folder / "last.ckpt") for folder in (again, segmented))
    assert mine["global_step"] == whole["global_step"] == 8
    assert largest_difference(mine["state_dict"], whole["state_dict"]) == 0
    averages = (state["ldm"]["ema"]["weights"] for state in (mine, whole))
    assert largest_difference(*averages) == 0


@pytest.mark.parametrize(
    "more, why",
    [
        (("schedule=Cosine",), "init: schedule"),
        (("network.channels=[8, 24]",), "init"),
        (("condition=none",), "init: condition"),
        (("init=nowhere",), "nowhere"),
    ],
)
def test_an_origin_that_does_not_fit(teacher, tmp_path, more, why):
    with pytest.raises(Refusal, match=why):
        train_run(run_config("pixel", tmp_path, *student(teacher), *more), dry_run=True)
    assert not (tmp_path / "student" / "config.yaml").exists()


def test_a_resumed_student_has_the_same_teacher(teacher, tmp_path):
    """The same bits as without a stop; another teacher under the same name is refused."""
    whole = load(
        train_run(run_config("pixel", tmp_path / "whole", *student(teacher))) / "last.ckpt"
    )
    short = student(teacher, "trainer.max_steps=4")
    train_run(run_config("pixel", tmp_path / "parts", *short))
    # the grid goes by max_steps, so a run that was planned shorter is another: planned alike here
    other = train_run(run_config("pixel", tmp_path / "other", "seed=1", "trainer.max_steps=4"))
    with pytest.raises(Refusal, match="--resume: init"):
        train_run(run_config("pixel", tmp_path / "parts", *student(other)), resume=True)
    resumed = train_run(run_config("pixel", tmp_path / "parts", *student(teacher)), resume=True)
    assert load(resumed / "last.ckpt")["global_step"] == whole["global_step"]


def test_a_student_in_latents_takes_the_stage_1_inside_its_teacher(stage1, tmp_path):
    """No stage 1 is trained or needed beside it; the statistics are the teacher's."""
    origin = train_run(run_config("latent", tmp_path, f"space.autoencoder={stage1}"))
    folder = train_run(run_config("latent", tmp_path, *student(origin)))
    mine, theirs = (load(f / "last.ckpt")["state_dict"] for f in (folder, origin))
    space = [key for key in theirs if key.startswith("space.")]
    assert space and all(torch.equal(mine[key], theirs[key]) for key in space)
    assert restore(folder).space.first_stage is not None


def test_tuning_without_a_teacher(teacher, tmp_path):
    """guidance: null; resumed, it needs its origin no more."""
    folder = train_run(
        run_config("pixel", tmp_path, *student(teacher, "trainer.max_steps=4", guidance="null"))
    )
    gone = student(tmp_path / "gone", guidance="null")
    again = train_run(run_config("pixel", tmp_path, *gone), resume=True)
    assert again == folder and load(folder / "last.ckpt")["global_step"] == 8


def test_a_student_of_jets(jets_run, tmp_path):
    """Clouds: padding stays 0, and the features of jets are given to teacher and student."""
    given = student(jets_run, "sample.every=0", "sample.count=60", "trainer.max_steps=2")
    folder = train_run(run_config("jets", tmp_path, *given))
    out = tmp_path / "out"
    done = here("sample.py", "--checkpoint", folder, "--output", out, "--count", 3)
    assert done.returncode == 0, done.stderr


@pytest.mark.ddp
@pytest.mark.parametrize("kind", [student, stopping])
def test_two_processes_equal_one(kind, pair, teacher, tmp_path):
    found = []
    for name, how in (("two", "trainer.devices=2"), ("one", "trainer.accumulate=2")):
        given = overrides("pixel", tmp_path / name, *kind(teacher), how)
        call = pair if name == "two" else here
        done = call("train.py", "--config", TINY / "pixel.yaml", *given)
        assert done.returncode == 0, done.stderr
        found.append(load(tmp_path / name / "student" / "last.ckpt"))
    assert largest_difference(found[0]["state_dict"], found[1]["state_dict"]) < 1e-6
