"""What the tests share: tiny real runs on the embedded digits, on the CPU, W&B offline."""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

if os.environ.get(
    "LDM_TEST_SYSTEM"
):  # macos or windows: without what they lack, in the scripts that tests start too
    elsewhere = str(Path(__file__).parent / "elsewhere")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (elsewhere, os.environ.get("PYTHONPATH")))
    )
    if not any(
        getattr(module, "__file__", "") == f"{elsewhere}/sitecustomize.py"
        for module in [*sys.modules.values()]
    ):
        sys.path.insert(0, elsewhere)
        sys.modules.pop("sitecustomize", None)
        import sitecustomize  # noqa: F401

# A shell starts what it puts in the background with Ctrl-C ignored, and every process below inherits
# that: scripts that tests interrupt would go on.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("WANDB_SILENT", "true")
os.environ["WANDB_MODE"] = "offline"
for key in ("WANDB_API_KEY",):
    os.environ.pop(key, None)

import pytest
from filelock import FileLock
from PIL import Image

# torch, Lightning and what imports them are imported where they are used: the process that deals
# the tests out to the others needs none of it, and they wait for it.


def pytest_collection_modifyitems():
    """One thread for each of the processes that run tests."""
    import torch

    torch.set_num_threads(1)


def trained(kind, folder, *more):
    """The folder of a tiny run."""
    from helpers import run_config

    from ldm.training.run import train_run

    return train_run(run_config(kind, folder, *more))


@pytest.fixture(scope="session")
def pair():
    """Two processes that run what they are asked to, until the session's end."""
    from pair import Pair

    two = Pair()
    yield two
    two.close()


@pytest.fixture(scope="session")
def once(tmp_path_factory, request):
    """Make a folder once for all processes that share a run of the tests, which only read it.

    `make` gets an empty folder, and gives a path in it. A pytest that a test starts finds them too.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    shared = Path(os.environ.setdefault("LDM_TEST_RUNS", str(shared)))

    def call(name, make):
        made = shared / f"{name}.made"  # where it is
        with FileLock(shared / f"{name}.lock"):
            if not made.exists():
                folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=shared))
                made.write_text(str(make(folder)))
        return Path(made.read_text())

    return call


@pytest.fixture(scope="session")
def stage1(once):
    """The folder of a trained tiny autoencoder."""
    return once("stage1", lambda folder: trained("autoencoder", folder))


@pytest.fixture(scope="session")
def latent_run(stage1, once):
    """The folder of a trained tiny latent model, W&B offline."""
    more = f"space.autoencoder={stage1}", "logger.mode=offline", "sample.trajectory=1"
    return once("latent", lambda folder: trained("latent", folder, *more))


@pytest.fixture(scope="session")
def pixel_run(once):
    """The folder of a trained tiny pixel model."""
    return once("pixel", lambda folder: trained("pixel", folder))


@pytest.fixture(scope="session")
def clip(once):
    pytest.importorskip("transformers")
    from helpers import make_clip

    return once("clip", lambda folder: make_clip(folder / "model"))


@pytest.fixture(scope="session")
def captioned_pictures(once):
    """24 pictures of one colour each, with its name as caption, in folders that are no classes."""
    return once("pictures", write_captioned)


def write_captioned(folder):
    from helpers import COLOURS

    rows = []
    for i in range(24):
        name = list(COLOURS)[i % 3]
        Image.new("RGB", (8, 8), COLOURS[name]).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": name, "half": "ab"[i % 2]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def text_run(clip, captioned_pictures, once):
    """A pixel model that has seen captions for 150 steps."""
    from helpers import captioned

    length = "trainer.max_steps=150", "trainer.validate=150", "trainer.save=150", "sample.every=0"
    given = captioned(
        clip, captioned_pictures, "optim.lr=4e-3", "network.channels=[16,32]", *length
    )
    return once("text", lambda folder: trained("pixel", folder, *given))


@pytest.fixture(scope="session")
def jets_run(once):
    """The folder of a tiny model of jets, trained by train.py."""
    return once("jets", train_jets)


def train_jets(output):
    from helpers import TINY, here, overrides

    given = overrides("jets", output, "sample.every=0")
    done = here("train.py", "--config", TINY / "jets.yaml", *given)
    assert done.returncode == 0, done.stderr
    assert "JetNet: 280 training, 60 held out, (30, 3)" in done.stdout
    assert "constituents 29.9" in done.stdout
    return output / "tiny-jets"


@pytest.fixture(scope="session")
def two_types(once):
    """A run on 60 gluons and 20 light quarks conditioned on pt and mass, and the folder of their
    files.
    """
    run = once("types", train_two_types)
    return run, run.parent


def train_two_types(folder):
    import torch
    from helpers import ROOT

    from ldm.jets.files import read_jets, write_jets

    features, mask, jet = map(
        torch.from_numpy, read_jets(ROOT / "tests/fixtures/gluon30_400.hdf5", 30)
    )
    for kind, n in (("g", 60), ("q", 20)):
        write_jets(folder / f"{kind}.hdf5", features[-n:], mask[-n:], jet[-n:])
    data = f"data={{name: JetNet, root: {folder}, types: [g, q], batch_size: 16}}"
    short = (
        "network.jet=2",
        "trainer.max_steps=4",
        "optim.lr=3e-2",
        "optim.ema=0.5",
        "sample.count=4",
        "sample.every=0",
    )
    return trained("jets", folder, data, *short)
