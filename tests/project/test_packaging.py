"""What `pip install` gives: commands, configs and weights, away from the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from helpers import ROOT, load

from ldm import config
from ldm.errors import Refusal


def test_a_shipped_config_is_found_from_anywhere(tmp_path, monkeypatch):
    """With and without `configs/`; a file of one's own comes first; a typo names the nearest of
    both.
    """
    monkeypatch.chdir(tmp_path)
    for path in ("digits/latent.yaml", "configs/digits/latent.yaml"):
        run = config.load(path)
        assert (
            run.name == "digits-latent"
            and config.load(run.space.autoencoder).name == "digits-autoencoder"
        )
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "latent.yaml").write_text("name: mine")
    assert (
        config.load("digits/latent.yaml").name == "mine"
        and config.load("configs/digits/latent.yaml").name == "digits-latent"
    )
    for path in ("fashion/latnt.yaml", "configs/fashion/latnt.yaml"):
        with pytest.raises(
            Refusal,
            match=r"no file '.*fashion/latnt.yaml', nor does ldm ship .*did you mean 'fashion/latent",
        ):
            config.load(path)
    with pytest.raises(Refusal, match=r"no file '/nowhere/digits/latent.yaml'"):
        config.load("/nowhere/digits/latent.yaml")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built by the backend of pyproject.toml, from a copy: it writes beside what it builds."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("ldm", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        source,
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        source / "out",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = (source / "out").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel, which borrows all else from this one, but for the ldm
    that is here.
    """
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(
        str(Path(torch.__file__).parents[1])
    )  # .pth files there are not read: no editable ldm
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder / "bin" / "python",
        "install",
        "--ignore-installed",  # an egg-info beside PYTHONPATH's ldm would do for pip
        "--no-deps",
        "--no-index",
        wheel,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def call(installed, name, *arguments, cwd):
    hidden = ("PYTHONPATH", "WANDB_MODE", "WANDB_API_KEY")
    env = {k: v for k, v in os.environ.items() if k not in hidden} | {
        "OMP_NUM_THREADS": "1",
        "NETRC": "/nonexistent",
    }
    done = subprocess.run(
        [installed / name, *map(str, arguments)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_every_module_config_weight_and_picture(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {str(p.relative_to(ROOT)) for p in ROOT.glob("ldm/**/*.py")}
    configs = {f"ldm/{p.relative_to(ROOT)}" for p in ROOT.glob("configs/**/*.yaml")}
    weights = {
        str(p.relative_to(ROOT))
        for end in ("safetensors", "gz")
        for p in ROOT.glob(f"ldm/**/*.{end}")
    }
    inside = {name for name in names if ".dist-info/" not in name}
    assert configs and weights and code | configs | weights | {"ldm/py.typed"} == inside


@pytest.mark.slow
def test_installed_commands_train_and_sample_from_anywhere(installed, tmp_path):
    where = call(
        installed,
        "python",
        "-c",
        "import ldm.metrics.features as f; print(f.__file__, f.CLASSIFIERS)",
        cwd=tmp_path,
    )
    assert str(installed.parent) in where and "('digits', 'fashion')" in where
    for name in ("ldm-train", "ldm-sample", "ldm-evaluate"):
        assert f"{name} --c" in call(installed, name, "--help", cwd=tmp_path)
    plan = call(
        installed, "ldm-train", "--config", "configs/digits/latent.yaml", "--dry-run", cwd=tmp_path
    )
    assert "digits-latent (diffusion, space Latents" in plan and not any(tmp_path.iterdir())
    small = (
        "trainer.max_steps=2",
        "trainer.accelerator=cpu",
        "sample.count=4",
        "sample.steps=2",
        "data.batch_size=8",
    )
    said = call(installed, "ldm-train", "--config", "digits/pixel.yaml", *small, cwd=tmp_path)
    assert "ldm-sample --checkpoint checkpoints/digits-pixel" in said
    assert load(tmp_path / "checkpoints" / "digits-pixel" / "last.ckpt")["global_step"] == 2
    more = ("--count", 2, "--steps", 2, "--device", "cpu")
    call(
        installed,
        "ldm-sample",
        "--checkpoint",
        "checkpoints/digits-pixel",
        "--output",
        "out",
        *more,
        cwd=tmp_path,
    )
    assert {p.name for p in (tmp_path / "out").glob("0*.png")} == {"00000000.png", "00000001.png"}
