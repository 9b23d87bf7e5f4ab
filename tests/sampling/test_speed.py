"""How a restored model computes: precision, compilation, batches by device; never another sample."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers import here, one_line
from torch import nn
from torch._dynamo.utils import counters
from torch._subclasses import FakeTensorMode

from ldm.config import SampleConfig
from ldm.diffusion import VP, Denoiser
from ldm.pictures.space import PixelSpace
from ldm.sampling.generate import generate
from ldm.sampling.model import Model, restore
from ldm.sampling.speed import compiled, in_precision, roomy

FEW = ("--count", "4", "--steps", "3", "--device", "cpu")


def sampled(run, output, *more):
    done = here("sample.py", "--checkpoint", run, "--output", output, *FEW, *more)
    assert done.returncode == 0, done.stderr
    settings = json.loads((output / "settings.json").read_text())
    return settings, [p.read_bytes() for p in sorted(output.glob("0*.png"))]


def test_precision_is_asked_for_and_recorded(latent_run, tmp_path):
    """On a CPU auto is float32, with the bits that it had."""
    plain, pictures = sampled(latent_run, tmp_path / "auto")
    true, same = sampled(latent_run, tmp_path / "true", "--precision", "32-true")
    half, others = sampled(latent_run, tmp_path / "half", "--precision", "bf16")
    said = [settings["precision"] for settings in (plain, true, half)]
    assert said == ["32-true", "32-true", "bf16"]
    assert pictures == same and pictures != others
    done = here("sample.py", "--checkpoint", latent_run, "--precision", "fp8")
    one_line(done, "--precision", "bf16")


def test_half_precision_is_near(latent_run):
    model = restore(latent_run)
    settings = replace(model.settings, steps=4, batch_size=16)
    plain, half = (
        generate(in_precision(model, p), settings, range(16)).float() for p in ("32-true", "bf16")
    )
    assert 0 < (plain - half).abs().mean() < 2  # grey levels of 255


def test_what_is_compiled_samples_the_same_from_one_graph(latent_run, monkeypatch):
    """The last batch is filled up: no batch has another shape."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    counters.clear()
    model = restore(latent_run)
    settings = replace(model.settings, steps=2, batch_size=4)
    plain = generate(model, settings, range(6))
    assert not compiled(model, None, settings, range(6))
    assert compiled(model, True, settings, range(6)) and not counters["frames"]["total"]
    assert torch.equal(generate(model, settings, range(4)), plain[:4])
    frames = counters["frames"]["total"]
    assert torch.equal(generate(model, settings, range(6)), plain)
    assert counters["frames"]["total"] == frames and counters["stats"]["unique_graphs"] == 2
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("side", "count", "asked", "batch"),
    [
        (28, 5000, 64, 1024),
        (28, 300, 64, 256),
        (28, 100, 64, 64),
        (28, 5000, 32, 32),  # a config's own
        (128, 5000, 64, 256),
        (512, 5000, 64, 64),
    ],
)
def test_batches_fill_a_gpu(side, count, asked, batch):
    settings = SampleConfig(batch_size=asked)
    for device, expected in (("cpu", asked), ("cuda", batch)):
        with FakeTensorMode():
            denoiser = Denoiser(nn.Linear(2, 2, device=device), VP())
            model = Model(denoiser, PixelSpace((1, side, side)), (), settings)
            assert roomy(model, settings, count).batch_size == expected
