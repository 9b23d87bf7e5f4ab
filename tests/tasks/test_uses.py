"""sample.py --task on tiny trained models: known pixels, measurements, seeds, files, and what is
refused.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import grey, here, script, task
from PIL import Image

from ldm.config import SampleConfig
from ldm.errors import Refusal
from ldm.pictures.images import Digits
from ldm.pictures.opening import View
from ldm.sampling.model import restore
from ldm.tasks.inputs import read_mask


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Two digits, one shrunk, a mask with a hole of 4 x 4, and files that do not fit."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "two").mkdir()
    pictures = Digits().load().test.images[:2, 0].numpy()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / "two" / f"{i}.png")
    Image.fromarray(pictures[0].reshape(4, 2, 4, 2).mean((1, 3)).round().astype(np.uint8)).save(
        folder / "small.png"
    )
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "empty.png")
    Image.fromarray(mask + (mask == 0) * np.uint8(100)).save(folder / "grey.png")
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(folder / "tall.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "colour.png")
    whole = (folder / "two" / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) - 30])
    (folder / "text.png").write_text("not a picture")
    (folder / "none").mkdir()
    noisy = pictures[0] + 60 * np.random.default_rng(0).standard_normal((8, 8))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "noisy.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "black.png")
    return folder


@pytest.mark.parametrize("method", ["guide", "project", "repaint"])
def test_known_pixels_are_the_inputs(pixel_run, inputs, tmp_path, method):
    """Within 1/255 outside the hole, and seeds differ inside."""
    out = task(
        pixel_run,
        tmp_path / "o",
        "inpaint",
        image=[str(inputs / "two")],
        mask=str(inputs / "mask.png"),
        method=method,
    )
    hole = grey(inputs / "mask.png") > 0
    for name in ("0", "1"):
        given, a, b = (
            grey(inputs / "two" / f"{name}.png"),
            *(grey(out / f"{name}-0000000{i}.png") for i in (0, 1)),
        )
        assert np.abs(a - given)[~hole].max() <= 1 and np.abs(b - given)[~hole].max() <= 1
        assert np.abs(a - b)[hole].max() > 5
    assert {"0-panel.png", "panel.png", "settings.json", "1-spread.png"} <= {
        p.name for p in out.iterdir()
    }
    assert len((out / "samples.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("method", ["guide", "blend"])
def test_latent_inpainting_offers_pasted_and_unpasted(latent_run, inputs, tmp_path, method):
    image = inputs / "two" / "0.png"
    out = task(
        latent_run,
        tmp_path / "o",
        "inpaint",
        image=[str(image)],
        mask=str(inputs / "mask.png"),
        method=method,
    )
    hole, given = grey(inputs / "mask.png") > 0, grey(image)
    pasted, raw = grey(out / "0-00000000.png"), grey(out / "0-00000000-unpasted.png")
    assert np.array_equal(pasted[~hole], given[~hole]) and np.array_equal(pasted[hole], raw[hole])
    assert np.abs(raw - given)[~hole].max() > 1


def test_a_large_picture_shrinks_to_the_small_one(pixel_run, inputs, tmp_path):
    out = task(
        pixel_run, tmp_path / "o", "super-resolve", image=[str(inputs / "small.png")], factor=2
    )
    shrunk = grey(out / "small-00000000.png").reshape(4, 2, 4, 2).mean((1, 3))
    # not equal: the pixels that this barely trained model puts beyond black or white are clipped
    assert np.corrcoef(shrunk.ravel(), grey(inputs / "small.png").ravel())[0, 1] > 0.8


@pytest.mark.parametrize("run_of", ["pixel_run", "latent_run"])
def test_results_depend_on_their_seed_and_input_alone(run_of, inputs, tmp_path, request):
    checkpoint = request.getfixturevalue(run_of)
    both = task(checkpoint, tmp_path / "a", "denoise", image=[str(inputs / "two")], noise_std=0.3)
    alone = task(
        checkpoint,
        tmp_path / "b",
        "denoise",
        image=[str(inputs / "two" / "1.png")],
        noise_std=0.3,
        seed=1,
        count=1,
    )
    assert np.abs(grey(both / "1-00000001.png") - grey(alone / "1-00000001.png")).max() <= 1
    assert np.abs(grey(both / "1-00000000.png") - grey(both / "1-00000001.png")).max() > 1


def test_estimated_noise_and_truth_are_written(pixel_run, inputs, tmp_path):
    out = task(pixel_run, tmp_path / "a", "denoise", image=[str(inputs / "noisy.png")])
    assert json.loads((out / "samples.jsonl").read_text().splitlines()[0])["noise_std"] > 0.1
    out = task(
        pixel_run,
        tmp_path / "b",
        "denoise",
        image=[str(inputs / "two" / "0.png")],
        noise_std=0.5,
        degrade=True,
        count=1,
    )
    assert grey(out / "panel.png").shape[1] > grey(tmp_path / "a" / "noisy-spread.png").shape[1]


@pytest.mark.parametrize("run_of", ["pixel_run", "latent_run"])
def test_editing_and_interpolation(run_of, inputs, tmp_path, request):
    """Little strength keeps the reconstruction, the ends of the way are the pictures'."""
    checkpoint = request.getfixturevalue(run_of)
    first, second = (str(inputs / "two" / f"{i}.png") for i in (0, 1))
    weak = task(checkpoint, tmp_path / "a", "edit", image=[first], strength=0.02, label="3")
    strong = task(checkpoint, tmp_path / "b", "edit", image=[first], strength=1.0, label="3")
    apart = lambda out: np.abs(grey(out / "0-00000000.png") - grey(out / "0-00000001.png")).mean()
    assert apart(weak) < 0.5 * apart(strong)
    out = task(checkpoint, tmp_path / "c", "interpolate", image=[first, second], count=3)
    frames = [grey(out / f"0-1-0000000{i}.png") for i in range(3)]
    model = restore(checkpoint)
    for frame, path in ((frames[0], first), (frames[2], second)):
        picture = torch.from_numpy(grey(path))[None, None].float() / 127.5 - 1
        zeros = lambda shape: torch.zeros(shape)
        there = model.space.decode(model.space.encode(picture, zeros))[0, 0]
        assert np.abs(frame - (there.numpy() + 1) * 127.5).max() < 8
    assert np.abs(frames[1] - frames[0]).max() > 8 < np.abs(frames[1] - frames[2]).max()


