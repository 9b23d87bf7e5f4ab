"""Guides of samples: another run, or other weights of the same; found, checked, kept inside."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import here, load, overrides, run_config, task
from PIL import Image

from ldm.config import Guide
from ldm.diffusion.denoiser import Denoiser
from ldm.errors import Refusal
from ldm.export.pack import pack
from ldm.interface import load as load_model
from ldm.sampling.conditions import Condition, bind
from ldm.sampling.generate import generate
from ldm.sampling.guides import guide_of
from ldm.sampling.model import fingerprint, restore
from ldm.sampling.settings import Overrides
from ldm.sampling.worse import INSIDE, Worse
from ldm.tasks import task_named
from ldm.training.run import train_run

RAW = Guide(weights="raw")
T = torch.tensor(0.5, dtype=torch.float64)


def guided(model, guide, guidance=2.0, **more):
    asked = Overrides(guide=guide, guidance=guidance, **more)
    return asked.over(model.settings, model.schedule)


def some_x(model, rows=2):
    return torch.randn(rows, *model.space.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("named", ["raw", {"run": ..., "weights": "raw"}])
def test_samples_are_led_away_from_the_other_weights(pixel_run, named):
    model, other = restore(pixel_run), restore(pixel_run, "raw")
    named = named | {"run": str(pixel_run)} if isinstance(named, dict) else named
    x, condition = some_x(model), Condition([3, 4])
    denoise = bind(model, guided(model, named), condition, 2)
    good, bad = (m.denoiser(x, T, label=torch.tensor([3, 4])) for m in (model, other))
    assert torch.allclose(denoise(x, T), bad + 2 * (good - bad), atol=1e-5)
    assert not torch.allclose(denoise(x, T), good, atol=1e-4)


def test_weight_one_gives_the_models_own_bits(pixel_run):
    model = restore(pixel_run)
    alone = generate(model, guided(model, "none", 1.0), [0, 1])
    assert torch.equal(generate(model, guided(model, "raw", 1.0), [0, 1]), alone)
    led = generate(model, guided(model, "raw", 3.0), [0, 1])
    assert not torch.equal(led, alone)
    within = generate(model, guided(model, "raw", 3.0, interval=(0.99, 0.995)), [0, 1])
    assert torch.equal(within, alone)  # no time of the grid is inside


def test_a_guide_is_loaded_once(pixel_run):
    model = restore(pixel_run)
    found = guide_of(model, RAW)
    generate(model, guided(model, "raw"), [0])
    assert guide_of(model, RAW) is found and [*model.guides] == [RAW]
    assert guide_of(model, Guide()) is None


def test_a_guide_of_fewer_conditions_is_given_what_it_takes(pixel_run):
    config = run_config("pixel", "o")
    model = restore(pixel_run)
    net = config.network.build(model.space.shape, 0, 0, 0)
    plain = Denoiser(net, model.schedule, config.loss).eval()
    model.guides[RAW] = Worse(plain, "made here", frozenset(["label"]))
    x = some_x(model)
    good, bad = model.denoiser(x, T, label=torch.tensor([3, 4])), plain(x, T)
    found = bind(model, guided(model, "raw"), Condition([3, 4]), 2)(x, T)
    assert torch.allclose(found, bad + 2 * (good - bad), atol=1e-5)


def test_tasks_are_led_too(pixel_run):
    model = restore(pixel_run)
    images = torch.zeros(1, *model.space.data_shape)
    solve = lambda guide: task_named("edit")().solve(
        model, images, settings=guided(model, guide, 3.0)
    )
    assert not torch.equal(solve("raw"), solve("none"))


def test_in_python(pixel_run):
    model = load_model(pixel_run, device="cpu")
    led = model.sample(2, guidance=3.0, guide="raw")
    assert not torch.equal(led, model.sample(2, guidance=3.0, guide="none"))
    with pytest.raises(Refusal, match=r"^guide: this checkpoint holds none"):
        model.sample(1, guide="inside")


# -- what cannot be a guide ------------------------------------------------------------------------
def altered(run, path, change):
    """The run's checkpoint with a change."""
    state = load(run / "last.ckpt")
    change(state)
    torch.save(state, path)
    return path


def another(key, value):
    def change(state):
        *above, last = key.split(".")
        node = state["ldm"]
        for part in above:
            node = node[part]
        node[last] = value

    return change


