"""Faults of the world around a run: each is one line, and nothing is lost."""

import csv
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import ROOT, TINY, largest_difference, load, overrides, run_config, script, table_of
from processes import children, port, wait_for

from ldm.errors import Refusal
from ldm.pictures.folders import ImageFolder
from ldm.training import watching
from ldm.training.boards import loggers
from ldm.training.run import train_run


def start(folder, *more, **environment):
    """train.py on the tiny pixel model, in the background; saves every 5 steps."""
    command = [
        sys.executable,
        "train.py",
        "--config",
        str(TINY / "pixel.yaml"),
        *overrides("pixel", folder)[:2],
        *more,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"} | environment
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_killed_data_worker_stops_the_run_cleanly(tmp_path):
    """kill -9 of a loader's worker: one line, status 2; resumed without workers it ends with the
    same bits.
    """
    more = ("data.workers=1", "trainer.max_steps=400", "trainer.save=5", "logger.mode=disabled")
    run = start(tmp_path, *more)
    wait_for((tmp_path / "tiny-pixel" / "previous.ckpt").exists)
    workers = [p for p in children(run.pid) if "train.py" in Path(f"/proc/{p}/cmdline").read_text()]
    os.kill(workers[0], signal.SIGKILL)
    _, said = run.communicate(timeout=120)
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    assert (
        run.returncode == 2
        and len(lines) == 1
        and "a data worker died" in lines[0]
        and "Traceback" not in said
    ), said
    step = load(tmp_path / "tiny-pixel" / "last.ckpt")["global_step"]
    goal = f"trainer.max_steps={step + 10}"
    done = script(
        "train.py",
        "--config",
        TINY / "pixel.yaml",
        "--resume",
        *overrides("pixel", tmp_path, "trainer.save=5", goal),
    )
    assert done.returncode == 0, done.stderr
    whole = train_run(run_config("pixel", tmp_path / "whole", "trainer.save=5", goal))
    found = load(tmp_path / "tiny-pixel" / "last.ckpt")
    assert largest_difference(found["state_dict"], load(whole / "last.ckpt")["state_dict"]) == 0


def test_a_connection_that_is_reset_is_a_workers_only_where_there_are_workers(
    tmp_path, monkeypatch
):
    """What reaches us of a worker killed while it hands over a batch; without workers it is
    something else's.
    """

    def reset(self, *_):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(watching.Throughput, "on_train_batch_end", reset)
    with pytest.raises(Refusal, match="a data worker died at step 1"):
        train_run(run_config("pixel", tmp_path / "with", "data.workers=1"))
    with pytest.raises(ConnectionResetError):
        train_run(run_config("pixel", tmp_path / "without"))


@pytest.mark.slow
def test_wandb_lost_in_the_middle_of_a_run(tmp_path):
    """The server is killed once the run streams to it: training ends as ever, in bounded time, and
    says how to upload.
    """

    number = port()
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "wandb_server.py"), str(number)],
        stdout=subprocess.PIPE,
        text=True,
    )
    seen = []
    threading.Thread(target=lambda: seen.extend(server.stdout), daemon=True).start()
    key = {
        "WANDB_API_KEY": "0" * 40,
        "WANDB_BASE_URL": f"http://127.0.0.1:{number}",
        "WANDB_FINISH_TIMEOUT": "5",
    }
    more = ("logger.mode=online", "trainer.max_steps=60", "trainer.save=5")
    run = start(tmp_path, *more, **key)
    try:
        wait_for(
            lambda: (
                any("graphql" in line for line in seen)
                and (tmp_path / "tiny-pixel" / "previous.ckpt").exists()
            )
        )
    finally:
        server.kill()
    out, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert "to upload the rest: wandb sync" in out and "Traceback" not in said
    assert load(tmp_path / "tiny-pixel" / "last.ckpt")["global_step"] == 60
    assert len(list((tmp_path / "tiny-pixel" / "wandb").glob("run-*/*.wandb"))) == 1


def test_metrics_file_is_whole_at_any_moment(tmp_path, monkeypatch):
    """A kill while the header is rewritten, or in the middle of a row, or right after a resume
    began: no row is lost.
    """
    folder = tmp_path
    table = loggers.MetricsFile(folder, None)
    table.log_metrics({"train/loss": 1.0}, 1)
    table.log_metrics({"train/loss": 2.0}, 2)
    table.save()
    before = (folder / "metrics.csv").read_text()
    monkeypatch.setattr(
        csv.DictWriter, "writerows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    table.log_metrics({"val/loss": 3.0}, 3)
    with pytest.raises(KeyboardInterrupt):
        table.save()
    assert (folder / "metrics.csv").read_text() == before
    monkeypatch.undo()
    with open(folder / "metrics.csv", "a") as file:
        file.write("1")  # cut short: of 1234, say
    loggers.MetricsFile(folder, 3)
    rows = table_of(folder)
    assert [row["train/loss"] for row in rows] == ["1.0", "2.0"]


@pytest.mark.parametrize(
    "real, fake, word", [(9.0, -9.0, "it has won"), (0.0, 0.0, "chance"), (0.5, -0.5, None)]
)
def test_saturated_discriminator_is_reported_once(tmp_path, monkeypatch, capsys, real, fake, word):
    """The hinge loss of a discriminator that has won is 0, of one that sees nothing 1; in between
    there is no alert.
    """
    from ldm.training import autoencoder

    clean = autoencoder.hinge_loss
    fixed = lambda a, b: clean(0 * a + real, 0 * b + fake)
    monkeypatch.setattr(autoencoder, "hinge_loss", fixed)
    monkeypatch.setattr(watching.DiscriminatorBalance.__init__, "__defaults__", (5,))
    gan = "discriminator={weight: 0.5, warmup: 5, channels: 8, layers: 1}"
    folder = train_run(
        run_config("autoencoder", tmp_path, gan, "trainer.max_steps=16", "trainer.log=1")
    )
    said = [
        line for line in capsys.readouterr().out.splitlines() if "discriminator saturated" in line
    ]
    assert len(said) == (word is not None) and all(word in line for line in said)
    flags = [
        float(row["discriminator/saturated"])
        for row in table_of(folder)
        if row.get("discriminator/saturated")
    ]
    assert max(flags) == (word is not None)


def test_health_panel_names_all_that_it_should(pixel_run):
    with open(pixel_run / "metrics.csv") as file:
        names = set(next(csv.reader(file)))
    wanted = {
        "train/grad_norm",
        "train/grad_norm_clipped",
        "speed/waiting_share",
        "speed/memory_gb",
        "speed/images_per_second",
    }
    assert wanted | {f"loss_by_time/{i}" for i in range(8)} <= names


def test_picture_that_becomes_unreadable_in_mid_run(tmp_path, capsys):
    """A file that was whole when the run began: named once, left out of its batches, training goes
    on to its end.
    """
    from PIL import Image

    for i in range(40):
        Image.new("L", (8, 8), i * 6).save(tmp_path / f"{i:02}.png")
    data = f"data={{name: ImageFolder, root: {tmp_path}, size: 8, batch_size: 8, workers: 0}}"
    clean = ImageFolder.load

    def load_then_break(self):
        images = clean(self)
        for path in sorted(tmp_path.glob("*.png"))[:30]:
            path.write_bytes(b"not a picture any more")
        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFolder, "load", load_then_break)
        folder = train_run(run_config("pixel", tmp_path / "run", data, "condition=none"))
    assert load(folder / "last.ckpt")["global_step"] == 8
    out = capsys.readouterr()
    assert "cannot be read" in out.out + out.err
