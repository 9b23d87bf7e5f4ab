"""What a newcomer reads of a run: the plan's notes, the time with its panels, what is not used."""

import re
from datetime import datetime
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, run_config, script

from ldm import config
from ldm.errors import Refusal
from ldm.networks.autoencoder import AutoencoderKL
from ldm.pictures.space import LatentSpace
from ldm.sampling.model import restore
from ldm.sampling.trajectory import TITLE, Recorder
from ldm.system.progress import Bar, file_size
from ldm.training import words
from ldm.training.estimate import describe_time
from ldm.training.given import captions_of
from ldm.training.panels.base import EverySteps
from ldm.training.plan import make_plan
from ldm.training.progress import Beside, Progress, ahead, busy
from ldm.training.run import train_run
from ldm.training.words import describe_plan


@pytest.fixture(scope="module")
def legs(tmp_path_factory):
    run = run_config("pixel", tmp_path_factory.mktemp("plan"), "trainer.max_steps=8")
    return make_plan(run, False, True, lambda folder: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_beside_a_cpu_the_plan_names_the_config_for_one(legs):
    """And has no hours on an H100, but of a config that is for GPUs."""
    said = describe_plan(legs, dry=True)
    assert "TFLOP" in said and "H100" not in said and "note" not in said
    said = describe_plan(legs, dry=True, for_cpu="a/b-cpu.yaml")
    assert "s on H100s at 40% of their peak" in said
    assert said.endswith("\nnote       this config is for a GPU; a/b-cpu.yaml is made for a CPU")


def test_beside_a_gpu_it_is_not_named(legs, monkeypatch):
    monkeypatch.setattr(words, "on_gpu", lambda settings: True)
    said = describe_plan(legs, dry=True, for_cpu="a/b-cpu.yaml")
    assert "on H100s" in said and "b-cpu" not in said


def test_the_config_for_a_cpu_lies_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.made_for_cpu("configs/folder/latent.yaml") == "configs/folder/latent-cpu.yaml"
    assert config.made_for_cpu("folder/latent.yaml") == "folder/latent-cpu.yaml"
    found = config.made_for_cpu(ROOT / "configs/folder/latent.yaml")
    assert found == str(ROOT / "configs/folder/latent-cpu.yaml")
    for other in ("folder/latent-cpu.yaml", "folder/latent-256.yaml", "digits/latent.yaml", "no"):
        assert config.made_for_cpu(other) is None
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/latent.yaml").touch()  # the user's own
    assert config.made_for_cpu("folder/latent.yaml") is None


def test_a_warm_up_that_the_run_does_not_outlast(legs, monkeypatch):
    for steps, warmup, warned in ((8, 8, True), (8, 7, False), (100, 200, True)):
        monkeypatch.setattr(legs[0].run.trainer, "max_steps", steps)
        monkeypatch.setattr(legs[0].run.optim, "warmup", warmup)
        why = f"optim.warmup={warmup} is not below trainer.max_steps={steps}"
        lr = f"{legs[0].run.optim.lr:g}"
        line = f"the learning rate never reaches {lr}: {why}; optim.warmup={steps // 10} would do"
        assert (line in describe_plan(legs)) == warned


def test_the_estimate_counts_the_panels_to_come():
    now = datetime(2026, 11, 26, 12)
    said = describe_time(1.0, 120, {}, now, {"panels": (2, 120.0)}).split("step: ")[1]
    assert (
        said
        == "about 2 min for the 120 steps left, 2 min for 2 panels; 4 min in all, to Thu 26 Nov 12:04"
    )
    said = describe_time(1.0, 120, {}, now, {"panels": (1, 0.0), "evaluations": (0, 0.0)})
    assert said.endswith("about 2 min for the 120 steps left, to Thu 26 Nov 12:02 (without panels)")
    assert describe_time(1.0, 9, {"b": 9.0}, now).endswith("(without later panels)")


class Drawn(EverySteps):
    @classmethod
    def of(cls, module, images):
        raise NotImplementedError

    def show(self, trainer, module):
        raise NotImplementedError


@pytest.mark.parametrize("every, step, last, count", [
    (50, 0, 150, 3), (50, 50, 150, 2), (40, 100, 150, 2), (0, 10, 150, 1), (50, 149, 150, 1),
])  # fmt: skip
def test_how_many_panels_are_to_come(tmp_path, every, step, last, count):
    panel = Drawn(tmp_path, every)
    panel.shown = step
    assert panel.to_come(step, last) == count
    panel.shown = last
    assert panel.to_come(last, last) == 0


def test_a_panel_is_no_part_of_the_pace_and_shows_how_far_it_is(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("time.time", lambda: clock.now)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    shown, panel = Progress("training"), Drawn(".", 50)
    trainer = SimpleNamespace(
        global_step=10, max_steps=100, callbacks=[panel], progress_bar_callback=shown
    )
    shown.bar = Bar("training", 100, "images", counted=" steps")
    shown.bar.start_t = clock.now
    shown.bar.ahead = lambda: ahead(trainer)
    clock.now += 20
    shown.bar.n = 10  # 2 s a step
    assert shown.bar.left() == 180
    panel.took, panel.shown = 50.0, 10
    assert isinstance(panel, Beside) and shown.bar.left() == 180 + 2 * 50  # at 50 and 100
    panel.since = clock.now
    with busy(trainer, "drawing samples") as tick:
        tick(0, 64)
        clock.now += 40
        tick(16)
        assert str(shown.bar).startswith(
            "training, drawing samples 16/64: 10/100 steps, 60 s so far"
        )
        assert shown.bar.left() == 180 + 2 * 50 + 10
    panel.since = 0.0
    assert shown.bar.left() == 180 + 2 * 50 and str(shown.bar).startswith("training: 10/100 steps")
    shown.bar.close()


def test_captions_that_a_run_does_not_use_are_counted(capsys):
    """Once: what of the data is not used is said."""
    run = run_config("pixel", "x")
    images = lambda *texts: SimpleNamespace(train=SimpleNamespace(captions=texts))
    assert captions_of(run, images("a dog", "", "a cat")) is None
    line = "data: 2 pictures have captions, which this run does not use; condition=text does\n"
    assert capsys.readouterr().out == line
    captions_of(run, images())
    assert capsys.readouterr().out == ""


def test_a_folder_that_holds_a_run_is_refused_before_the_data_are_read(tmp_path, pixel_run):
    """Reading a big folder takes minutes."""
    run = run_config("pixel", pixel_run.parent, f"data={{name: ImageFolder, root: {tmp_path}/no}}")
    with pytest.raises(Refusal, match=r"is finished|holds an unfinished run"):
        train_run(run)


def test_sizes_of_files():
    sizes = [file_size(n) for n in (512, 40_000, 999_900, 3.2e6, 1.5e9)]
    assert sizes == ["512 B", "40.0 kB", "1.00 MB", "3.20 MB", "1.50 GB"]


def test_settings_have_no_dashes():
    for given in (["--data.root=X"], ["--data.root", "X"], ["--seed=3"]):
        done = script("train.py", "--config", "digits/latent.yaml", *given)
        setting = "data.root=X" if given[0].endswith("X") else "data.root=VALUE"
        setting = "seed=3" if given[0] == "--seed=3" else setting
        said = f"error: settings have no dashes: {setting} (--help lists all)\n"
        assert (done.returncode, done.stderr) == (2, said)


def test_what_a_latent_run_says_of_its_latents_and_its_panels(stage1, pixel_run, tmp_path, capsys):
    short = ("trainer.max_steps=1", "trainer.validate=1", "sample.count=2", "sample.steps=2")
    given = (f"space.autoencoder={stage1}", "logger.kind=csv", "sample.trajectory=1", *short)
    folder = train_run(run_config("latent", tmp_path, *given))
    said = capsys.readouterr().out
    for step in (0, 1):
        way = folder / f"samples/trajectory-{step:07d}.png"
        assert f"step {step}: wrote {way} and .gif\n" in said
        assert way.exists() and way.with_suffix(".gif").exists()
    assert re.search(r"latents: \S+/latents/\w+, \d[\d.]* [kM]B for \d+ pictures", said)
    assert re.search(r"by the picture [\d. %,]+ \(a channel; the rest is the noise that", said)
    titles = [
        Recorder(model := restore(run), model.settings, [0]).title for run in (folder, pixel_run)
    ]
    decoder = "; noise too is shown through stage 1's decoder"
    assert titles == [TITLE + decoder, TITLE]


@pytest.mark.parametrize("logvar, low", [(-8.0, False), (3.0, True)])
def test_latents_of_which_the_picture_explains_little(logvar, low, monkeypatch):
    """A hint at what to do below a half."""
    space = LatentSpace(AutoencoderKL((8, 16), latent_channels=2).build((1, 8, 8)))
    moments = torch.randn(64, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    moments[:, 2:] = logvar
    monkeypatch.setattr(space, "moments", lambda pictures: moments)
    said = space.measure([{"image": torch.zeros(64, 1, 8, 8)}], lambda sums: sums, "cpu")
    hint = "below 50% where it is short of training or its kl_weight too large"
    assert (hint in said) == low
