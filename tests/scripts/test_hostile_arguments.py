"""What a person may type: each mistake is one line and status 2, soon, and nothing is left on the
disk.
"""

import os
import sys
import time

import h5py
import numpy as np
import pytest
import torch
from helpers import task
from PIL import Image
from safetensors.torch import save_file

from ldm.errors import Refusal, guard
from ldm.metrics import features
from ldm.networks import imported
from ldm.pictures.labels import GAP, side_of
from ldm.scripts import evaluate, export, pack, sample, train

SAMPLE = [
    "--checkpoint",
    "RUN",
    "--output",
    "OUT",
    "--device",
    "cpu",
    "--count",
    "2",
    "--steps",
    "2",
]
BAD_SAMPLE = {
    "count zero": ["--count", "0"],
    "count negative": ["--count", "-5"],
    "count huge": ["--count", "999999999999"],
    "count text": ["--count", "many"],
    "count float": ["--count", "2.5"],
    "count endless": ["--count", "9" * 5000],
    "count empty": ["--count", ""],
    "seed negative": ["--seed", "-1"],
    "seed of 65 bits": ["--seed", str(2**64)],
    "seed of 300 digits": ["--seed", "7" * 300],
    "steps zero": ["--steps", "0"],
    "steps negative": ["--steps", "-3"],
    "steps huge": ["--steps", "1000000000000"],
    "guidance nan": ["--guidance", "nan"],
    "guidance inf": ["--guidance", "inf"],
    "guidance text": ["--guidance", "strong"],
    "eta nan": ["--solver", "DDIM", "--eta", "nan"],
    "eta inf": ["--solver", "DDIM", "--eta", "inf"],
    "eta negative": ["--solver", "DDIM", "--eta", "-1"],
    "interval nan": ["--interval", "nan", "1"],
    "interval turned": ["--interval", "1", "0"],
    "interval short": ["--interval", "0"],
    "rescale nan": ["--rescale", "nan"],
    "rescale 2": ["--rescale", "2"],
    "batch zero": ["--batch-size", "0"],
    "batch huge": ["--batch-size", "100000000"],
    "solver typo": ["--solver", "DDIMM"],
    "solver empty": ["--solver", ""],
    "solver code": ["--solver", "os.system"],
    "option no key": ["--solver-option", "churn"],
    "option of code": ["--solver-option", "churn=${oc.env:HOME}"],
    "option unknown": ["--solver-option", "typo=1"],
    "option nan": ["--solver", "EulerMaruyama", "--solver-option", "churn=nan"],
    "option name": ["--solver-option", "name=DDPM"],
    "grid typo": ["--grid", "karas"],
    "grid of a table": ["--grid", "leading"],
    "label unknown": ["--label", "unicorn"],
    "label empty": ["--label", ""],
    "label 10": ["--label", "10"],
    "label escape": ["--label", "\x1b[31m"],
    "label long": ["--label", "x" * 100_000],
    "weights typo": ["--weights", "emma"],
    "weights nan": ["--weights", "ema:nan"],
    "weights missing": ["--weights", "ema:0.7"],
    "weights width": ["--weights", "ema:-1"],
    "weights posthoc": ["--weights", "ema:0.05"],
    "device typo": ["--device", "gpu"],
    "device empty": ["--device", ""],
    "device 99": ["--device", "cuda:99"],
    "device meta": ["--device", "meta"],
    "device long": ["--device", "c" * 10_000],
    "devices zero": ["--devices", "0"],
    "devices negative": ["--devices", "-1"],
    "devices many": ["--devices", "9999"],
    "trajectory negative": ["--trajectory", "-1"],
    "trajectory huge": ["--trajectory", "100"],
    "prompt without text": ["--prompt", "a cat"],
    "prompt and file": ["--prompt", "a", "--prompt-file", "b"],
    "prompt file missing": ["--prompt-file", "nowhere.txt"],
    "constituents of pictures": ["--constituents", "10"],
    "constituents file": ["--constituents", "nowhere.hdf5"],
    "constituents huge": ["--constituents", "9" * 5000],
    "checkpoint missing": ["--checkpoint", "nowhere"],
    "checkpoint empty": ["--checkpoint", ""],
    "checkpoint minus": ["--checkpoint", "-"],
    "checkpoint device": ["--checkpoint", "/dev/zero"],
    "checkpoint fifo": ["--checkpoint", "FIFO"],
    "checkpoint folder": ["--checkpoint", "EMPTY"],
    "checkpoint text": ["--checkpoint", "TEXT"],
    "checkpoint long": ["--checkpoint", "x" * 5000],
    "checkpoint unicode": ["--checkpoint", "здесь/ничего\u202e"],
    "output file": ["--output", "TEXT"],
    "output in a file": ["--output", "TEXT/inside"],
    "output full": ["--output", "FULL"],
    "output empty": ["--output", ""],
    "output long": ["--output", "y" * 300],
    "output device": ["--output", "/dev/null"],
    "output in proc": ["--output", "/proc/nothing/here"],
    "unknown flag": ["--typo", "1"],
    "stray word": ["stray"],
    "image without task": ["--image", "PICTURE"],
    "factor without task": ["--factor", "2"],
}
TASK = ["--task", "denoise", "--image", "PICTURE"]
BAD_TASKS = {
    "task typo": ["--task", "inpant"],
    "no image": ["--task", "denoise"],
    "image missing": ["--task", "denoise", "--image", "nowhere.png"],
    "image empty": ["--task", "denoise", "--image", ""],
    "image folder": ["--task", "denoise", "--image", "EMPTY"],
    "image fifo": ["--task", "denoise", "--image", "FIFO"],
    "image zero": ["--task", "denoise", "--image", "/dev/zero"],
    "image text": ["--task", "denoise", "--image", "TEXT"],
    "mask missing": ["--task", "inpaint", "--image", "PICTURE"],
    "mask text": ["--task", "inpaint", "--image", "PICTURE", "--mask", "TEXT"],
    "mask fifo": ["--task", "inpaint", "--image", "PICTURE", "--mask", "FIFO"],
    "mask of others": [*TASK, "--mask", "PICTURE"],
    "noise nan": [*TASK, "--noise-std", "nan"],
    "noise negative": [*TASK, "--noise-std", "-1"],
    "noise inf": [*TASK, "--noise-std", "inf"],
    "strength nan": ["--task", "edit", "--image", "PICTURE", "--strength", "nan"],
    "strength 0": ["--task", "edit", "--image", "PICTURE", "--strength", "0"],
    "strength 2": ["--task", "edit", "--image", "PICTURE", "--strength", "2"],
    "factor 0": ["--task", "super-resolve", "--image", "PICTURE", "--degrade", "--factor", "0"],
    "factor -2": ["--task", "super-resolve", "--image", "PICTURE", "--degrade", "--factor", "-2"],
    "factor 3": ["--task", "super-resolve", "--image", "PICTURE", "--degrade", "--factor", "3"],
    "factor huge": [
        "--task",
        "super-resolve",
        "--image",
        "PICTURE",
        "--degrade",
        "--factor",
        "999999999",
    ],
    "resamples 0": [
        "--task",
        "inpaint",
        "--image",
        "PICTURE",
        "--mask",
        "MASK",
        "--method",
        "repaint",
        "--resamples",
        "0",
    ],
    "resamples huge": [
        "--task",
        "inpaint",
        "--image",
        "PICTURE",
        "--mask",
        "MASK",
        "--method",
        "repaint",
        "--resamples",
        "999999999",
    ],
    "method typo": [*TASK, "--method", "gide"],
    "method empty": [*TASK, "--method", ""],
    "devices of a task": [*TASK, "--devices", "2"],
    "trajectory of a task": [*TASK, "--trajectory", "1"],
    "one to interpolate": ["--task", "interpolate", "--image", "PICTURE"],
    "one frame": [
        "--task",
        "interpolate",
        "--image",
        "PICTURE",
        "--image",
        "PICTURE",
        "--count",
        "1",
    ],
    "full output of a task": [*TASK, "--noise-std", "0.3", "--output", "FULL"],
}
EVALUATE = [
    "--checkpoint",
    "RUN",
    "--output",
    "OUT",
    "--device",
    "cpu",
    "--count",
    "20",
    "--steps",
    "2",
    "--cache",
    "CACHE",
]
BAD_EVALUATE = {
    "count": ["--count", "0"],
    "count huge": ["--count", "999999999999"],
    "split": ["--split", "../x"],
    "features": ["--features", "nowhere"],
    "features text": ["--features", "TEXT"],
    "features fifo": ["--features", "FIFO"],
    "features zero": ["--features", "/dev/zero"],
    "features empty": ["--features", ""],
    "features folder": ["--features", "EMPTY"],
    "root": ["--data-root", "nowhere"],
    "steps": ["--steps", "0"],
    "guidance": ["--guidance", "nan"],
    "seed": ["--seed", str(2**70)],
    "device": ["--device", "cuda:99"],
    "devices": ["--devices", "9999"],
    "output": ["--output", "TEXT"],
    "checkpoint": ["--checkpoint", "TEXT"],
}
BAD_TRAIN = {
    "no file": ["--config", "nowhere.yaml"],
    "folder": ["--config", "EMPTY"],
    "fifo": ["--config", "FIFO"],
    "zero": ["--config", "/dev/zero"],
    "minus": ["--config", "-"],
    "text": ["--config", "TEXT"],
    "empty": ["--config", ""],
    "stray word": ["--config", "digits/pixel.yaml", "steps"],
    "empty key": ["--config", "digits/pixel.yaml", "=3"],
    "name up": ["--config", "digits/pixel.yaml", "name=../up"],
    "name dots": ["--config", "digits/pixel.yaml", "name='..'"],
    "seed": ["--config", "digits/pixel.yaml", "seed=-1"],
    "steps": ["--config", "digits/pixel.yaml", "trainer.max_steps=0"],
    "lr": ["--config", "digits/pixel.yaml", "optim.lr=nan"],
    "guidance": ["--config", "digits/pixel.yaml", "sample.guidance=nan"],
    "batch": ["--config", "digits/pixel.yaml", "sample.batch_size=999999999"],
    "layers": ["--config", "digits/pixel.yaml", "network.layers=999999999"],
    "flag": ["--config", "digits/pixel.yaml", "--typo"],
}


