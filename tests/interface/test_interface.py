"""ldm in Python: each method on tiny runs, what it refuses, and that `import ldm` imports nothing."""

import subprocess
import sys

import pytest
import torch
from helpers import ROOT, TINY, overrides, run_config

import ldm
from ldm.diffusion.solvers import DDIM, EulerMaruyama
from ldm.evaluation.requests import Opened
from ldm.sampling.conditions import Condition
from ldm.sampling.generate import generate
from ldm.sampling.model import restore


@pytest.fixture(scope="module")
def pixel(pixel_run):
    return ldm.load(pixel_run, device="cpu")


@pytest.fixture(scope="module")
def latent(latent_run):
    return ldm.load(latent_run, device="cpu")


@pytest.fixture(scope="module")
def jets(jets_run):
    return ldm.load(jets_run)


# -- samples --------------------------------------------------------------------------------------
def test_a_sample_is_what_sample_py_makes(pixel, pixel_run):
    images = pixel.sample(3, label="7", seed=5, steps=3, solver="DDIM", batch_size=3)
    model = restore(pixel_run)
    settings = ldm.interface.Overrides("DDIM", steps=3, batch_size=3).over(model.settings)
    same = generate(model, settings, [5, 6, 7], Condition([7, 7, 7]))
    assert torch.equal(images, same) and images.dtype == torch.uint8
    assert images.shape == (3, *pixel.shape)


def test_floats_are_the_pictures_before_they_are_rounded(pixel):
    how = dict(steps=2, batch_size=2)
    images, floats = pixel.sample(2, **how), pixel.sample(2, floats=True, **how)
    assert floats.is_floating_point() and -1 <= floats.min() <= floats.max() <= 1
    assert torch.equal(((floats + 1) * 127.5).round().to(torch.uint8), images)
    assert pixel.sample(2, **how).dtype == torch.uint8  # asked once, not kept


def test_labels_by_name_by_number_and_in_turn(pixel):
    how = dict(steps=2, batch_size=4)
    turn = pixel.sample(4, label=["3", 8], **how)
    assert torch.equal(turn, pixel.sample(4, label=[3, "8", "3", 8], **how))
    assert not torch.equal(turn, pixel.sample(4, label=3, **how))
    assert torch.equal(turn[0], pixel.sample(4, label=3, **how)[0])


def test_a_solver_by_name_with_options_or_made_in_python(pixel):
    how = dict(steps=3, batch_size=2)
    named = pixel.sample(2, solver="EulerMaruyama", solver_option={"churn": 0.5}, **how)
    assert torch.equal(named, pixel.sample(2, solver=EulerMaruyama(churn=0.5), **how))
    assert not torch.equal(named, pixel.sample(2, solver=DDIM(), **how))


def test_prompts(text_run):
    model, how = ldm.load(text_run, device="cpu"), dict(steps=3, batch_size=2)
    red = model.sample(2, prompt="red", **how)
    assert torch.equal(model.sample(2, prompt=["red", "green"], **how)[0], red[0])
    assert not torch.equal(model.sample(2, prompt="green", **how), red)


def test_jets_have_features_and_a_mask(jets):
    made = jets.sample(3, constituents=[4, 30, 11], steps=2)
    assert made.features.shape == (3, *jets.shape)
    assert made.mask.sum(1).tolist() == [4, 30, 11] and (made.features[~made.mask] == 0).all()
    assert jets.sample(2, constituents=7, steps=2).mask.sum(1).tolist() == [7, 7]


# -- tasks ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["pixel", "latent"])
def test_tasks(name, request):
    model = request.getfixturevalue(name)
    images = model.sample(2, steps=2, floats=True, batch_size=2)
    masks, how = torch.zeros(images.shape[-2:]), dict(steps=3, batch_size=2)
    masks[2:5, 2:5] = 1
    assert model.denoise(images, noise_std=0.4, **how).shape == images.shape
    assert model.denoise(images, noise_std=0.4, count=3, **how).shape[:2] == (2, 3)
    filled = model.inpaint(images, masks, floats=True, label=3, **how)
    known = masks == 0
    if name == "pixel":
        assert (filled - images)[..., known].abs().max() < 1e-5
    assert (filled - images)[..., ~known].abs().max() > 1e-3
    small = torch.nn.functional.avg_pool2d(images, 2)
    assert model.super_resolve(small, **how).shape == images.shape
    near, far = (model.edit(images, strength=s, floats=True, **how) for s in (0.05, 1.0))
    assert (near - images).abs().mean() < (far - images).abs().mean()
    way = model.interpolate(images[0], images[1], count=3)
    assert way.shape == (3, *model.shape) and way.dtype == torch.uint8


