"""A place where the pages' commands run: the shipped configs made small, small data, and what
stands in capitals.

A command runs in a folder of its own, where DIR, FILE, CKPT, I.png, ... exist by these names,
beside copies of the checkpoints that it reads. What it would take long for is cut: counts, steps,
devices. Nothing else is changed.
"""

import json
import os
import runpy
import shlex
import shutil
from pathlib import Path

import numpy as np
from helpers import ROOT, make_clip, write_idx
from PIL import Image
from sklearn.datasets import load_digits

from ldm import config
from ldm.config import AutoencoderConfig
from ldm.jets.data import TYPES
from ldm.jets.network import SetTransformer
from ldm.networks.text import CLIPText
from ldm.pictures.images import FashionMNIST
from ldm.points.network import MLP

DATA = {"emoji": "emoji", "fashion": "fashion", "folder": "pictures"}
DATA |= {"jets/five": "five", "jets-five": "five", "jets": "jets.hdf5"}
CKPT = "fashion-pixel"
LESS = {  # flags that are added to a program's own; the last of two counts
    "sample.py": ("--count", "4", "--steps", "2"),
    "evaluate.py": ("--count", "40", "--steps", "2"),
    "benchmarks.judge_jets": ("--count", "40"),
    "benchmarks.judge_types": ("--count", "10"),
}
SHORT = "trainer.max_steps=4"
FEWER = {"8": "2", "trainer.devices=8": "trainer.devices=2"}  # devices that this machine has


# -- data and configs ----------------------------------------------------------------------------
def digits(side, colour=False):
    """The embedded digits, enlarged: an autoencoder of 60 steps makes them better than flat grey."""
    images = [
        Image.fromarray((15 * image).astype(np.uint8)).resize((side, side))
        for image in load_digits().images[:200]
    ]
    return [image.convert("RGB") if colour else image for image in images]


def write_fashion(folder):
    images = np.stack([np.asarray(image) for image in digits(28)])
    labels = load_digits().target[:200].astype(np.uint8)
    arrays = images[:150], labels[:150], images[150:], labels[150:]
    for part, array in zip(FashionMNIST.parts, arrays, strict=True):
        write_idx(folder / part, array)


def write_folder(folder, captions):
    rows = []
    for i, image in enumerate(digits(64, colour=True)[:48]):
        name = f"{'ab'[i % 2]}/{i}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
        rows.append({"file_name": name, "text": captions[i % len(captions)], "category": ""})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_data(folder):
    write_fashion(folder / "fashion")
    write_folder(folder / "pictures", ["a red heart", "a cat"])
    names = config.load(ROOT / "configs" / "emoji" / "autoencoder.yaml").data
    write_folder(folder / "emoji", [*names.hold, "a cat"])
    (folder / "five").mkdir()
    for name in ("jets", *(f"five/{kind}" for kind in TYPES)):
        shutil.copy(ROOT / "tests" / "fixtures" / "gluon30_400.hdf5", folder / f"{name}.hdf5")
    (folder / "lines.txt").write_text("a red heart\na cat\n")


def write_inputs(folder):
    """What the pages give to tasks: pictures, a small one, a mask, a folder."""
    whole = digits(28)
    for name, i in (("I.png", 1), ("J.png", 2)):
        whole[i].save(folder / name)
    whole[3].resize((7, 7)).save(folder / "SMALL.png")
    mask = np.zeros((28, 28), np.uint8)
    mask[8:20, 8:20] = 255
    Image.fromarray(mask).save(folder / "M.png")
    rows = (f"{i % 7}.5,{i},{'ab'[i % 2]}" for i in range(100))
    (folder / "POINTS.csv").write_text("\n".join(["width,height,kind", *rows]))
    (folder / "FOLDER").mkdir()
    whole[5].save(folder / "FOLDER" / "a.png")


def shrink(run, clip, kind):
    """A shipped config, small: the same components, few channels, few steps."""
    stage1 = isinstance(run, AutoencoderConfig)
    steps = 60 if stage1 else 2
    length = dict(max_steps=steps, validate=steps, save=steps, log=1, accelerator="cpu")
    run.trainer.__dict__ |= length
    run.optim.__dict__ |= dict(warmup=1, lr=3e-3)
    run.data.__dict__ |= dict(batch_size=16, workers=0)
    if hasattr(run.data, "root"):
        several = len(getattr(run.data, "types", ())) > 1
        run.data.root = DATA[f"{kind}/five" if several else kind]
    run.logger.mode = "disabled"
    if isinstance(run.network, SetTransformer):
        run.network.__dict__ |= dict(dim=16, layers=1, heads=2)
    elif isinstance(run.network, MLP):
        run.network.__dict__ |= dict(dim=16, layers=1)
        run.data.__dict__ |= dict(count=100, held_out=40)
    else:
        channels = (8,) * len(run.network.channels)
        run.network.__dict__ |= dict(channels=channels, layers=1, norm_groups=8)
    if not stage1:
        steps = getattr(run.loss, "segments", 2)  # a student's are its segments
        run.sample.__dict__ |= dict(count=4, batch_size=4, steps=steps, every=2, trajectory=0)
        run.network.__dict__ |= {"head_dim": 8} if hasattr(run.network, "head_dim") else {}
        run.text = CLIPText(str(clip), length=12)
        if run.init and not run.loss.few:  # a model of the full size, or a student's teacher
            run.init = None
        if hasattr(run.space, "autoencoder"):
            run.space.autoencoder = str(Path(run.space.autoencoder).resolve().relative_to(ROOT))
    return run