@pytest.fixture(scope="module")
def places(pixel_run, tmp_path_factory):
    """Things that the arguments name, in a folder of their own."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "EMPTY").mkdir()
    (folder / "FULL").mkdir()
    (folder / "FULL" / "there").write_text("precious")
    (folder / "TEXT").write_text("a: [1, 2\n")
    os.mkfifo(folder / "FIFO")
    noisy = np.random.default_rng(0).integers(0, 255, (8, 8), np.uint8)
    Image.fromarray(noisy).save(folder / "PICTURE.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4] = 255
    Image.fromarray(mask).save(folder / "MASK.png")
    return folder


def refused(script, words, places, run, monkeypatch, capsys, output=True):
    """Its last line, after it ended with status 2 and left nothing."""
    names = {"PICTURE": "PICTURE.png", "MASK": "MASK.png", "RUN": str(run)}
    monkeypatch.chdir(places)
    monkeypatch.setattr(sys, "argv", ["script.py", *(names.get(word, word) for word in words)])
    before, begun = sorted(places.rglob("*")), time.monotonic()
    with pytest.raises(SystemExit) as end:
        guard(script.main)
    out = capsys.readouterr()
    lines = [line for line in out.err.splitlines() if line.strip()]
    assert end.value.code == 2 and time.monotonic() - begun < 30, out
    assert lines[-1].startswith("error: ") and "Traceback" not in out.err and len(lines[-1]) < 2200
    assert sum(line.startswith("error:") for line in lines) == 1 and "\x1b" not in out.err + out.out
    assert (
        sorted(places.rglob("*")) == before
        and (places / "FULL" / "there").read_text() == "precious"
    )
    return lines[-1]


@pytest.mark.parametrize("case", BAD_SAMPLE)
def test_sample(case, places, pixel_run, monkeypatch, capsys):
    refused(sample, [*SAMPLE, *BAD_SAMPLE[case]], places, pixel_run, monkeypatch, capsys)


@pytest.mark.parametrize("case", BAD_TASKS)
def test_tasks(case, places, pixel_run, monkeypatch, capsys):
    refused(sample, [*SAMPLE, *BAD_TASKS[case]], places, pixel_run, monkeypatch, capsys)


@pytest.mark.parametrize("case", BAD_EVALUATE)
def test_evaluate(case, places, pixel_run, monkeypatch, capsys):
    refused(evaluate, [*EVALUATE, *BAD_EVALUATE[case]], places, pixel_run, monkeypatch, capsys)


@pytest.mark.parametrize("case", BAD_TRAIN)
def test_train(case, places, pixel_run, monkeypatch, capsys):
    refused(train, BAD_TRAIN[case], places, pixel_run, monkeypatch, capsys)


@pytest.mark.parametrize("script", [pack, export], ids=["pack", "export"])
@pytest.mark.parametrize(
    "bad",
    [
        ["--checkpoint", "TEXT"],
        ["--checkpoint", "/dev/zero"],
        ["--output", "TEXT"],
        ["--weights", "x"],
    ],
)
def test_folders(script, bad, places, pixel_run, monkeypatch, capsys):
    refused(
        script,
        ["--checkpoint", "RUN", "--output", "OUT", *bad],
        places,
        pixel_run,
        monkeypatch,
        capsys,
    )


def test_prompts_from_what_never_ends(places, text_run, monkeypatch, capsys):
    for file in ("FIFO", "/dev/zero", "EMPTY", "PICTURE"):
        refused(sample, [*SAMPLE, "--prompt-file", file], places, text_run, monkeypatch, capsys)
    with open(places.parent / "large.txt", "w") as large:
        large.truncate(20_000_000)
    line = refused(
        sample, [*SAMPLE, "--prompt-file", str(large.name)], places, text_run, monkeypatch, capsys
    )
    assert "at most 10 are read" in line


def test_the_way_between_two_pictures_is_whole(places, pixel_run, tmp_path, capsys):
    """All frames stand in the panel, called frames; the solver that ran is named."""
    import json

    out = task(
        pixel_run,
        tmp_path / "o",
        "interpolate",
        image=[str(places / "PICTURE.png"), str(places / "MASK.png")],
        count=8,
    )
    with Image.open(out / "panel.png") as panel:  # both ends, 8 frames
        assert panel.width == 10 * (side_of(8, 10) + GAP) + GAP
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [*range(8)] and not any(
        "seed" in line for line in lines
    )
    settings, said = json.loads((out / "settings.json").read_text()), capsys.readouterr().out
    assert (
        settings["solver"]["name"] == "dopri5"
        and "steps" not in settings
        and "seed" not in settings
    )
    assert "--steps: not used" in said and "dopri5" in said and "DPMpp2MSDE" not in said


# -- files that arguments name ---------------------------------------------------------------------
def kl_folder(folder, **changes):
    """diffusers' AutoencoderKL as a folder, its config changed."""
    import json

    from diffusers import AutoencoderKL

    sizes = dict(
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
    )
    AutoencoderKL(
        in_channels=1, out_channels=1, norm_num_groups=4, latent_channels=2, **sizes
    ).save_pretrained(folder)
    about = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(about))
    return folder


