"""What a training step runs is compiled, once; all else runs as it was."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from helpers import captioned, run_config
from torch._dynamo.utils import counters

from ldm.networks.autoencoder import AutoencoderKL, VQModel
from ldm.networks.quick import compile_in_place, eager
from ldm.training.data import RunData
from ldm.training.plan import make_plan
from ldm.training.trainer import build_trainer

# what train_run keeps quiet: PyTorch looks at .grad of what is no leaf while it traces, and warns
# itself of it; Lightning gives advice, and asks PyTorch in an older way
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "FutureWarning")
]

VQ = "network={name: VQModel, channels: [8, 16], latent_channels: 2, attention: false, codes: 8}"
GAN = "discriminator={weight: 0.5, start: 1, warmup: 2, channels: 8, layers: 1}"
SHORT = (
    "trainer.compile=true",
    "trainer.threads=1",
    "trainer.max_steps=6",
    "trainer.validate=3",
    "trainer.options.limit_val_batches=1.0",  # the last one is short
    "trainer.save=100",
    "logger.kind=csv",
)
# kind of config, its settings, and the graphs that a step has
PATHS = {
    "stage 1": ("autoencoder", (), 2),
    "stage 1 with a discriminator": ("autoencoder", (GAN, "trainer.accumulate=2"), 4),
    "VQ with a discriminator": ("autoencoder", (VQ, GAN), 4),
    "pixel": ("pixel", ("sample.every=2",), 1),
    "latent": ("latent", ("space.cache=false", "sample.every=2"), 2),
    "text": ("pixel", ("sample.every=2", "sample.trajectory=0"), 1),
    "task": ("pixel", ("task=Inpaint", "sample.every=2"), 1),
    "student": ("pixel", ("sample.every=2",), 3),  # the teacher, the target, what has gradients
    "student of its average": ("pixel", ("sample.every=2",), 2),
    "jets": ("jets", ("sample.every=4", "sample.trajectory=0"), 1),  # its figures take seconds
}


@pytest.fixture
def traced(monkeypatch):
    """PyTorch traces, guards and counts as it does, without minutes of a C++ compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def student(teacher, path, *more):
    asked = "guidance: null, target: average" if "average" in path else "guidance: 1.5"
    loss = f"loss={{name: Consistency, {asked}, first: 2, last: 4}}"
    sample = "sample={solver: {name: Consistency}, steps: 2, guidance: 1, count: 10, every: 2}"
    return f"init={teacher}", loss, sample, "drop=0", "name=student", *more


class Watch(pl.Callback):
    """Frames compiled by the end of each step, and how many rows validation's batches have."""

    def __init__(self):
        self.frames, self.rows = [], set()

    def on_train_batch_end(self, *_):
        self.frames.append(counters["frames"]["total"])

    def on_validation_batch_start(self, trainer, module, batch, *_):
        self.rows.add(len(batch["index"]))


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_a_training_step_is_compiled_once(path, traced, request, tmp_path):
    """With panels, validations and their short last batches between the steps."""
    kind, more, graphs = PATHS[path]
    if path == "latent":
        more = (*more, f"space.autoencoder={request.getfixturevalue('stage1')}")
    if "student" in path:
        more = student(request.getfixturevalue("pixel_run"), path, *more)
    if path == "text":
        clip, pictures = map(request.getfixturevalue, ("clip", "captioned_pictures"))
        more = captioned(clip, pictures, *more)
    if path != "text":
        more = (*more, "data.batch_size=23")
    run = run_config(kind, tmp_path, *SHORT, *more)
    (leg,) = make_plan(run, False, False, lambda folder: None)
    watch, module = Watch(), leg.ready()
    trainer = build_trainer(module, leg.images, None, more=[watch])
    trainer.fit(module, datamodule=RunData(run, leg.images))
    assert counters["stats"]["unique_graphs"] == counters["aot_autograd"]["ok"] == graphs
    assert {*watch.frames} == {counters["frames"]["total"]} and len(watch.frames) >= 6
    assert len(watch.rows) == 2 or path == "text"
    assert len([*run.folder.glob("samples/*.png")]) >= 3


@pytest.mark.slow
def test_more_networks_are_compiled_than_graphs_are_kept_of_one(traced):
    """Stage 1 has four, and a process may train both stages and sample."""
    x = torch.ones(2, 1, 8, 8)
    configs = [AutoencoderKL(channels=(8,), latent_channels=n) for n in range(1, 6)]
    with torch.no_grad():
        for config in configs:
            net = config.build((1, 8, 8)).eval()
            plain = net.decode(net.encode(x).chunk(2, 1)[0])
            compile_in_place(net)
            assert torch.equal(net.decode(net.encode(x).chunk(2, 1)[0]), plain)
    assert counters["stats"]["unique_graphs"] == 2 * len(configs)


@pytest.mark.slow
@pytest.mark.parametrize("config", [AutoencoderKL, VQModel])
def test_the_last_layers_gradient_is_taken_outside_the_compiled_decoder(config, traced):
    """And what is compiled gives the same bits, and none of it runs in `eager`."""
    torch.manual_seed(0)
    net, x = config(channels=(8, 16), latent_channels=2).build((1, 8, 8)), torch.randn(2, 1, 8, 8)

    def gradients():
        x_hat = net.regularised(net.encode(x), None).x_hat
        (last,) = torch.autograd.grad(x_hat.square().sum(), net.last_layer, retain_graph=True)
        x_hat.square().sum().backward()
        found = [last, *(p.grad for p in net.parameters() if p.grad is not None)]
        net.zero_grad()
        return found

    plain = gradients()
    compile_in_place(net)
    with eager():
        gradients()
    assert not counters["frames"]["total"]
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(), strict=True))
    assert counters["stats"]["unique_graphs"] == 2
    assert "its gradient is taken alone" in str(counters["graph_break"])