# -- running -------------------------------------------------------------------------------------
def quiet():
    """The environment of a command: no key, no rank of ours."""
    hidden = ("WANDB_API_KEY", "LOCAL_RANK", "WORLD_SIZE", "RANK")
    kept = {k: v for k, v in os.environ.items() if k not in hidden}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(words):
    """`python FILE` or `python -m MODULE`, in this process: half a minute of imports a command is
    saved.
    """
    if words[1] == "-m":
        runpy.run_module(words[2], run_name="__main__")
    else:
        runpy.run_path(words[1], run_name="__main__")


def small(text):
    """The words of a command, for a small machine."""
    words = [FEWER.get(word, word) for word in shlex.split(text.replace(".venv/bin/", ""))]
    # stage 1 keeps its own: a decoder that is no better than flat grey is refused
    words = [SHORT if word.startswith("trainer.max_steps=") else word for word in words]
    program = words[2] if words[1] == "-m" else words[1]
    less = LESS.get(program, ())
    if program == "evaluate.py" and "autoencoder" in text:
        less = less[:2]  # stage 1 has no steps
    if any(word.endswith("-few") for word in words):
        less = less[:2]  # a student has its own steps
    if "--samples" in words:
        less = ()  # they are as they are
    return [*words, *less, *([SHORT] if "--resume" in words else [])]


class Place:
    """The shipped configs made small, the scripts and the data, and checkpoints trained when one is
    first asked for.
    """

    def __init__(self, folder):
        self.folder = folder
        clip = make_clip(folder / "clip")
        self.configs = {}  # by the name of the run that each makes
        for path in (ROOT / "configs").rglob("*.yaml"):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            config.save_config(shrink(config.load(path), clip, path.parent.name), target)
            self.configs[config.load(target).name] = path.relative_to(ROOT)
        for name in ("train.py", "sample.py", "evaluate.py"):
            shutil.copy(ROOT / name, folder)
        write_data(folder)
        write_inputs(folder)
        for box in (ROOT / "checkpoints").glob("*/model.safetensors"):
            (folder / "checkpoints" / box.parent.name).mkdir(parents=True)
            shutil.copy(box, folder / "checkpoints" / box.parent.name)

    def checkpoint(self, name, run, evaluated):
        """The folder of a checkpoint; `run` trains what neither the box nor a test before this one
        left.

        What is evaluated is trained: the box's data are not here.
        """
        folder = self.folder / "checkpoints" / name
        if not (folder / "last.ckpt" if evaluated else folder).exists():
            run(self.folder, ["python", "train.py", "--config", str(self.configs[name])])
        return folder

    def reads(self, command):
        """Names of the checkpoints that a command takes as there already."""
        words = shlex.split(command)
        if "--checkpoint" in words:
            name = words[words.index("--checkpoint") + 1]
            return [CKPT if name == "CKPT" else name.removeprefix("checkpoints/")]
        if "--config" not in words:
            return []
        path = words[words.index("--config") + 1]
        given = config.load(self.folder / path)
        if "--resume" in words:
            return [given.name]
        stage1 = getattr(getattr(given, "space", None), "autoencoder", None)
        if stage1 is None or path == "configs/digits/latent.yaml":  # this one trains both stages
            return []
        return [config.load(self.folder / stage1).name]

    def beside(self, folder, command, run):
        """Fill the folder that a command runs in."""
        for path in self.folder.iterdir():
            if path.name != "checkpoints":
                (folder / path.name).symlink_to(path)
        for name in self.reads(command):
            target = folder / "checkpoints" / name
            evaluated = command.startswith(("python evaluate", "python -m benchmarks"))
            shutil.copytree(self.checkpoint(name, run, evaluated), target, dirs_exist_ok=True)
            if name == CKPT:
                (folder / "CKPT").symlink_to(target)
        kind = next((data for name, data in DATA.items() if f"/{name}" in command), "fashion")
        kind = "pictures" if "--samples DIR" in command else kind
        (folder / "DIR").symlink_to(self.folder / kind)
        lines = "--prompt-file" in command
        (folder / "FILE").symlink_to(self.folder / ("lines.txt" if lines else "jets.hdf5"))
