"""Helpers of the tests: tiny configs, the scripts as subprocesses, weights of checkpoints."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from ldm import config

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


def largest_difference(a, b):
    """Largest difference between two nested dicts of tensors with the same keys."""
    assert a.keys() == b.keys()
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)
