"""Signals to a whole process group, as terminals, `timeout` and job systems send them: the run
saves and says so.
"""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import TINY, load, run_config
from processes import children, ended, start, wait_for

from ldm.errors import Stopped, ending
from ldm.system.batches import loader
from ldm.system.stops import STOPS, catch_stops, stops_held_back
from ldm.training import watching
from ldm.training.panels import pictures as panels
from ldm.training.run import train_run

pytestmark = pytest.mark.skipif(
    os.environ.get("LDM_TEST_SYSTEM") == "windows",
    reason="Windows has neither signals to a process group nor masks that workers inherit",
)
LONG = (
    "trainer.max_steps=100000",
    "trainer.validate=100000",
    "sample.every=100000",
    "trainer.save=3",
    "data.workers=2",
)


class Tens(torch.utils.data.Dataset):
    def __getitems__(self, rows):
        return {"x": torch.tensor([10 * row for row in rows])}


@pytest.fixture(params=["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def start_method(request):
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def test_data_workers_outlive_the_signals_that_stop_a_run(start_method):
    """From their first moment, also where they are started as new interpreters; they end when they
    are no longer needed.
    """
    rows = loader(
        Tens(), [[i, i + 1] for i in range(8)], 2, pin=False
    )._get_iterator()  # `iter` starts them with the first
    pids = [worker.pid for worker in rows._workers]
    for pid in pids:
        for number in STOPS:
            os.kill(pid, number)
    assert [batch["x"].tolist() for batch in rows] == [[10 * i, 10 * i + 10] for i in range(8)]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(STOPS)
    rows._shutdown_workers()
    assert not set(pids) & set(children(os.getpid()))


def test_a_signal_while_workers_start_is_raised_once_they_have():
    """The system may hand it to a thread that does not hold it back; within a fork Python would
    print it and go on.
    """
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    inside = []
    with catch_stops(), pytest.raises(Stopped, match="stopped before the first step by SIGTERM"):
        with stops_held_back():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)  # Python's handlers run between two of its instructions
            inside.append("went on")
        inside.append("went past")
    end.set()
    thread.join()
    assert inside == ["went on"]


def test_a_signal_to_run_and_workers_saves_the_step(tmp_path, monkeypatch):
    original = watching.Throughput.on_train_batch_end

    def then(self, trainer, module, *rest):
        original(self, trainer, module, *rest)
        if trainer.global_step == 3:
            workers = [
                p
                for p in children(os.getpid())
                if Path(f"/proc/{p}/stat").read_text().split()[2] != "Z"
            ]
            assert workers
            for pid in [*workers, os.getpid()]:
                os.kill(pid, signal.SIGUSR1)

    monkeypatch.setattr(watching.Throughput, "on_train_batch_end", then)
    before = [signal.getsignal(number) for number in STOPS]
    with pytest.raises(Stopped, match="stopped at step 3 by SIGUSR1; go on with --resume"):
        train_run(run_config("pixel", tmp_path, "data.workers=1"))
    assert load(tmp_path / "tiny-pixel" / "last.ckpt")["global_step"] == 3
    assert [signal.getsignal(number) for number in STOPS] == before


def test_a_signal_in_the_last_step_of_stage_1_stops_before_stage_2(tmp_path, monkeypatch):
    (tmp_path / "ae.yaml").write_text(
        (TINY / "autoencoder.yaml").read_text().replace("max_steps: 60", "max_steps: 2")
    )
    monkeypatch.setattr(
        watching.Throughput, "on_train_batch_end", lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    )
    monkeypatch.setattr(
        "ldm.training.saving.StopSignals.on_train_batch_start",
        lambda self, *_: setattr(self.stops, "training", True),
    )
    with pytest.raises(Stopped, match="stopped between the stages by SIGTERM"):
        train_run(run_config("latent", tmp_path, f"space.autoencoder={tmp_path}/ae.yaml"))
    assert load(tmp_path / "tiny-autoencoder" / "last.ckpt")["global_step"] == 2
    assert not (tmp_path / "tiny-latent").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, number",
    [
        ("autoencoder", signal.SIGINT),
        ("pixel", signal.SIGTERM),
        ("latent", signal.SIGUSR1),
        ("jets", signal.SIGINT),
    ],
)
def test_a_signal_to_the_group_loses_nothing(kind, number, stage1, tmp_path):
    """Every kind of run, with workers: the step it was in is saved."""
    more = LONG if kind != "autoencoder" else [key for key in LONG if not key.startswith("sample")]
    run = start(
        kind, tmp_path, *more, *([f"space.autoencoder={stage1}"] if kind == "latent" else [])
    )
    last = tmp_path / f"tiny-{kind}" / "last.ckpt"
    wait_for(lambda: last.exists() or run.poll() is not None)
    os.killpg(run.pid, number)
    line = ended(run, number, "stopped at step")
    assert f"stopped at step {load(last)['global_step']} " in line


@pytest.mark.slow
def test_a_signal_while_latents_are_encoded(stage1, tmp_path):
    """Before the first step there is nothing to save: it ends at once, and the next run begins
    where this one did.
    """
    run = start("latent", tmp_path, *LONG, f"space.autoencoder={stage1}", "data.batch_size=1")
    wait_for(lambda: [*(tmp_path / "latents").glob("*.partial")] or run.poll() is not None)
    os.killpg(run.pid, signal.SIGTERM)
    ended(run, signal.SIGTERM, "stopped before the first step")
    assert not [*tmp_path.rglob("*.ckpt")]


def test_a_second_ctrl_c_stops_at_once(tmp_path, monkeypatch):
    """In the middle of a panel, say; status 130, and what was saved before is whole. One that is
    handed on twice is one.
    """
    monkeypatch.setattr("ldm.system.stops.AGAIN", 0.0)

    def press(*_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # Python's handlers run between two of its instructions
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(
        panels.SamplePanel, "show", lambda self, trainer, *_: trainer.global_step == 4 and press()
    )
    with pytest.raises(
        Stopped, match="stopped at once by SIGINT; go on from the last checkpoint with --resume"
    ) as stop:
        train_run(run_config("pixel", tmp_path, "trainer.save=2", "trainer.validate=8"))
    assert (
        ending(stop.value)[0] == 130
        and load(tmp_path / "tiny-pixel" / "last.ckpt")["global_step"] == 2
    )