def shifted(state):
    state["state_dict"]["space.mean"] += 0.5


def test_what_cannot_be_a_guide_is_one_line(pixel_run, latent_run, stage1, tmp_path):
    cosine = altered(
        pixel_run, tmp_path / "c.ckpt", another("config.schedule", {"name": "Cosine", "s": 0.008})
    )
    names = altered(pixel_run, tmp_path / "n.ckpt", another("classes", [*"abcdefghij"]))
    moved = altered(latent_run, tmp_path / "m.ckpt", shifted)
    table = [
        (pixel_run, "ema", "is the model itself, and would lead nowhere"),
        (pixel_run, str(pixel_run), "is the model itself"),
        (pixel_run, str(tmp_path / "no"), "neither a run's folder nor a file"),
        (pixel_run, str(stage1), "is a stage-1 autoencoder; a diffusion model is needed"),
        (pixel_run, str(latent_run), "guide: space of .* is latent .*, the model's pixel 1 8 8"),
        (pixel_run, str(cosine), r"guide: schedule of .* is Cosine.*, the model's VP"),
        (pixel_run, str(names), "guide: classes of .* is a b c d e f g h i j, not 0 1 2"),
        (latent_run, str(moved), r"guide: the statistics of .* differ by .* standard deviations"),
        (pixel_run, "ema:0.7", "guide: weights: no average of decay 0.7"),
        (pixel_run, "inside", "guide: this checkpoint holds none"),
        (pixel_run, " ", "--guide: it is empty"),
    ]
    for run, named, message in table:
        model = restore(run)
        with pytest.raises(Refusal, match=message) as error:
            generate(model, guided(model, named), [0])
        assert "\n" not in str(error.value)


def test_the_command_refuses_with_status_2_and_leaves_nothing(pixel_run, latent_run, tmp_path):
    words = ["--checkpoint", pixel_run, "--output", tmp_path / "o", "--count", 2, "--device", "cpu"]
    done = here("sample.py", *words, "--guide", latent_run)
    assert done.returncode == 2 and done.stderr.startswith("error: guide: space of")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "o").exists()
    done = here("sample.py", *words, "--guide", "raw", "--guidance", 2)
    assert done.returncode == 0 and "guidance 2 by its raw weights" in done.stdout
    kept = json.loads((tmp_path / "o" / "settings.json").read_text())
    assert (
        kept["guide"].items()
        >= {"run": None, "weights": "raw", "hash": hash_of_raw(pixel_run)}.items()
    )


def hash_of_raw(run):
    return fingerprint(restore(run, "raw").denoiser.net)


def test_a_tasks_settings_name_the_guide_and_its_hash(pixel_run, tmp_path):
    Image.new("L", (8, 8), 90).save(tmp_path / "given.png")
    words = dict(image=[str(tmp_path / "given.png")], guide="raw", guidance=2.0, strength=0.5)
    folder = task(pixel_run, tmp_path / "o", "edit", **words)
    kept = json.loads((folder / "settings.json").read_text())
    assert (
        kept["guide"].items()
        >= {"run": None, "weights": "raw", "hash": hash_of_raw(pixel_run)}.items()
    )


def test_a_record_of_figures_names_the_guide_and_its_hash(pixel_run, tmp_path):
    words = ["--checkpoint", pixel_run, "--count", 20, "--steps", 2, "--metrics", "fd"]
    words += ["--device", "cpu", "--output", tmp_path / "o", "--cache", tmp_path / "cache"]
    for guide, guidance in (("raw", 2), (str(pixel_run), 2), ("none", 2)):
        done = here("evaluate.py", *words, "--guide", guide, "--guidance", guidance)
        assert done.returncode == 2 * (guide == str(pixel_run)), done.stderr
    led, plain = map(json.loads, (tmp_path / "o" / "records.jsonl").read_text().splitlines())
    assert (
        led["guide"].items()
        >= {"run": None, "weights": "raw", "hash": hash_of_raw(pixel_run)}.items()
    )
    assert "guide" not in plain and plain["value"] != led["value"]