KL = [
    {
        "block_out_channels": [8192] * 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    {"layers_per_block": 10**7},
    {"layers_per_block": -1},
    {"latent_channels": 10**9},
    {"latent_channels": "4"},
    {"norm_num_groups": 0},
    {"block_out_channels": [8] * 40},
    {"block_out_channels": []},
    {"_class_name": "os.system"},
    {"_class_name": None},
    {"quantization_config": {"quant_method": "bitsandbytes"}},
    {"in_channels": 10**9, "out_channels": 10**9},
    {"act_fn": "gelu"},
    {"mid_block_add_attention": "yes"},
]


@pytest.mark.parametrize("changes", KL, ids=lambda changes: ",".join(changes))
def test_a_diffusers_folder_that_claims_what_it_has_not(changes, tmp_path):
    with pytest.raises(Refusal) as error:
        imported.load_imported(kl_folder(tmp_path / "vae", **changes), (1, 8, 8))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{", "3", "[" * 100_000, '{"a": ' * 5000, "x" * 2_000_000]
)
def test_a_diffusers_config_that_is_none(content, tmp_path):
    folder = kl_folder(tmp_path / "vae")
    (folder / "config.json").write_text(content)
    with pytest.raises(Refusal):
        imported.load_imported(folder, (1, 8, 8))


def test_a_diffusers_folder_of_no_numbers(tmp_path):
    folder = kl_folder(tmp_path / "vae")
    file = next(folder.glob("*.safetensors"))
    from safetensors.torch import load_file

    save_file({key: value * float("nan") for key, value in load_file(file).items()}, file)
    with pytest.raises(Refusal, match="not finite"):
        imported.load_imported(folder, (1, 8, 8))
    file.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(Refusal):
        imported.load_imported(folder, (1, 8, 8))


@pytest.mark.parametrize(
    "facts",
    [
        {"size": 10**6},
        {"size": -8},
        {"size": "x"},
        {"classes": 3},
        {"classes": []},
        {"channels": 10**9},
        {"more": 1},
    ],
    ids=str,
)
def test_a_classifiers_file_that_claims_what_it_has_not(facts, tmp_path):
    import json

    from safetensors import safe_open

    with safe_open(features.WEIGHTS / "digits.safetensors", "pt") as file:
        meta, weights = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    meta["facts"] = json.dumps(json.loads(meta["facts"]) | facts)
    save_file(weights, tmp_path / "x.safetensors", meta)
    with pytest.raises(Refusal):
        features.choose(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    "state",
    [
        {},
        [],
        3,
        {"a": 1},
        {"_conv_stem.weight": torch.zeros(1)},
        {"Conv2d_1a_3x3.conv.weight": torch.zeros(1)},
        {"a": torch.zeros(())},
    ],
    ids=str,
)
def test_weights_of_no_feature_network(state, tmp_path):
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(Refusal, match=r"--features|x\.pt: weight"):
        features.choose(str(tmp_path / "x.pt"))


def test_constituents_of_what_never_ends(tmp_path):
    from ldm.sampling import jets as clouds

    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("particle_features", (10**8, 30, 4), np.float32, chunks=(10, 30, 4))
        file.create_dataset("jet_features", (10**8, 4), np.float32, chunks=(10, 4))
    for path in (tmp_path / "a.hdf5", "/dev/zero", tmp_path, "", "1" * 400):
        with pytest.raises((Refusal, OSError)):
            clouds.asked_for(str(path), None)
