"""Every way to train, on a GPU that is not there: nothing that a real one would refuse, and in a
step between two rows of metrics.csv nothing that it would be waited for.
"""

import pytest
import torch
from helpers import captioned, load, run_config
from pretend import trained

# rows, saves, panels and validation at steps 3 and 6: step 4 is one of training alone
BETWEEN = (4,)
EVENTS = (
    "trainer.max_steps=6",
    "trainer.validate=3",
    "trainer.save=3",
    "trainer.log=3",
    "trainer.accelerator=auto",
    "trainer.options.limit_val_batches=1",
    "data.batch_size=4",
)
PANELS = ("sample.every=3", "sample.count=2", "sample.trajectory=0", "sample.steps=2")
VQ = "network={name: VQModel, channels: [8, 16], latent_channels: 2, codes: 16, patience: 2}"
GAN = "discriminator={weight: 0.5, warmup: 1, channels: 8, layers: 1}"
PATHS = {
    "pixel": ("pixel", []),
    "everything": (
        "pixel",
        ["trainer.accumulate=2", "optim.posthoc=3", "optim.ema_more=[0.99]", "data.flip=true"],
    ),
    "two processes": ("pixel", []),
    "evaluation": ("pixel", ["evaluate={every: 3, count: 60, features: digits}"]),
    "SubVP": ("pixel", ["schedule=SubVP"]),
    "Cosine": ("pixel", ["schedule=Cosine", "loss={predict: eps, weight: MinSNR}"]),
    "VE": ("pixel", ["schedule=VE", "loss={predict: edm, weight: EDM, times: LogNormal}"]),
    "Linear": ("pixel", ["schedule=Linear", "loss={predict: velocity, times: LogitNormal}"]),
    "Discrete": ("pixel", ["schedule=Discrete", "loss={predict: x0}"]),
    "likelihood": ("pixel", ["loss={predict: score, weight: likelihood, times: Importance}"]),
    "inpaint": ("pixel", ["task=Inpaint"]),
    "super-resolve": ("pixel", ["task={name: SuperResolve, factor: 2}"]),
    "bicubic": ("pixel", ["task={name: SuperResolve, factor: 2, kernel: bicubic}"]),
    "latent": ("latent", ["space.autoencoder=STAGE1", "data.flip=true"]),
    "latent without a cache": ("latent", ["space.autoencoder=STAGE1", "space.cache=false"]),
    "latent inpaint": ("latent", ["space.autoencoder=STAGE1", "task=Inpaint"]),
    "jets": ("jets", ["data.flip=true"]),
    "autoencoder": ("autoencoder", ["data.flip=true"]),
    "gan": ("autoencoder", [GAN, "trainer.accumulate=2"]),
    "vq": ("autoencoder", [VQ]),
    "vq, two processes": ("autoencoder", [VQ, GAN]),
}
FAST = ("pixel",)


def check(run, world=1):
    folder, device = trained(run, world)
    assert not device.mixed()
    assert not device.waits(BETWEEN)
    state = load(folder / "last.ckpt")
    assert state["global_step"] == 6
    assert all(torch.isfinite(v).all() for v in state["state_dict"].values())


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
@pytest.mark.parametrize(
    "path", [p if p in FAST else pytest.param(p, marks=pytest.mark.slow) for p in PATHS]
)
def test_training_on_a_pretended_device(path, tmp_path, request):
    kind, more = PATHS[path]
    if "space.autoencoder=STAGE1" in more:
        folder = request.getfixturevalue("stage1")
        more = [text.replace("STAGE1", str(folder)) for text in more]
    panels = PANELS if kind != "autoencoder" else ()
    run = run_config(kind, tmp_path, *EVENTS, *panels, *more)
    check(run, world=2 if "two" in path else 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_training_on_captions_on_a_pretended_device(clip, captioned_pictures, tmp_path):
    """Captions are encoded, and waited for, once each."""
    more = captioned(clip, captioned_pictures)
    check(run_config("pixel", tmp_path, *more, *EVENTS, *PANELS))