def test_a_config_names_one_in_a_line(tmp_path):
    for said, message in [
        ("sample.guide.weights=best", "weights 'best' is not ema, raw or ema:NUMBER"),
        ("sample.guide.weight=raw", "no key 'sample.guide.weight'; did you mean"),
    ]:
        with pytest.raises(Refusal, match=message):
            run_config("pixel", tmp_path, said)
    run = run_config("pixel", tmp_path, "sample.guide={weights: ema:0.5}")
    assert run.sample.guide == Guide(weights="ema:0.5") and run.sample.guide.decay == 0.5
    words = overrides("pixel", tmp_path, "sample.guide={weights: ema:0.5}")
    done = here("train.py", "--config", "tests/configs/pixel.yaml", "--dry-run", *words)
    assert done.returncode == 2 and "this run keeps one average" in done.stderr


def test_a_packed_model_holds_the_other_weights_that_are_its_guide(pixel_run, tmp_path):
    """They are not in the file else: sampling from it was refused."""
    state = another("config.sample.guide", {"run": None, "weights": "raw"})
    led = altered(pixel_run, tmp_path / "led.ckpt", state)
    packed = restore(pack(led, tmp_path / "packed"))
    assert packed.settings.guide == INSIDE
    x, condition = some_x(packed), Condition([3, 4])
    one, other = (
        bind(model, replace(model.settings, guidance=2.0), condition, 2)(x, T)
        for model in (packed, restore(led))
    )
    assert torch.allclose(one, other, atol=2e-2)  # half precision
    plain = bind(restore(pixel_run), guided(packed, "none"), condition, 2)(x, T)
    assert not torch.allclose(one, plain, atol=2e-2)


# -- in training, and inside a checkpoint ----------------------------------------------------------
@pytest.mark.slow
def test_a_run_keeps_its_guide_inside(pixel_run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = tmp_path / "guide"
    shutil.copytree(pixel_run, copy)
    named = f"sample.guide={{run: {copy}, weights: raw}}"
    folder = train_run(run_config("pixel", tmp_path, named, "trainer.max_steps=4", "seed=1"))
    figures = "evaluate.every=6", "evaluate.count=20"
    run = run_config("pixel", tmp_path, named, "trainer.max_steps=6", "seed=1", *figures)
    train_run(run, resume=True)
    made = json.loads((folder / "records.jsonl").read_text().splitlines()[0])["guide"]
    assert (
        made.items() >= {"run": str(copy), "weights": "raw", "hash": hash_of_raw(pixel_run)}.items()
    )
    shutil.rmtree(copy)  # the checkpoint is enough
    model, other = restore(folder), restore(pixel_run, "raw")
    assert model.settings.guide == INSIDE
    inside = guide_of(model, INSIDE).denoiser.net.state_dict()
    assert all(torch.equal(inside[k], v) for k, v in other.denoiser.net.state_dict().items())
    x = some_x(model)
    good, bad = (m.denoiser(x, T, label=torch.tensor([3, 4])) for m in (model, other))
    found = bind(model, replace(model.settings, guidance=2.0), Condition([3, 4]), 2)(x, T)
    assert torch.allclose(found, bad + 2 * (good - bad), atol=1e-5)
    packed = restore(pack(folder, tmp_path / "packed"))
    assert torch.allclose(
        guide_of(packed, INSIDE).denoiser(x, T, label=torch.tensor([3, 4])), bad, atol=5e-3
    )
    damaged = altered(folder, tmp_path / "d.ckpt", another("guide.hash", "0" * 16))
    with pytest.raises(Refusal, match=r"the guide inside .* is not the one it was written with"):
        restore(damaged)
    other_law = altered(folder, tmp_path / "l.ckpt", another("guide.config.schedule.beta_max", 9.0))
    with pytest.raises(Refusal, match=r"the guide inside .* is of schedule VP\(.*9.0\), not VP"):
        restore(other_law)


@pytest.mark.slow
def test_a_run_is_led_by_an_earlier_average_of_its_own(tmp_path):
    more = "optim.ema_more=[0.5]", "sample.guide={weights: ema:0.5}", "trainer.max_steps=14"
    folder = train_run(run_config("pixel", tmp_path, *more))
    assert any((folder / "samples").glob("samples-*.png"))
    model = restore(folder)
    own = load(folder / "last.ckpt")["ldm"]["ema"]["more"][0][1]
    found = guide_of(model, model.settings.guide).denoiser.net.state_dict()
    assert all(torch.equal(found[k], v) for k, v in own.items())
