"""What the tests share: tiny real runs on the embedded digits, on the CPU, W&B offline."""

import os

os.environ.setdefault("WANDB_SILENT", "true")
os.environ["WANDB_MODE"] = "offline"
for key in ("WANDB_API_KEY",):
    os.environ.pop(key, None)

import pytest
import torch
from helpers import run_config

from ldm.training.run import train

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def stage1(tmp_path_factory):
    """The folder of a trained tiny autoencoder."""
    return train(run_config("autoencoder", tmp_path_factory.mktemp("stage1")))


@pytest.fixture(scope="session")
def latent_run(stage1, tmp_path_factory):
    """The folder of a trained tiny latent model, W&B offline."""
    run = run_config("latent", tmp_path_factory.mktemp("latent"), f"space.autoencoder={stage1}", "logger.mode=offline")
    return train(run)


@pytest.fixture(scope="session")
def pixel_run(tmp_path_factory):
    """The folder of a trained tiny pixel model."""
    return train(run_config("pixel", tmp_path_factory.mktemp("pixel")))
