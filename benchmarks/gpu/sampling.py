"""Part c: samples, encoded pictures and jets a second."""

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.place import ROOT, Place, failing_softly
from ldm import config
from ldm.networks.autoencoder import AutoencoderKL
from ldm.pictures.latents import open_cache
from ldm.sampling.generate import generate
from ldm.sampling.model import Model, restore
from ldm.training.run import train_run

BOXES = ("fashion-latent", "emoji-latent")
RECIPES = ("float32", "tf32", "bf16", "bf16, compiled")


@contextlib.contextmanager
def recipe(place: Place, model: Model, name: str):
    """Inside, the network runs so."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch._dynamo.reset()
    if "compiled" in name:
        model.denoiser.net.compile()
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
