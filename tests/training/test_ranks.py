"""Many processes of one run: what one of them does for all, and what they do together."""

import json
import os
import struct
import subprocess
import sys
import zipfile

import pytest
import torch
from helpers import (
    ROOT,
    TINY,
    captioned,
    here,
    largest_difference,
    load,
    one_line,
    overrides,
    run_config,
)
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from processes import port

from ldm.checkpoints.checkpoint import read_checkpoint
from ldm.errors import Refusal
from ldm.training.folder import wandb_id
from ldm.training.run import train_run

DROPOUT = "network={channels: [8, 16], layers: 1, dropout: 0.3}"


def damage(path):
    """Change a byte of the largest weight, which PyTorch's reader does not notice."""
    with zipfile.ZipFile(path) as file:
        weights = [record for record in file.infolist() if "/data/" in record.filename]
    record = max(weights, key=lambda r: r.file_size)
    with open(path, "r+b") as file:
        file.seek(record.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
        place = record.header_offset + 30 + name + extra + record.file_size // 2
        file.seek(place)
        old = file.read(1)[0]
        file.seek(place)
        file.write(bytes([old ^ 1]))


# -- dropout ---------------------------------------------------------------------------------------
def test_dropout_is_a_function_of_the_step(tmp_path):
    """Stopped at 4 and resumed, whatever was drawn in between: the bits of the run never stopped."""
    whole = load(train_run(run_config("pixel", tmp_path / "a", DROPOUT)) / "last.ckpt")
    train_run(run_config("pixel", tmp_path / "b", DROPOUT, "trainer.max_steps=4"))
    torch.manual_seed(1234)
    parts = load(train_run(run_config("pixel", tmp_path / "b", DROPOUT), resume=True) / "last.ckpt")
    plain = load(
        train_run(run_config("pixel", tmp_path / "c", DROPOUT.replace("0.3", "0"))) / "last.ckpt"
    )
    assert largest_difference(whole["state_dict"], parts["state_dict"]) == 0
    assert largest_difference(whole["state_dict"], plain["state_dict"]) > 0  # it drops something


# -- what one process does for all -----------------------------------------------------------------
def test_one_process_of_a_machine_reads_all_of_a_checkpoint_to_check_it(
    pixel_run, tmp_path, monkeypatch
):
    path = tmp_path / "last.ckpt"
    path.write_bytes((pixel_run / "last.ckpt").read_bytes())
    damage(path)
    for name, rank in (("LOCAL_RANK", "1"), ("SLURM_LOCALID", "3")):
        with monkeypatch.context() as patch:
            patch.setenv(name, rank)
            assert read_checkpoint(path)["global_step"] == 8
    for rank in (None, "0"):
        with monkeypatch.context() as patch:
            patch.delenv("LOCAL_RANK", raising=False)
            if rank:
                patch.setenv("LOCAL_RANK", rank)
            with pytest.raises(Refusal, match="has changed since it was written"):
                read_checkpoint(path)


def test_the_first_process_alone_reads_run_json(tmp_path, monkeypatch):
    """Others could meet it before it is there, and go on under an id of their own."""
    (tmp_path / "run.json").write_text(json.dumps({"wandb_id": "first"}))
    assert wandb_id(tmp_path, "known") == "first"
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert wandb_id(tmp_path, "known") == "known"


@pytest.mark.ddp
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_two_processes_go_on_from_the_checkpoint_that_the_first_found_whole(
    pair, tmp_path, launcher
):
    """last.ckpt is damaged where only a full reading sees it. By Lightning's launcher both take
    previous.ckpt, and end with the bits of the run never stopped; under torchrun nobody tells the
    second, and the run is refused in one line.
    """
    more = ["trainer.devices=2", "sample.every=0", "trainer.save=4"]
    command = ["--config", TINY / "pixel.yaml", *overrides("pixel", tmp_path, *more)]
    assert pair("train.py", *command, "trainer.max_steps=8").returncode == 0
    damage(tmp_path / "tiny-pixel" / "last.ckpt")
    (tmp_path / "tiny-pixel" / "best.ckpt").unlink()
    longer = [*command, "trainer.max_steps=12"]
    start = [sys.executable]
    if launcher == "torchrun":
        start += ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
        start += ["--master-port", str(port())]
    done = subprocess.run(
        [*start, "train.py", *map(str, longer), "--resume"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if launcher == "torchrun":
        said = "one process goes on from step 4, another from step 8"
        assert done.returncode and said in done.stderr, done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stdout and "previous.ckpt" in done.stdout
    resumed = load(tmp_path / "tiny-pixel" / "last.ckpt")
    whole = overrides("pixel", tmp_path / "whole", *more, "trainer.max_steps=12")
    assert pair("train.py", "--config", TINY / "pixel.yaml", *whole).returncode == 0
    straight = load(tmp_path / "whole" / "tiny-pixel" / "last.ckpt")
    assert resumed["global_step"] == 12
    assert largest_difference(resumed["state_dict"], straight["state_dict"]) == 0


# -- what they do together -------------------------------------------------------------------------
REFERENCE = """
import sys, torch
from pathlib import Path
from ldm.metrics import reference
from ldm.metrics.features import choose
from ldm.pictures.images import Digits
from ldm.system.processes import Ranks, launch

reference.BATCH, world = 64, int(sys.argv[1])
fabric = launch(world, "cpu")
used = choose("digits")
found = reference.cached_reference(
    Digits().load().train, used, "x", Path(sys.argv[2]), quiet=True, ranks=Ranks.of(fabric)
)
# in one write: two processes share the output
print(f"RANK {fabric.global_rank} {found is not None}\\n", end="", flush=True)
fabric.barrier()
used.net.forward = None  # it cannot be computed again
again = reference.cached_reference(
    Digits().load().train, used, "x", Path(sys.argv[2]), quiet=True, ranks=Ranks.of(fabric)
)
assert (again is not None) == (fabric.global_rank == 0)
"""


@pytest.mark.ddp
def test_the_real_side_is_computed_by_all_processes_and_kept(tmp_path):
    """Two have half the batches each; what is kept is what one process keeps: rows bit for bit."""
    from safetensors.torch import load_file

    (tmp_path / "job.py").write_text(REFERENCE)
    kept = []
    for world in (1, 2):
        command = [sys.executable, tmp_path / "job.py", str(world), tmp_path / f"{world}"]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=200)
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.split("RANK")[1:]) == [" 0 True\n", " 1 False\n"][:world]
        (path,) = (tmp_path / f"{world}").glob("digits-*.safetensors")
        kept.append(load_file(path))
    one, two = kept
    assert torch.equal(one["rows"], two["rows"])
    for name in ("total", "outer"):
        assert torch.allclose(one[name], two[name], rtol=1e-12)


@pytest.mark.ddp
def test_captions_are_encoded_once_by_two_processes_together(pair, clip, tmp_path):
    """And trained on as by one process that accumulates two micro-batches."""
    for i in range(64):
        path = tmp_path / "pictures" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), ["red", "green", "blue"][i % 3]).save(path)
        path.with_suffix(".txt").write_text(["red", "green", "blue"][i % 3])
    given = captioned(clip, tmp_path / "pictures", "trainer.max_steps=6", "sample.every=0")
    folders = {}
    for name, how, call in (
        ("two", "trainer.devices=2", pair),
        ("one", "trainer.accumulate=2", here),
    ):
        more = overrides("pixel", tmp_path / name, *given, how)
        done = call("train.py", "--config", TINY / "pixel.yaml", *more)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("text: 3 captions encoded into") == 1
        folders[name] = load(tmp_path / name / "tiny-pixel" / "last.ckpt")
        (encoder,) = (tmp_path / name / "captions").iterdir()
        assert encoder.name == folders[name]["ldm"]["text"]["hash"]
    gap = largest_difference(folders["two"]["state_dict"], folders["one"]["state_dict"])
    assert gap < 1e-6


def test_another_way_of_starting_is_refused_in_one_line():
    done = here("train.py", "--config", TINY / "pixel.yaml", "trainer.strategy=fsdp")
    one_line(done, "fsdp cuts weights into shards")
