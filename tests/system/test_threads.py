"""The number of threads: what is measured is obeyed, what is asked for is kept."""

import os
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, TINY, load, overrides, run_config

from ldm.system import threads
from ldm.system.threads import Chooser, rates
from ldm.training.run import train_run


@pytest.fixture(autouse=True)
def one_thread_again():
    yield
    threads.fixed(1)


def chooser(most, table):
    """One that finds the table's rates, whatever it has become since."""
    torch.set_num_threads(most)
    return Chooser(most, lambda _: dict(table))


def test_every_number_that_is_tried_is_measured():
    assert {n: sorted(rates(n)) for n in (1, 2, 3)} == {1: [1], 2: [1, 2], 3: [1, 2, 3]}
    assert min(rates(2).values()) > 0


@pytest.mark.parametrize(
    "table, taken",
    [
        ({1: 9e3, 2: 17e3}, 2),  # an idle machine
        ({1: 9e3, 2: 1e2}, 1),  # another process on one of two cores
        ({1: 9e3, 2: 8.5e3}, 2),  # no difference to speak of: what it was
        ({1: 1e3, 2: 2e3, 4: 4e3, 7: 7e3, 8: 50.0}, 7),  # on one of eight
    ],
)
def test_the_quickest_number_is_taken(table, taken, capsys):
    found = chooser(max(table), table)
    found.check()
    assert found.now == torch.get_num_threads() == taken
    assert capsys.readouterr().out.count(f"threads: {taken} of {max(table)} for now") == (
        taken < max(table)
    )


def test_it_is_measured_again_as_time_goes_by_and_the_number_comes_back(capsys):
    table = {1: 9e3, 2: 1e2}
    found = chooser(2, table)
    found.tick()
    assert found.now == 2  # it is not time yet
    found.checked -= 11
    found.tick()
    assert found.now == 1
    table[2] = 17e3
    found.tick()
    assert found.now == 1
    table[2] = 1e2
    waits = []
    for _ in range(6):
        found.check()
        waits.append(found.wait)
    assert waits == [2, 4, 8, 10, 10, 10]
    table[2] = 17e3
    found.checked -= 11
    found.tick()
    assert found.now == torch.get_num_threads() == 2
    found.checked, table[2] = found.checked - 11, 1e2
    found.tick()
    assert capsys.readouterr().out.count("threads:") == 1  # said once


def test_it_is_measured_again_at_once_when_the_rate_falls():
    table = {1: 9e3, 2: 17e3}
    found = chooser(2, table)
    found.check()
    table[2], found.checked, found.wait = 1e2, found.checked - 2, 10
    found.quickest = 0.5
    found.last -= 0.7
    found.tick()
    assert found.now == 2  # 1.4 times the quickest piece
    found.last -= 1.2
    found.tick()
    assert found.now == 1  # 2.4 times


def test_what_lightning_gives_a_process_is_the_most():
    found = chooser(4, {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0})
    torch.set_num_threads(1)
    found.tick()
    assert found.most == 1 and torch.get_num_threads() == 1


def test_a_number_that_is_asked_for_is_kept(tmp_path, monkeypatch):
    folder = train_run(run_config("pixel", tmp_path, "trainer.threads=2", "trainer.max_steps=2"))
    assert torch.get_num_threads() == 2 and load(folder / "last.ckpt")["ldm"]["threads"] == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("LDM_THREADS", raising=False)
    threads.auto()
    assert threads._chooser is None and torch.get_num_threads() == 2


def test_a_resumed_run_begins_with_its_checkpoints_number(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    threads.auto()
    for number in (1, 2):
        threads.begin_with(number)
        assert torch.get_num_threads() == number
    for strange in (10**9, 0, -1, "2", None, 1.5):
        threads.begin_with(strange)
        assert torch.get_num_threads() == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked, kept",
    [("trainer.threads=0", {1, 2}), ("trainer.threads=2", {2}), ("trainer.threads=1", {1})],
)
def test_training_chooses_where_nothing_is_said(tmp_path, asked, kept):
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OMP", "LDM_THREADS"))
    }
    more = overrides("pixel", tmp_path, "trainer.max_steps=4", asked)
    command = [sys.executable, "train.py", "--config", TINY / "pixel.yaml", *more]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "tiny-pixel/last.ckpt")["ldm"]["threads"] in kept
