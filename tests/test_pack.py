"""A checkpoint to give away: smaller, without a trace of this machine, and the same pictures."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, grey, script
from safetensors import safe_open

from ldm import checkpoint
from ldm.errors import Refusal
from ldm.model import load_autoencoder, restore
from ldm.pack import pack
from ldm.sampling import generate


@pytest.mark.parametrize("kind", ["pixel_run", "latent_run"])
def test_a_packed_model_draws_the_same(kind, request, tmp_path):
    run = request.getfixturevalue(kind)
    file = pack(run, tmp_path / "box")
    ours, theirs = (generate(m, m.settings, range(4)).numpy().astype(int) for m in (restore(run), restore(file.parent)))
    assert np.abs(ours - theirs).max() <= 2 and ours.std() > 10
    assert file.stat().st_size < 0.3 * (run / "last.ckpt").stat().st_size
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["ldm"])
    assert str(run.parent) not in json.dumps(header) and "wandb_id" not in header["ldm"]
    assert {p.name for p in file.parent.iterdir()} == {"model.safetensors", "README.md"}
    assert "python sample.py --checkpoint" in file.with_name("README.md").read_text()


def test_a_packed_stage_1_serves_stage_2(stage1, tmp_path):
    folder = pack(stage1, tmp_path / "stage1").parent
    found = load_autoencoder(checkpoint.find(folder))[0].state_dict()
    before = load_autoencoder(checkpoint.find(stage1))[0].state_dict()
    assert found.keys() == before.keys()
    assert all(np.allclose(found[key], before[key], rtol=1e-3, atol=1e-4) for key in found)


def test_a_run_in_the_same_folder_comes_first(pixel_run, tmp_path):
    folder = pack(pixel_run, tmp_path / "box").parent
    assert checkpoint.find(folder) == folder / "model.safetensors"
    shutil.copy(pixel_run / "last.ckpt", folder)
    assert checkpoint.find(folder) == folder / "last.ckpt"


def test_what_is_refused(pixel_run, tmp_path):
    file = pack(pixel_run, tmp_path / "box")
    with pytest.raises(Refusal, match="is there already"):
        pack(pixel_run, tmp_path / "box")
    good = file.read_bytes()
    for damage, reason in ((good[:-100], "cut short"), (good[:-100] + b"\x11" * 100, "have changed"), (b"", "cut short")):
        file.write_bytes(damage)
        with pytest.raises(Refusal, match=reason):
            restore(file)
    from safetensors.torch import save_file

    save_file({"a": restore(pixel_run).denoiser.net.unet.conv_in.weight.contiguous()}, file)
    with pytest.raises(Refusal, match="was not written by ldm"):
        restore(file)


@pytest.mark.slow
def test_the_commands(pixel_run, tmp_path):
    command = [sys.executable, "-m", "ldm.pack", "--checkpoint", str(pixel_run), "--output", str(tmp_path / "box")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=ROOT)
    assert done.returncode == 0 and "packed to" in done.stdout, done.stderr
    done = script("sample.py", "--checkpoint", tmp_path / "box", "--output", tmp_path / "out", "--count", 4, "--device", "cpu")
    assert done.returncode == 0 and grey(tmp_path / "out" / "grid.png").std() > 10, done.stderr