REFUSED = {
    "cut": ("denoise", dict(image=["cut.png"]), "cut.png cannot be read .damaged"),
    "not-a-picture": (
        "denoise",
        dict(image=["text.png"]),
        "text.png cannot be read .not a picture",
    ),
    "missing": ("denoise", dict(image=["gone.png"]), "gone.png' is neither a file nor a folder"),
    "empty-folder": ("denoise", dict(image=["none"]), "holds no pictures"),
    "no-image": ("denoise", {}, "needs --image"),
    "no-mask": ("inpaint", dict(image=["two"]), "needs --mask"),
    "mask-size": (
        "inpaint",
        dict(image=["two"], mask="tall.png"),
        "tall.png is 8 x 9 .* the picture 8 x 8",
    ),
    "mask-grey": ("inpaint", dict(image=["two"], mask="grey.png"), "not binary .it has grey 100"),
    "mask-empty": ("inpaint", dict(image=["two"], mask="empty.png"), "all black: nothing to paint"),
    "mask-folder": ("inpaint", dict(image=["small.png"], mask="two"), "lacks a mask"),
    "mask-elsewhere": (
        "edit",
        dict(image=["two"], mask="mask.png"),
        "--mask: --task edit takes none",
    ),
    "factor": (
        "super-resolve",
        dict(image=["two"], factor=3),
        r"3 does not divide .* 8 x 8 pixels; these do: \[2, 4, 8\]",
    ),
    "noise": ("denoise", dict(image=["two"], noise_std=-1.0), "--noise-std: .* not above 0"),
    "much-noise": ("denoise", dict(image=["two"], noise_std=1e9), "beyond the schedule"),
    "no-noise": ("denoise", dict(image=["black.png"]), "no noise was found"),
    "strength": ("edit", dict(image=["two"], strength=1.5), "--strength: 1.5"),
    "method": (
        "inpaint",
        dict(image=["two"], mask="mask.png", method="blend"),
        "'blend' is not one of guide, project, repaint",
    ),
    "one-picture": ("interpolate", dict(image=["black.png"]), "needs --image I --image J; got 1"),
    "degrade": ("edit", dict(image=["two"], degrade=True), "--degrade: --task edit has no way"),
    "count": ("edit", dict(image=["two"], count=0), "--count"),
    "devices": ("edit", dict(image=["two"], devices=2), "one process"),
    "foreign": (
        "inpaint",
        dict(image=["two"], mask="mask.png", method="repaint", solver="Diffusers"),
        "Repaint cannot",
    ),
    "no-task": (None, dict(image=["two"]), "--image belongs to a task"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(pixel_run, inputs, tmp_path, case):
    name, given, message = REFUSED[case]
    given = (
        given | {"image": [str(inputs / i) for i in given["image"]]} if "image" in given else given
    )
    given = given | {"mask": str(inputs / given["mask"])} if "mask" in given else given
    with pytest.raises(Refusal, match=message) as error:
        task(pixel_run, tmp_path / "o", name, **given)
    assert "\n" not in str(error.value) and not (tmp_path / "o").exists()


@pytest.mark.slow
def test_the_command(pixel_run, inputs, tmp_path):
    """As a user types it: a task, and one that cannot be done."""
    common = (
        "--checkpoint",
        pixel_run,
        "--image",
        inputs / "two",
        "--output",
        tmp_path / "o",
        "--steps",
        2,
        "--device",
        "cpu",
    )
    done = script("sample.py", *common, "--task", "inpaint", "--mask", inputs / "mask.png")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "o").glob("?-0000000?.png"))) == 8
    settings = json.loads((tmp_path / "o" / "settings.json").read_text())
    assert settings["name"] == "inpaint" and settings["method"] == "guide"
    failed = here("sample.py", *common, "--task", "inpaint", "--mask", inputs / "grey.png")
    assert (
        failed.returncode == 2
        and failed.stderr.strip().count("\n") == 0
        and "not binary" in failed.stderr
    )


