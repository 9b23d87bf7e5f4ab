"""A run's folder: of one run at a time, whole on a full disk, the same rows after a kill, untouched
by refusals.
"""

import csv
import json
import os
import re
import subprocess
import sys

import pytest
from helpers import (
    ROOT,
    TINY,
    largest_difference,
    load,
    one_line,
    overrides,
    run_config,
    script,
    snapshot,
)

from ldm.errors import Refusal
from ldm.system import files
from ldm.training import watching
from ldm.training.boards.metrics_file import MetricsFile
from ldm.training.folder import hold_folder, wandb_id
from ldm.training.run import train_run

HOLD = """
import sys; from pathlib import Path; from ldm.training.folder import hold_folder
for line in sys.stdin:
    with hold_folder(Path(line.strip())):
        print(1)
        sys.stdin.readline()
    print(0)
"""
GAN = "discriminator={weight: 0.5, warmup: 2, channels: 8, layers: 1}"


@pytest.fixture(scope="module")
def other():
    """Another process, which holds the folder that it reads until its next line or its end."""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process = subprocess.Popen([sys.executable, "-uc", HOLD], cwd=ROOT, **pipes)
    yield process
    process.kill()
    process.wait()


def answer(other, line):
    print(line, file=other.stdin, flush=True)
    return other.stdout.readline()


def test_a_lock_that_ends_takes_its_empty_folders_away(other, tmp_path):
    assert answer(other, tmp_path / "a" / "b") == "1\n" and (tmp_path / "a" / "b").exists()
    assert answer(other, "") == "0\n"
    assert not any(tmp_path.iterdir())
    with pytest.raises(RuntimeError), hold_folder(tmp_path / "c"):
        (tmp_path / "c" / "kept").write_text("x")
        raise RuntimeError
    assert snapshot(tmp_path) == {(tmp_path / "c" / "kept").relative_to(tmp_path): b"x"}


def test_a_second_run_in_the_same_folder_is_refused(other, tmp_path):
    """As long as the first one lives, however it ends; the second changes nothing."""
    folder = tmp_path / "new" / "tiny-pixel"
    assert answer(other, folder) == "1\n"
    before = snapshot(tmp_path)
    with pytest.raises(
        Refusal,
        match=rf"is being trained by process {other.pid} on .*; wait for it, or start .* name=OTHER",
    ):
        train_run(run_config("pixel", folder.parent))
    assert snapshot(tmp_path) == before
    other.kill()
    other.wait()
    train_run(run_config("pixel", folder.parent))
    assert not (folder / "lock").exists()


DAMAGE = [b"", b"{", b"\xff\xfe", b'{"wandb_id": "../../x"}', b"[1]"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_run_json_that_is_damaged_is_not_read(tmp_path, damage):
    """Then the id is the one that the checkpoint knows, or a new one."""
    (tmp_path / "run.json").write_bytes(damage)
    assert wandb_id(tmp_path, "known") == "known"
    assert re.fullmatch(r"\w{8}", wandb_id(tmp_path, None))


def test_run_json_that_is_damaged_stops_nothing(tmp_path):
    damage = DAMAGE[3]
    folder = train_run(run_config("pixel", tmp_path, "trainer.max_steps=2", "sample.every=0"))
    identity = json.loads((folder / "run.json").read_text())["wandb_id"]
    (folder / "run.json").write_bytes(damage)
    train_run(run_config("pixel", tmp_path, "trainer.max_steps=4", "sample.every=0"), resume=True)
    assert (
        json.loads((folder / "run.json").read_text())["wandb_id"]
        == identity
        == load(folder / "last.ckpt")["ldm"]["wandb_id"]
    )
    for path in folder.glob("*.ckpt"):
        path.unlink()
    (folder / "run.json").write_bytes(damage)
    train_run(run_config("pixel", tmp_path, "trainer.max_steps=2", "sample.every=0"))


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path):
    (tmp_path / "a").write_text("before")
    with pytest.raises(OSError, match="full"), files.atomic_write(tmp_path / "a") as file:
        file.write("after")
        raise OSError(28, "full")
    assert snapshot(tmp_path).popitem()[1] == b"before" and len(snapshot(tmp_path)) == 1


# -- metrics.csv -----------------------------------------------------------------------------------
def rows_of(folder):
    """Without what the clock says."""
    with open(folder / "metrics.csv", newline="") as file:
        return [
            {k: v for k, v in row.items() if not k.startswith("speed/")}
            for row in csv.DictReader(file)
        ]