# -- likelihood -----------------------------------------------------------------------------------
@pytest.mark.slow
def test_likelihood_of_pixels_latents_and_jets(pixel, latent, jets):
    images, loose = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8), ldm.Estimate()
    exact, bound = pixel.log_likelihood(images, label=[3, 4]), latent.log_likelihood(images)
    assert exact.nats.shape == (2,) and not exact.bound and exact.bits_per_dim.isfinite().all()
    assert bound.bound and bound.nats.isfinite().all()
    assert not torch.equal(exact.nats, pixel.log_likelihood(images, label=[4, 3]).nats)
    assert torch.equal(exact.nats, pixel.log_likelihood(images, label=[3, 4], estimate=loose).nats)
    assert pixel.log_likelihood(images / 127.5 - 1, label=3).bits_per_dim is None
    assert jets.log_likelihood(jets.sample(2, steps=2)).nats.isfinite().all()


# -- what is refused ------------------------------------------------------------------------------
def test_refusals_name_the_argument(pixel, jets, tmp_path):
    images = pixel.sample(1, steps=1, batch_size=1)
    table = [
        (lambda: pixel.sample(0), r"^count must be at least 1 and seed at least 0"),
        (lambda: pixel.sample(1, label="cat"), r"^label: 'cat' is not one of the 10 classes"),
        (lambda: pixel.sample(1, guidence=2), r"^argument: 'guidence' is not .* 'guidance'"),
        (lambda: pixel.sample(1, prompt="x"), r"^prompt: this checkpoint is of a model without"),
        (lambda: pixel.sample(1, constituents=3), r"^constituents: this checkpoint makes pictures"),
        (lambda: pixel.sample(1, solver="DIMM"), "did you mean 'DDIM'"),
        (lambda: jets.sample(1, jet={"pt": 1000}), "^jet: mass is missing"),
        (lambda: jets.denoise(images), "is of pictures; this checkpoint makes jets|images: "),
        (lambda: pixel.denoise(images[0, 0]), r"^images: \(N, 1, H, W\)"),
        (lambda: pixel.denoise(images, noise_std=1e9), "^noise_std: "),
        (lambda: pixel.edit(images, strength=2), "^strength: 2 is not above 0"),
        (lambda: pixel.edit(images, resamples=2), "^resamples: edit takes none"),
        (lambda: pixel.inpaint(images, torch.ones(8, 8), method="blend"), "^method of inpaint"),
        (lambda: ldm.load(tmp_path / "none"), "neither a run's folder nor a file"),
        (lambda: ldm.load(tmp_path, device="cuda:99"), "^device: 'cuda:99' cannot be used"),
        (lambda: ldm.train({"name": "x", "stags": 1}), "stags"),
        (lambda: ldm.train(TINY / "pixel.yaml", "steps"), "'steps' is not an override"),
    ]
    for ask, message in table:
        with pytest.raises(ldm.Refusal, match=message) as error:
            ask()
        assert "\n" not in str(error.value) and "--" not in str(error.value)


# -- training -------------------------------------------------------------------------------------
class Own(torch.utils.data.Dataset):
    """Pictures of one grey each, and a class."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return torch.full((1, 8, 8), i / 40), i % 2


def test_train_on_a_data_set_of_ones_own_and_load_it(tmp_path):
    short = overrides("pixel", tmp_path, "trainer.max_steps=2", "sample.every=0")
    folder = ldm.train(TINY / "pixel.yaml", *short, "name=own", images=Own())
    model = ldm.load(folder, device="cpu")
    assert model.classes == ("0", "1") and model.sample(2, label="1", steps=2).shape[0] == 2
    assert type(Opened.at(folder).config.data).__name__ == "Given"


def test_a_config_is_a_file_a_dict_or_an_object(tmp_path):
    short = ("trainer.max_steps=1", "sample.every=0")
    run = run_config("pixel", tmp_path / "object", *short)
    weights = lambda folder: restore(folder, "raw").denoiser.state_dict()
    one = weights(ldm.train(run))
    tree = ldm.interface.to_dict(run) | {"output": str(tmp_path / "dict")}
    two = weights(ldm.train(tree, "name=other"))
    assert all(torch.equal(one[key], two[key]) for key in one)


# -- imports --------------------------------------------------------------------------------------
def test_importing_ldm_imports_nothing():
    code = "import ldm, sys; assert 'torch' not in sys.modules; print(*dir(ldm))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["DiffusionModel", "Estimate", "Refusal", "load", "train"]
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        ldm.laod  # noqa: B018
