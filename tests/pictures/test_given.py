"""Pictures handed over in Python: what is read, what is refused, and a run of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import ROOT, run_config, script, task
from PIL import Image

from ldm import config
from ldm.errors import Refusal
from ldm.pictures.given import Given, from_dataset
from ldm.pictures.images import Digits
from ldm.sampling.generate import generate
from ldm.sampling.model import restore
from ldm.training.run import train_run

BYTES = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
PIL = [Image.fromarray(u.permute(1, 2, 0).numpy()) for u in BYTES]


@pytest.mark.parametrize(
    "dataset",
    [
        BYTES,
        BYTES / 255,
        BYTES / 127.5 - 1,
        [(u.float(), 0) for u in BYTES],
        PIL,
        map(np.array, PIL),
    ],
    ids=["bytes", "ToTensor", "normalised", "0 to 255", "PIL", "arrays, an iterator"],
)
def test_pictures_of_256_levels_are_bytes_however_they_come(dataset):
    images = from_dataset(dataset)
    whole = torch.cat([images.train.images, images.test.images])
    assert {u.numpy().tobytes() for u in whole} == {u.numpy().tobytes() for u in BYTES}
    assert images.classes == () and images.about() == {}


def test_other_floats_stay_floats_and_say_what_they_span():
    values = [torch.linspace(-40, 210, 32).reshape(2, 4, 4) + k for k in range(20)]
    with pytest.raises(Refusal, match=r"from -40 to 229; give from_dataset\(DATASET, span="):
        from_dataset(values)
    images = from_dataset(values, test=values, span=(-40, 229))
    assert images.train.images.dtype == torch.float32 and images.shape == (2, 4, 4)
    back = (images.train.images + 1) / 2 * (229 + 40) - 40
    assert torch.allclose(back, torch.stack(values), atol=1e-4)
    assert images.about() == {"fit": "crop", "range": [-40, 229], "found": None, "floats": True}


class Named(torch.utils.data.Dataset):
    classes = ("cat", "dog", "owl")

    def __len__(self):
        return len(BYTES)

    def __getitem__(self, i):
        return BYTES[i], torch.tensor(i % 2)


def test_classes_are_the_data_sets_or_names_or_numbers():
    assert from_dataset(Named()).classes == ("cat", "dog", "owl")
    assert from_dataset(Named(), classes=["a", "b"]).classes == ("a", "b")
    words = from_dataset([{"image": u, "label": "ba"[k % 2]} for k, u in enumerate(BYTES)])
    assert words.classes == ("a", "b")
    assert from_dataset([(u, k % 3) for k, u in enumerate(BYTES)]).classes == ("0", "1", "2")
    rows = words.train.__getitems__([0, 5, 7])
    expected = {u.numpy().tobytes(): 1 - k % 2 for k, u in enumerate(BYTES)}
    assert [expected[u.numpy().tobytes()] for u in rows["image"]] == rows["label"].tolist()


def test_further_keys_stay_in_the_batch():
    items = [{"image": u, "text": f"t{k}", "angle": k / 40} for k, u in enumerate(BYTES)]
    images = from_dataset(items)
    batch = images.train.__getitems__([3, 1])
    assert [f"t{round(40 * angle)}" for angle in batch["angle"].tolist()] == batch["text"]
    assert images.held_out.captions and "captions" in images.train.identity()
    assert len(images.train) == 36 and len({*images.train.captions, *images.test.captions}) == 40


@pytest.mark.parametrize(
    "dataset, line",
    [
        ([], "it holds no picture"),
        ([1], "a int is no picture"),
        (5, "a int is no data set of pictures"),
        (BYTES[:, None], r"a picture is \(C, H, W\), got \(1, 3, 8, 8\)"),
        ([BYTES[0], BYTES[0, :, :4]], r"images\[1\]: \(3, 4, 8\), the first has \(3, 8, 8\)"),
        ([BYTES[0], BYTES[0].float()], "give one type"),
        ([(BYTES[0], 1.5)], "a class is a number or a name, got float"),
        ([(BYTES[0], 1), BYTES[0]], "has 'label', images.1. has not"),
        ([(BYTES[0], 1), (BYTES[0], -1)], "class -1 is not one of the 2 classes"),
        ([(BYTES[0], 1), (BYTES[0], "a")], "some classes are numbers and some are names"),
        ([(BYTES[0], 1, 2)], "3 things"),
        ([{"x": 1}], "a dict without 'image'"),
        ([{"image": BYTES[0], "text": 3}], "'text' is a caption"),
        ([{"image": BYTES[0], "index": 3}], "'index' is ldm's own"),
        ([{"image": BYTES[0], "k": 3}, {"image": BYTES[0], "k": "3"}], "'k' must be numbers"),
        ([torch.full((1, 2, 2), torch.nan)], "values that are not finite"),
    ],
)
def test_what_cannot_be_read_is_one_line(dataset, line):
    with pytest.raises(Refusal, match=line) as refused:
        from_dataset(dataset)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def given_run(tmp_path_factory):
    """A tiny model of float pictures of two channels, given in Python, and its folder."""
    run = run_config("pixel", tmp_path_factory.mktemp("given"))
    run = replace(run, data=Given.like(run.data))
    picture = torch.linspace(0.1, 0.7, 128).reshape(2, 8, 8)
    return run, train_run(run, images=from_dataset([(picture * k / 40, k % 2) for k in range(40)]))


def test_a_checkpoint_of_given_pictures_samples_without_them(given_run):
    model = restore(given_run[1])
    assert model.classes == ("0", "1") and model.view.floats and model.view.range == (0, 1)
    samples = generate(model, model.settings, [0, 1])
    assert samples.dtype == torch.float32 and samples.shape == (2, 2, 8, 8)
    assert samples.abs().max() <= 1


@pytest.mark.slow
def test_its_config_is_refused_as_a_command(given_run, tmp_path):
    run, folder = given_run
    config.save_config(run, tmp_path / "given.yaml")
    assert config.load(tmp_path / "given.yaml") == run
    done = script("train.py", "--config", tmp_path / "given.yaml", "name=other")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "the data of this run was given in Python: ldm.train(config, images=...)" in done.stderr
    done = script("sample.py", "--checkpoint", folder, "--output", tmp_path / "s", "--count", 2)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s" / "00000001.png").is_file()
    values = np.load(tmp_path / "s" / "00000001.npy")
    assert values.shape == (2, 8, 8) and values.min() >= 0 and values.max() <= 1


def test_given_pictures_train_stage_1_of_a_config_for_other_data(tmp_path):
    stage1 = ROOT / "tests" / "configs" / "autoencoder.yaml"
    run = run_config("latent", tmp_path, f"space.autoencoder={stage1}")
    run = replace(run, data=Given.like(run.data))
    digits = Digits().load().train.images[:200]
    folder = train_run(run, images=from_dataset([(u, k % 2) for k, u in enumerate(digits)]))
    assert restore(folder).space.kind == "latent"


def test_a_task_of_a_model_of_floats_reads_and_writes_floats(tmp_path):
    values = torch.linspace(3, 200.5, 64).reshape(1, 8, 8)
    items = [values * (1 + k / 100) for k in range(40)]
    run = run_config("pixel", tmp_path, "trainer.max_steps=2", "sample.every=0")
    run = replace(run, data=Given.like(run.data))
    folder = train_run(run, images=from_dataset(items, span=(0, 300)))
    Image.fromarray(values[0].numpy()).save(tmp_path / "x.tif")
    read = restore(folder).view.read(tmp_path / "x.tif")
    assert read.dtype == torch.float32
    assert torch.allclose((read + 1) * 150, values, atol=1e-3)
    out = task(folder, tmp_path / "out", "edit", image=[str(tmp_path / "x.tif")], count=1)
    (made,) = (np.load(path) for path in out.glob("*.npy"))
    assert made.shape == (1, 8, 8) and made.min() >= 0 and 100 < made.max() <= 300