def test_guidance_settings_are_checked():
    for bad in (dict(interval=(0.5, 0.2)), dict(rescale=2.0)):
        with pytest.raises(ValueError, match=next(iter(bad))):
            SampleConfig(**bad)


def test_pictures_are_fitted_as_in_training_and_that_is_said(pixel_run, inputs, tmp_path, capsys):
    """A photograph that lies, in colour, of another size, with its mask: what is known comes back
    as training had it.
    """
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 256, (8, 12), np.uint8), np.ones((10, 10), np.uint8))
    hole = np.zeros_like(scene)
    hole[30:50, 50:70] = 255
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(scene)).convert("RGB").save(tmp_path / "photo.png", exif=exif)
    Image.fromarray(hole).save(tmp_path / "hole.png")
    out = task(
        pixel_run,
        tmp_path / "o",
        "inpaint",
        image=[str(tmp_path / "photo.png")],
        mask=str(tmp_path / "hole.png"),
    )
    said = capsys.readouterr().out
    assert (
        "photo.png is 120 x 80 pixels: scaled, cut to its middle, to 8 x 8, as in training" in said
    )
    assert (
        "photo.png is of mode RGB: made grey" in said
        and "hole.png is scaled with its picture" in said
    )
    wanted = View((1, 8, 8)).read(tmp_path / "photo.png")[0].numpy().astype(int)
    known = np.ones((8, 8), bool)
    known[3:5, 3:5] = False
    made = [grey(out / f"photo-0000000{seed}.png") for seed in (0, 1)]
    assert (
        all(np.abs(one - wanted)[known].max() <= 1 for one in made)
        and np.abs(made[0] - made[1])[~known].max() > 5
    )


def test_a_scaled_mask_is_thresholded(tmp_path):
    mask = np.zeros((16, 16), np.uint8)
    mask[:, :7], mask[:, 10:11] = 255, 255  # 3.5 pixels of 8, and half of a pixel's half
    Image.fromarray(mask).save(tmp_path / "m.png")
    known = read_mask(tmp_path / "m.png", View((1, 8, 8)), (16, 16))[0]
    assert known.unique().tolist() == [0, 1] and (known == 0).all(0).tolist() == [True] * 4 + [
        False,
        True,
        False,
        False,
    ]
    padded = read_mask(tmp_path / "m.png", View((3, 8, 8), "pad"), (32, 32))
    assert (padded[0] == known).all()
    with pytest.raises(Refusal, match=r"16 x 16 pixels .* the picture 20 x 16"):
        read_mask(tmp_path / "m.png", View((1, 8, 8)), (20, 16))


def test_one_bad_picture_of_a_folder_is_named_and_left_out(pixel_run, inputs, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("two/0.png", "cut.png"):
        (folder / name.split("/")[-1]).write_bytes((inputs / name).read_bytes())
    (folder / "._0.png").write_bytes(b"a Mac's")
    (folder / "drawing.svg").write_text("<svg/>")
    out = task(pixel_run, tmp_path / "o", "edit", image=[str(folder)])
    said = capsys.readouterr().out
    assert len([line for line in said.splitlines() if "cut.png cannot be read" in line]) == 1
    assert "1 hidden or system entry" in said and "not read: 1 .svg" in said
    assert {p.name[:1] for p in out.glob("*-0000*.png")} == {"0"}


LABELS = [
    (("1", "2", "3"), "1", 0),
    (("1", "2", "3"), "0", None),
    (("a", "b"), "1", 1),
    (("a", "b"), "2", None),
]
LABELS += [
    (("b", "a"), "a", 1),
    (("01", "2"), "1", None),
    (("x", "7"), "0", None),
    (("x", "7"), "7", 1),
]
LABELS += [(("a", "b"), "9" * 5000, None), (("a", "-1"), "0", None)]


@pytest.mark.parametrize("classes, asked, found", LABELS)
def test_a_name_wins_over_a_number(pixel_run, classes, asked, found):
    model = replace(restore(pixel_run), classes=classes)
    if found is not None:
        assert model.label(asked) == found
    else:
        with pytest.raises(Refusal, match="is not one of"):
            model.label(asked)
