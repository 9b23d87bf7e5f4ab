"""A checkpoint to give away: smaller, without a trace of this machine, and the same pictures."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, grey, here, largest_difference, run_config
from safetensors import safe_open
from safetensors.torch import save

from ldm.checkpoints import packed
from ldm.checkpoints.finding import find_checkpoint
from ldm.errors import Refusal
from ldm.export.pack import pack
from ldm.sampling.generate import generate
from ldm.sampling.model import load_autoencoder, restore
from ldm.training.run import train_run

CHANGES = [
    "-hash",
    "-global_step",
    'ldm.version="2"',
    "ldm.version=99",
    'ldm.stage="foo"',
    "ldm.stage=[1]",
    "ldm.config=[1]",
]
CHANGES += [
    "ldm.shape=3",
    "ldm.classes=null",
    "ldm.trained=1",
    "ldm.ema=1",
    "ldm.autoencoder=[2]",
    "ldm.config={}",
]


@pytest.mark.parametrize("kind", ["pixel_run", "latent_run"])
def test_a_packed_model_draws_the_same(kind, request, tmp_path):
    run = request.getfixturevalue(kind)
    file = pack(run, tmp_path / "box")
    ours, theirs = (
        generate(m, m.settings, range(4)).numpy().astype(int)
        for m in (restore(run), restore(file.parent))
    )
    assert np.abs(ours - theirs).max() <= 2 and ours.std() > 10
    assert file.stat().st_size < 0.3 * (run / "last.ckpt").stat().st_size
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["ldm"])
    assert str(run.parent) not in json.dumps(header) and "wandb_id" not in header["ldm"]
    assert {p.name for p in file.parent.iterdir()} == {"model.safetensors", "README.md"}
    assert "python sample.py --checkpoint" in file.with_name("README.md").read_text()


def test_a_packed_stage_1_serves_stage_2(stage1, tmp_path):
    folder = pack(stage1, tmp_path / "stage1").parent
    found = load_autoencoder(find_checkpoint(folder))[0].state_dict()
    before = load_autoencoder(find_checkpoint(stage1))[0].state_dict()
    assert found.keys() == before.keys()
    assert all(np.allclose(found[key], before[key], rtol=1e-3, atol=1e-4) for key in found)


@pytest.mark.slow
def test_jets_too_and_what_names_this_machine_is_left_out(tmp_path):
    run = train_run(run_config("jets", tmp_path, "evaluate.features=/home/alice/features.pt"))
    file = pack(run, tmp_path / "box")
    model = restore(file)
    assert generate(model, model.settings, range(4)).shape == (4, 30, 3)
    for text in (
        file.with_name("README.md").read_text(),
        json.dumps(packed.read_packed(file)["ldm"]),
    ):
        assert "alice" not in text and str(tmp_path) not in text and "tests/fixtures" not in text


def test_what_overflows_half_precision_stays_whole():
    kept = packed.halve(torch.tensor([[1e5, 1.0]]))
    assert (
        kept.dtype == torch.float32
        and kept[0, 0] == 1e5
        and packed.halve(torch.ones(2, 2)).dtype == torch.float16
    )


def test_it_holds_one_average_alone(pixel_run, tmp_path):
    raw = pack(pixel_run, tmp_path / "raw", "raw")
    assert (
        largest_difference(
            restore(raw).denoiser.state_dict(), restore(pixel_run, "raw").denoiser.state_dict()
        )
        < 1e-3
    )
    restore(raw, "raw")
    with pytest.raises(Refusal, match="was packed with its ema weights alone, not raw"):
        restore(pack(pixel_run, tmp_path / "ema"), "raw")


def test_a_run_in_the_same_folder_comes_first(pixel_run, tmp_path):
    folder = pack(pixel_run, tmp_path / "box").parent
    assert find_checkpoint(folder) == folder / "model.safetensors"
    shutil.copy(pixel_run / "last.ckpt", folder)
    assert find_checkpoint(folder) == folder / "last.ckpt"


def test_what_is_refused(pixel_run, tmp_path):
    file = pack(pixel_run, tmp_path / "box")
    with pytest.raises(Refusal, match="is there already"):
        pack(pixel_run, tmp_path / "box")
    good = file.read_bytes()
    for damage, reason in (
        (good[:-100], "cut short"),
        (good[:-100] + b"\x11" * 100, "have changed"),
        (b"", "cut short"),
    ):
        file.write_bytes(damage)
        with pytest.raises(Refusal, match=reason):
            restore(file)
    afile = tmp_path / "afile"
    afile.write_text("")
    with pytest.raises(Refusal, match="afile is there already"):
        pack(pixel_run, afile)


@pytest.mark.parametrize(
    "header",
    ["", "3", "null", "[" * 100_000, "abc", '{"ldm": "[1]"}', '{"state_dict": 1}', *CHANGES],
)
def test_a_foreign_header_is_refused(header, pixel_run, tmp_path):
    file = pack(pixel_run, tmp_path / "box")
    with safe_open(file, "pt") as opened:
        about = json.loads(opened.metadata()["ldm"])
        weights = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    if header.startswith("ldm."):
        key, value = header.removeprefix("ldm.").split("=")
        about["ldm"][key] = json.loads(value)
        header = json.dumps(about)
    elif header.startswith("-"):
        header = json.dumps({key: value for key, value in about.items() if key != header[1:]})
    file.write_bytes(save(weights, {"ldm": header}))
    with pytest.raises(Refusal):
        restore(file)


@pytest.mark.slow
def test_the_commands(pixel_run, tmp_path):
    command = [
        sys.executable,
        "-m",
        "ldm.pack",
        "--checkpoint",
        str(pixel_run),
        "--output",
        str(tmp_path / "box"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=ROOT)
    assert done.returncode == 0 and "packed to" in done.stdout, done.stderr
    done = here(
        "sample.py",
        "--checkpoint",
        tmp_path / "box",
        "--output",
        tmp_path / "out",
        "--count",
        4,
        "--device",
        "cpu",
    )
    assert done.returncode == 0 and grey(tmp_path / "out" / "grid.png").std() > 10, done.stderr
