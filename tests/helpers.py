"""Helpers of the tests: tiny configs, the scripts as subprocesses, weights of checkpoints."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ldm import config
from ldm.uses.run import run

ROOT = Path(__file__).parent.parent
TINY = Path(__file__).parent / "configs"


def overrides(kind, output, *more):
    return [f"output={output}", "trainer.accelerator=cpu", "logger.mode=disabled", *more]


def run_config(kind, output, *more):
    """A tiny typed config: kind is autoencoder, latent or pixel."""
    return config.load(TINY / f"{kind}.yaml", overrides(kind, output, *more))


def script(name, *arguments, timeout=300, **environment):
    """Run train.py or sample.py as a user does; returns the finished process."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("WANDB_MODE", "WANDB_API_KEY")}
    env = inherited | {"OMP_NUM_THREADS": "1", "WANDB_SILENT": "true", "NETRC": "/nonexistent"} | environment
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def load(path):
    return torch.load(path, weights_only=True)


# what sample.py's parser gives a task beside what is asked
FLAGS = dict(seed=0, label=None, weights="ema", device="cpu", devices=1, mask=None, method=None, factor=None, noise_std=None)
FLAGS |= dict(strength=None, resamples=None, degrade=None, solver=None, eta=None, steps=3, image=None, count=2)


def task(checkpoint, output, name, **given):
    """sample.py --task in this process; the folder it wrote."""
    run(**FLAGS | dict(checkpoint=str(checkpoint), output=str(output), task=name) | given)
    return output


def grey(path):
    """A PNG's values."""
    return np.asarray(Image.open(path)).astype(int)


def largest_difference(a, b):
    """Largest difference between two nested dicts of tensors with the same keys."""
    assert a.keys() == b.keys()
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)
