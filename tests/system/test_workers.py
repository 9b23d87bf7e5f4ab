"""Data workers: what travels to them, and what they bring back where shared memory is small."""

import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, TINY, largest_difference, load, overrides, script
from PIL import Image

from ldm.errors import Refusal
from ldm.pictures.folders import ImageFolder
from ldm.pictures.images import Digits
from ldm.system.batches import loader
from ldm.system.rows import RowFile

READ_ALL = """
import torch
from ldm.system.batches import loader
from ldm.pictures.images import ImageTensor
from ldm.errors import guard

def main():
    pictures = ImageTensor(torch.arange(120, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 64, 64), torch.arange(120))
    batches = [list(range(i, i + 40)) for i in (0, 40, 80)]
    for rows, batch in zip(batches, loader(pictures, batches, 2, pin=False), strict=True):
        assert batch["image"][:, 2, 63, 63].tolist() == batch["label"].tolist() == rows
    print("all are there")

guard(main)
"""


def with_shared_memory(size, *command):
    """Run a command in a place of its own where /dev/shm has this size."""
    if subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True
    ).returncode:
        pytest.skip("mounting needs root")
    line = f"mount -t tmpfs -o {size} tmpfs /dev/shm && exec {shlex.join(map(str, command))}"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", line],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_shared_memory_smaller_than_a_batch_is_said_and_every_batch_arrives():
    done = with_shared_memory("size=256k", sys.executable, "-c", READ_ALL)
    assert done.returncode == 0 and "all are there" in done.stdout, done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "/dev/shm" in line)
    assert (
        "no room for batches of 0.492 MB from 2 workers" in line
        and "--shm-size" in line
        and "data.workers=0" in line
    )
    assert not done.stderr, done.stderr


def test_no_shared_memory_at_all_is_one_line():
    done = with_shared_memory("nr_inodes=1", sys.executable, "-c", READ_ALL)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert (
        "error: data.workers: 2 workers cannot be started" in done.stderr
        and "/dev/shm" in done.stderr
    )


def test_a_large_enough_one_is_not_mentioned():
    done = with_shared_memory("size=64m", sys.executable, "-c", READ_ALL)
    assert done.returncode == 0 and "/dev/shm" not in done.stdout + done.stderr, (
        done.stdout + done.stderr
    )


@pytest.mark.slow
def test_training_goes_on_with_a_small_shared_memory(tmp_path):
    more = overrides(
        "pixel", tmp_path, "data.workers=2", "data.batch_size=1000", "trainer.max_steps=4"
    )
    done = with_shared_memory(
        "size=200k", sys.executable, "train.py", "--config", TINY / "pixel.yaml", *more
    )
    assert done.returncode == 0 and done.stdout.count("/dev/shm") == 1, done.stdout + done.stderr
    alone = script(
        "train.py",
        "--config",
        TINY / "pixel.yaml",
        *more,
        f"output={tmp_path}/alone",
        "data.workers=0",
    )
    assert alone.returncode == 0, alone.stderr
    ours, theirs = (
        load(folder / "tiny-pixel/last.ckpt")["state_dict"]
        for folder in (tmp_path, tmp_path / "alone")
    )
    assert largest_difference(ours, theirs) == 0


class Refusing(torch.utils.data.Dataset):
    def __getitems__(self, indices):
        raise Refusal("data.root: none of the pictures can be read")


def test_a_workers_refusal_is_the_one_line_that_it_is_without_workers():
    for workers in (0, 1):
        with pytest.raises(Refusal) as caught:
            next(iter(loader(Refusing(), [[0]], workers, pin=False)))
        assert str(caught.value) == "data.root: none of the pictures can be read"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for i in range(60):
        Image.new("L", (8, 8), 4 * i).save(folder / f"picture-{i:03}.png")
    return ImageFolder(root=str(folder), size=8).load().train


def test_a_worker_is_given_a_name_not_the_list_of_pictures(pictures):
    """Pickled, as for a worker that is not forked: of a size that does not grow with their number."""
    again = pickle.loads(sent := pickle.dumps(pictures))
    pictures.pictures = [*pictures.pictures] * 100
    assert len(pickle.dumps(pictures)) < len(sent) + 300 < 3000
    assert len(again) == len(pictures) // 100 and again.captions == pictures.captions[: len(again)]
    assert torch.equal(
        again.__getitems__([5, 40])["image"], pictures.__getitems__([5, 40])["image"]
    )
    pictures.pictures = list(again.pictures)


def test_rows_in_a_file_are_the_list_and_go_with_their_maker():
    rows = [("a", 1), None, {"text": "ä" * 1000}, Path("x")]
    made = RowFile(rows)
    assert list(made) == rows and made[-1] == rows[3] and len(made) == 4 and list(RowFile([])) == []
    again = pickle.loads(pickle.dumps(made))
    assert list(again) == rows
    with pytest.raises(IndexError):
        again[4]
    path = Path(made.path)
    del again
    assert path.stat().st_mode & 0o77 == 0
    del made
    assert not path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["folder", "tensor"])
def test_a_spawned_worker_brings_what_is_asked_for(what, pictures):
    data, batches = pictures if what == "folder" else Digits().load().train, [[3, 1], [4]]
    spawned = loader(data, batches, 1, pin=False)
    spawned.multiprocessing_context = "spawn"
    for rows, batch in zip(batches, spawned, strict=True):
        assert torch.equal(batch["image"], data.__getitems__(rows)["image"])


ABANDONED = """
import torch
from ldm.system.batches import loader
from ldm.pictures.images import ImageTensor

pictures = ImageTensor(torch.zeros(12, 3, 8, 8, dtype=torch.uint8), torch.arange(12))
kept = iter(loader(pictures, [[i] for i in range(12)], 2, pin=False))
next(kept)
raise SystemExit(2)
"""


def test_workers_of_a_loader_that_was_left_do_not_keep_the_process():
    """They ignore SIGTERM, which multiprocessing sends at exit before it waits for them."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED], env=env, cwd=ROOT, capture_output=True, timeout=120
    )
    assert done.returncode == 2 and not done.stderr, done.stderr
