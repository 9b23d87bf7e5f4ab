"""train.py and sample.py as a user types them."""

import json
import shutil
import subprocess
import sys

import pytest
from helpers import (
    ROOT,
    TINY,
    here,
    one_line,
    overrides,
    pixels,
    script,
)


@pytest.mark.slow
def test_train_then_sample_as_a_user_does(tmp_path):
    """Two subprocesses, no key, no network, no terminal; then every file that was promised."""
    done = script(
        "train.py", "--config", TINY / "pixel.yaml", f"output={tmp_path}", "trainer.accelerator=cpu"
    )
    assert done.returncode == 0, done.stderr
    assert (
        "W&B        offline; to sync: wandb sync" in done.stdout
        and "python sample.py --checkpoint" in done.stdout
    )
    out = tmp_path / "out"
    moved = shutil.move(tmp_path / "tiny-pixel" / "last.ckpt", tmp_path / "alone.ckpt")
    done = script(
        "sample.py", "--checkpoint", moved, "--output", out, "--count", 3, "--seed", 5, "--label", 7
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert lines == [{"file": f"{s:08d}.png", "seed": s, "label": "7"} for s in (5, 6, 7)]
    assert {p.name for p in out.iterdir()} == {
        "grid.png",
        "samples.jsonl",
        "settings.json",
        *(line["file"] for line in lines),
    }
    assert pixels(out / "00000005.png").shape == (8, 8)
    settings = json.loads((out / "settings.json").read_text())
    assert (
        settings["solver"]["name"] == "DDIM"
        and settings["count"] == 3
        and settings["seed"] == 5
        and settings["step"] == 8
    )


@pytest.mark.parametrize("name", ["train.py", "sample.py", "evaluate.py"])
def test_help_imports_no_torch(name):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / name, "--help"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0 and "--c" in done.stdout
    assert " torch" not in done.stderr and "lightning" not in done.stderr


def test_dry_run_builds_everything_and_writes_nothing(tmp_path):
    done = here(
        "train.py",
        "--config",
        ROOT / "configs/digits/latent.yaml",
        "--dry-run",
        f"output={tmp_path}/x",
    )
    assert done.returncode == 0, done.stderr
    for word in (
        "parameters",
        "GB",
        "batch      128 = 128 a device x 1 devices",
        "2000 steps",
        "output",
        "W&B",
    ):
        assert word in done.stdout
    assert not (tmp_path / "x").exists()


def test_train_py_says_it_in_one_line(stage1, pixel_run, tmp_path):
    config = TINY / "pixel.yaml"
    one_line(
        here("train.py", "--config", config, f"output={tmp_path}", "optim.lrr=1"),
        "optim.lrr",
        "did you mean 'lr'",
    )
    one_line(here("train.py", "--config", "configs/digits/latnt.yaml"), "no file", "latent.yaml")
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes((stage1 / "last.ckpt").read_bytes()[:20_000])
    latent = ["train.py", "--config", TINY / "latent.yaml", *overrides("latent", tmp_path)]
    one_line(here(*latent, f"space.autoencoder={broken}"), "broken.ckpt")
    one_line(
        here(*latent, f"space.autoencoder={pixel_run}"),
        "is a diffusion model; a stage-1 autoencoder is needed here",
    )
    one_line(
        here(
            *latent,
            "data={name: MNIST, root: /nowhere, download: false}",
            f"space.autoencoder={stage1}",
        ),
        "no MNIST in",
    )