COINCIDE = ("trainer.max_steps=12", "trainer.validate=3", "trainer.save=3", "trainer.log=2")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, more",
    [
        pytest.param("pixel", ("sample.every=6",), id="automatic"),
        pytest.param("pixel", ("sample.every=0", "trainer.accumulate=2"), id="accumulated"),
        pytest.param("autoencoder", (GAN,), id="manual"),
        pytest.param("autoencoder", (GAN, "trainer.accumulate=2"), id="manual, accumulated"),
    ],
)
def test_rows_after_a_kill_where_saving_and_validation_coincide(tmp_path, monkeypatch, kind, more):
    """metrics.csv, best.ckpt and the discriminator's readings are those of the run that was never
    stopped.
    """
    monkeypatch.setattr(watching.DiscriminatorBalance.__init__, "__defaults__", (4,))
    whole = train_run(run_config(kind, tmp_path / "whole", *COINCIDE, *more))
    original, stops = watching.Throughput.on_train_batch_end, [5, 10]

    def die(self, trainer, module, *rest):
        original(self, trainer, module, *rest)
        if trainer.global_step == stops[0]:
            raise ZeroDivisionError(stops.pop(0))  # what was not written is lost, as by a kill

    monkeypatch.setattr(MetricsFile, "finalize", lambda *_: None)
    while stops:
        monkeypatch.setattr(watching.Throughput, "on_train_batch_end", die)
        with pytest.raises(ZeroDivisionError):
            train_run(run_config(kind, tmp_path / "parts", *COINCIDE, *more), resume=True)
    monkeypatch.undo()
    monkeypatch.setattr(watching.DiscriminatorBalance.__init__, "__defaults__", (4,))
    parts = train_run(run_config(kind, tmp_path / "parts", *COINCIDE, *more), resume=True)
    assert rows_of(parts) == rows_of(whole)
    assert [row["step"] for row in rows_of(whole) if row["val/loss"]] == ["3", "6", "9", "12"]
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = load(parts / name), load(whole / name)
        assert (
            ours["global_step"] == theirs["global_step"]
            and ours["callbacks"] == theirs["callbacks"]
        )
        assert largest_difference(ours["state_dict"], theirs["state_dict"]) == 0


DAMAGES = {
    "bytes in a row": lambda raw: raw[:-20] + b"\xff\x00\xfe" + raw[-17:],
    "words in a row": lambda raw: raw.replace(b"\n", b"\nx", 2)[: len(raw)],
    "a quote without end": lambda raw: raw[:-30] + b'"' + raw[-29:],
    "header": lambda raw: b"\xff\xff" + raw[2:],
    "empty": lambda raw: b"",
    "zeros": lambda raw: bytes(len(raw)),
    "not text": lambda raw: os.urandom(500),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_metrics_file_stops_no_resume(tmp_path, capsys, damage):
    table = MetricsFile(tmp_path, None)
    for step in range(40):
        table.log_metrics({"train/loss": 0.5, "train/lr": 1e-3}, step)
    table.save()
    path = tmp_path / "metrics.csv"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    resumed = MetricsFile(tmp_path, 30)
    resumed.log_metrics({"train/loss": 0.25, "val/loss": 1.0}, 30)
    resumed.save()
    rows = rows_of(tmp_path)
    assert rows[-1] == {"step": "30", "train/loss": "0.25", "val/loss": "1.0"} | (
        {"train/lr": ""} if len(rows) > 1 else {}
    )
    assert all(float(row["train/loss"]) == 0.5 and int(row["step"]) < 30 for row in rows[:-1])
    kept, said = (tmp_path / "metrics.damaged.csv").exists(), capsys.readouterr().out
    assert kept == (damage in ("header", "zeros", "not text")) and ("damaged" in said) == (
        damage != "empty"
    )
    if damage not in ("header", "zeros", "not text", "empty"):
        assert len(rows) >= 25


# -- refusals --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "kind, more, words",
    [
        (
            "pixel",
            ("trainer.options={gradient_clip_algorithm: x}",),
            "gradient_clip|Lightning refuses",
        ),
        ("pixel", ("data={name: ImageFolder, root: /nowhere}",), "/nowhere"),
        (
            "pixel",
            ("logger={kind: both, mode: offline}", "trainer.options={profiler: nothing}"),
            "profiler|Lightning refuses",
        ),
        ("latent", ("space.autoencoder=/nowhere",), "/nowhere"),
    ],
)
def test_a_refused_run_leaves_nothing(tmp_path, kind, more, words):
    with pytest.raises(Refusal, match=words):
        train_run(run_config(kind, tmp_path / "new", *more))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("found", [False, True])
def test_a_stage_1_that_is_refused_by_the_running_trainer_leaves_nothing(
    tmp_path, monkeypatch, stage1, found
):
    """W&B, TensorBoard and metrics.csv have begun by then; a run that is there stays as it was."""
    from ldm.training.diffusion import DiffusionModule

    more = (
        "logger={kind: both, mode: offline}",
        f"space.autoencoder={stage1}",
        "trainer.max_steps=4",
        "space.cache=false",
    )
    if found:
        train_run(run_config("latent", tmp_path / "x", *more))
    before = snapshot(tmp_path)

    def refuse(self):
        raise Refusal("no")

    monkeypatch.setattr(DiffusionModule, "on_fit_start", refuse)
    with pytest.raises(Refusal, match="no"):
        train_run(
            run_config("latent", tmp_path / "x", *more, "trainer.max_steps=8", "trainer.log=1"),
            resume=True,
        )
    changed = [path for path, raw in snapshot(tmp_path).items() if before.pop(path, None) != raw]
    assert not before and all(
        path.name == "debug-core.log" for path in changed
    )  # W&B's service, of this very process
    assert found or not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_disk_that_is_full_in_the_first_second(tmp_path):
    """One line, status 2; with room again the same command trains."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting needs root")
    try:
        (disk / "full").write_bytes(bytes(60 * 1024))
        one_line(
            script("train.py", "--config", TINY / "pixel.yaml", *overrides("pixel", disk)), "space"
        )
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        done = script("train.py", "--config", TINY / "pixel.yaml", *overrides("pixel", disk))
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(["umount", disk], check=True)
