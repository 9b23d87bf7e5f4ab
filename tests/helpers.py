"""Helpers of the tests: tiny configs, the scripts as subprocesses, weights of checkpoints."""

import contextlib
import csv
import gzip
import io
import json
import os
import struct
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from ldm import config
from ldm.scripts.sample import sample_or_solve

ROOT = Path(__file__).parent.parent
TINY = Path(__file__).parent / "configs"


def overrides(kind, output, *more):
    return [f"output={output}", "trainer.accelerator=cpu", "logger.mode=disabled", *more]


def run_config(kind, output, *more):
    """A tiny typed config: kind is autoencoder, latent or pixel."""
    return config.load(TINY / f"{kind}.yaml", overrides(kind, output, *more))


def without_key(**environment):
    """The environment of someone without a W&B key, on one thread."""
    hidden = ("WANDB_MODE", "WANDB_API_KEY")
    kept = {k: v for k, v in os.environ.items() if k not in hidden}
    quiet = {"OMP_NUM_THREADS": "1", "WANDB_SILENT": "true", "NETRC": "/nonexistent"}
    return kept | quiet | environment


def script(name, *arguments, timeout=300, **environment):
    """Run train.py or sample.py as a user does; returns the finished process."""
    return subprocess.run(
        [sys.executable, str(ROOT / name), *map(str, arguments)],
        env=without_key(**environment),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def here(name, *arguments, **environment):
    """The same in this process, without the seconds that a start costs: where the process is not
    what is tested.
    """
    said, complained, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    command, status = [str(ROOT / name), *map(str, arguments)], 0
    with (
        mock.patch.dict(os.environ, without_key(**environment), clear=True),
        mock.patch.object(sys, "argv", command),
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(complained),
    ):
        try:
            import_module(f"ldm.scripts.{Path(name).stem}").entry()
        except SystemExit as end:
            status = end.code or 0
        finally:
            torch.set_num_threads(threads)
    out, error = said.getvalue(), complained.getvalue()
    return subprocess.CompletedProcess(command, status, out, error)


COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def make_clip(folder, seed=0):
    """A CLIP of random weights whose tokens are letters, as a local folder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    folder.mkdir()
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    torch.manual_seed(seed)
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    ends = dict(
        bos_token_id=len(words) - 2, eos_token_id=len(words) - 1, pad_token_id=len(words) - 1
    )
    CLIPTextModel(CLIPTextConfig(vocab_size=len(words), **sizes, **ends)).save_pretrained(folder)
    return folder


def captioned(clip, pictures, *rest, data=""):
    """Overrides for a run of captions."""
    data = f"data={{name: ImageFolder, root: {pictures}, size: 8, batch_size: 16{data}}}"
    return data, "condition=text", f"text={{name: CLIPText, model: {clip}, length: 12}}", *rest


def write_idx(path, array):
    raw = (
        b"\0\0\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def load(path):
    return torch.load(path, weights_only=True)


# what sample.py's parser gives a task beside what is asked
FLAGS = dict(
    seed=0,
    label=None,
    weights="ema",
    device="cpu",
    devices=1,
    mask=None,
    method=None,
    factor=None,
    noise_std=None,
)
FLAGS |= dict(
    strength=None, resamples=None, degrade=None, solver=None, eta=None, steps=3, image=None, count=2
)


def task(checkpoint, output, name, **given):
    """sample.py --task in this process; the folder it wrote."""
    sample_or_solve(FLAGS | dict(checkpoint=str(checkpoint), output=str(output), task=name) | given)
    return output


def pixels(path, mode=None):
    """A picture's values."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert(mode) if mode else picture)


def grey(path):
    """A picture's values as signed numbers."""
    return pixels(path).astype(int)


def largest_difference(a, b):
    """Largest difference between two nested dicts of tensors with the same keys."""
    assert a.keys() == b.keys()
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)


def table_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def column_of(path, name):
    rows = [line.split(",") for line in path.read_text().splitlines()]
    step, value = rows[0].index("step"), rows[0].index(name)
    return {row[step]: row[value] for row in rows[1:] if row[value]}


def one_line(done, *words):
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(word in lines[0] for word in words), lines[0]


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def inspect(folder):
    """The records of the folder's one offline run, by wandb's own reader."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", run]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return run / "files", [json.loads(line) for line in lines.splitlines()]
