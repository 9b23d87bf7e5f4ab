"""Part c: samples, encoded pictures and jets a second."""

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

import ldm as package
from benchmarks import sampling as one_network
from benchmarks.gpu.place import ROOT, Place, failing_softly
from ldm import config
from ldm.diffusion.flow import Ode
from ldm.networks.autoencoder import AutoencoderKL
from ldm.networks.quick import compile_in_place
from ldm.pictures.latents import open_cache
from ldm.sampling.generate import generate
from ldm.sampling.model import Model, restore
from ldm.sampling.speed import on_its_device
from ldm.training.run import train_run

BOXES = ("fashion-latent", "emoji-latent")
RECIPES = ("float32", "tf32", "bf16", "bf16, compiled", "bf16, compiled, channels_last")


@contextlib.contextmanager
def recipe(place: Place, model: Model, name: str):
    """Inside, the network runs so."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch._dynamo.reset()
    if "channels_last" in name:
        on_its_device(model)
    if "compiled" in name:
        compile_in_place(model.denoiser.net)
    kind = torch.device(place.device).type
    with torch.autocast(kind, torch.bfloat16, enabled=name.startswith("bf16")):
        yield
    torch.set_float32_matmul_precision(before)


def samples(place: Place) -> None:
    """Of the models in the box, by batch and recipe; how far from float32, in grey levels."""
    for box in BOXES if place.gpu else BOXES[:1]:
        for batch in (64, 256, 1024) if place.gpu else (2,):
            reference = None
            for name in RECIPES if place.gpu else RECIPES[:1]:
                what = f"{box}, batch {batch}, {name}"
                with failing_softly(place, "sampling", what):
                    model = restore(ROOT / "checkpoints" / box, "ema", place.device)
                    steps = model.settings.steps if place.gpu else 2
                    settings = replace(model.settings, batch_size=batch, steps=steps)
                    place.memory(reset=True)
                    with recipe(place, model, name):
                        made = generate(model, settings, range(batch)).int()
                        draw = partial(generate, model, settings, range(batch))
                        rate = place.rate(draw, batch)
                    reference = made if reference is None else reference
                    apart = (made - reference).abs().float().mean().item()
                    values = {"steps": steps, "images/s": rate, "GB": place.memory()}
                    place.note("sampling", what, **values, **{"grey levels off": apart})


def against_diffusers(place: Place) -> None:
    """benchmarks.sampling: one network, the same pictures, by ours and by diffusers' pipeline."""
    file = place.output / "against-diffusers.json"
    words = ["sampling", "--device", place.device, "--output", str(file)]
    if not place.gpu:
        words += ["--config", str(ROOT / "tests/configs/pixel.yaml"), "--shape", "1", "8", "8"]
        words += ["--batch", "2", "--steps", "2", "--rounds", "2"]
    with failing_softly(place, "against diffusers", "time of theirs over ours"):
        with patch.object(sys, "argv", words):
            one_network.main()
        found = json.loads(file.read_text())["ratios"]
        medians = {name: each["median"] for name, each in found.items()}
        place.note("against diffusers", "ratios of time", **medians)


def tasks(place: Place) -> None:
    """Uses of the model in the box that go through its network or its gradient: seconds each."""
    count, steps = (64, 25) if place.gpu else (1, 2)
    with failing_softly(place, "tasks", "the model"):
        model = package.load(ROOT / "checkpoints" / BOXES[0], device=place.device)
        made, hole = model.sample(count, steps=steps), torch.zeros(model.shape[1:])
        hole[8:16, 8:16] = 1
        uses: dict[str, Callable[..., object]] = {
            "in-painting": partial(model.inpaint, made, hole),
            "super-resolution": partial(model.super_resolve, made[..., ::2, ::2], factor=2),
            "denoising": partial(model.denoise, made, noise_std=0.3),
            "editing": partial(model.edit, made),
        }
        for name, use in uses.items():
            with failing_softly(place, "tasks", name):
                values = {"images/s": place.rate(partial(use, steps=steps), count)}
                place.note("tasks", name, **values, steps=steps)


def likelihood(place: Place) -> None:
    """The lower bound of log p of the model in the box's own samples."""
    count, ode = (16, Ode(1e-3, 1e-3)) if place.gpu else (1, Ode(0.3, 0.3))
    with failing_softly(place, "likelihood", BOXES[0]):
        model = package.load(ROOT / "checkpoints" / BOXES[0], device=place.device)
        made = model.sample(count, steps=10 if place.gpu else 2)
        found = model.log_likelihood(made, estimate=package.Estimate(ode=ode))
        values = {"bits a dimension": found.bits_per_dim.mean().item()}
        place.note("likelihood", BOXES[0], pictures=count, **values)


def encoding(place: Place) -> None:
    """An autoencoder's encoder and decoder, of random weights: pictures a second."""
    run = config.load(ROOT / "configs/folder/autoencoder-256.yaml")
    big = ("KL-f8, 256 x 256", run.network, (3, 256, 256), 32)
    small = AutoencoderKL((8, 16), 1, 2, attention=False)
    for name, network, shape, batch in (big,) if place.gpu else (("toy", small, (1, 8, 8), 2),):
        net = network.build(shape).to(place.device).eval()
        x = torch.rand(batch, *shape, device=place.device) * 2 - 1
        kind = torch.device(place.device).type
        for half in (False, True) if place.gpu else (False,):
            what = f"{name}, {'bf16' if half else 'float32'}"
            context = torch.autocast(kind, torch.bfloat16, enabled=half)
            with failing_softly(place, "encoding", what), torch.inference_mode(), context:
                z = net.encode(x)
                mean = z.chunk(2, 1)[0]
                encoded = place.rate(partial(net.encode, x), batch)
                decoded = place.rate(partial(net.decode, mean), batch)
                values = {"encoded/s": encoded, "decoded/s": decoded}
                place.note("encoding", what, **values)


def cached(place: Place) -> None:
    """A latent run of a few steps: its cache is written, read back and trained on."""
    from benchmarks.gpu.paths import stage1_of, tiny

    more = ["trainer.max_steps=4", "trainer.validate=4", "trainer.save=4", "sample.every=0"]
    run = tiny(place, "latent", "cached", f"space.autoencoder={stage1_of(place)}", *more)
    with failing_softly(place, "latent cache", "digits"):
        train_run(run)
        (folder,) = (Path(run.output) / "latents").iterdir()
        found = open_cache(folder)
        values = {
            "rows": len(found),
            "MB": found.size / 1e6,
            "bytes a row": found.size / len(found),
        }
        place.note("latent cache", "digits", **values)


def jets(place: Place) -> None:
    """Jets a second of the model in the box, with its own solver."""
    model = restore(ROOT / "checkpoints" / "jets-gluon", "ema", place.device)
    for batch in (1000, 10_000) if place.gpu else (4,):
        with failing_softly(place, "jets", f"batch {batch}"):
            steps = model.settings.steps if place.gpu else 2
            settings = replace(model.settings, batch_size=batch, steps=steps)
            draw = partial(generate, model, settings, range(batch))
            place.note("jets", f"batch {batch}", **{"jets/s": place.rate(draw, batch)})
