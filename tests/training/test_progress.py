"""What a person sees of a long job: in a terminal of any width, in a file, of one process alone."""

import os
import re
import subprocess
import sys
import time

import pytest
from helpers import ROOT, TINY, overrides, run_config, script, without_key

from ldm.system.progress import Bar, clock, three
from ldm.training.run import train_run

pty = pytest.importorskip("pty")  # Windows has none

JOB = """
import time, warnings
from ldm.errors import Refusal, guard, say
from ldm.system import progress
progress.KEPT = 0.3
def main():
    bar = progress.Bar("stage 1 of 2", 20, "images", each=64, counted=" steps")
    bar.later = ("both", 40)
    for i in range(20):
        time.sleep(0.1)
        bar.more = [f"loss {progress.three(1 / (i + 1))}"]
        bar.update()
        if i == 9:
            say("step 10: val/loss 0.1")
        if i == 14:
            {end}
    bar.close()
    say("finished")
guard(main)
"""


def in_terminal(command, columns, **environment):
    """Run in a terminal of so many columns (0: it does not say): status, and what it was sent."""
    import fcntl
    import struct
    import termios

    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", columns and 24, columns, 0, 0))
        os.chdir(ROOT)
        environment = {k: v for k, v in without_key(**environment).items() if k != "COLUMNS"}
        os.execvpe(command[0], [*map(str, command)], environment)
    sent = b""
    try:
        while block := os.read(terminal, 1 << 16):
            sent += block
    except OSError:  # Linux's end of a terminal
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), sent.decode().replace("\r\n", "\n")


def looks(sent):
    """Everything that stood in a line of the terminal at some time, in order."""
    return [look for line in sent.split("\n") for look in line.split("\r")]


def screen(sent):
    """The lines that stand there in the end: each overwritten from its start, as terminals do."""
    lines = []
    for line in sent.split("\n"):
        shown = ""
        for look in line.split("\r"):
            shown = look + shown[len(look) :]
        lines.append(shown.rstrip())
    return lines


def job(end="pass"):
    return [sys.executable, "-c", JOB.replace("{end}", end)]


@pytest.mark.parametrize("columns", [80, 40, 20, 0])
def test_a_bar_fits_the_terminal_and_nothing_is_glued_to_it(columns):
    status, sent = in_terminal(job(), columns)
    assert status == 0 and "\x1b" not in sent
    assert screen(sent) == ["step 10: val/loss 0.1", "finished", ""]
    bars = [look for look in looks(sent) if look.startswith("stage 1 of 2")]
    assert 4 <= len(bars) <= 10  # twice a second, and what stands below a line that is written
    assert max(map(len, bars)) < (columns or 80)
    whole = r"stage 1 of 2 \|[#█▏▎▍▌▋▊▉ \d]{6,}\| 1\d/20 00:0\d<00:0\d"
    if columns != 20:
        assert any(re.match(whole, bar) for bar in bars)
    if columns in (80, 0):
        end = r", loss 0\.\d{3,4}, \d{3} images/s, both <00:0\d$"
        assert any(re.match(whole + end, bar) for bar in bars)


@pytest.mark.parametrize(
    "end, status, last",
    [
        ("raise Refusal('too little')", 2, "error: too little"),
        ("raise ValueError('a bug')", 1, "ValueError: a bug"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", 130, "error: interrupted"),
    ],
)
def test_an_end_begins_on_a_line_of_its_own(end, status, last):
    found, sent = in_terminal(job(end), 80)
    lines = screen(sent)
    assert found == status and last in lines and "stage 1 of 2" not in "".join(lines)
    if status == 1:
        assert "Traceback (most recent call last):" in lines


def test_a_file_has_plain_lines_one_every_so_often():
    done = subprocess.run(job(), capture_output=True, text=True, cwd=ROOT, env=without_key())
    assert done.returncode == 0 and done.stderr == ""
    assert not re.search(r"[^\n -~]", done.stdout)
    *lines, last = done.stdout.splitlines()
    assert last == "finished" and "step 10: val/loss 0.1" in lines
    said = [line for line in lines if line.startswith("stage")]
    assert 4 <= len(said) <= 7  # in 2 s
    form = r"stage 1 of 2: \d+/20 steps, [012] s so far, [012] s left \(\d s for both\), loss 0\.\d+, \d+ images/s"
    assert all(re.fullmatch(form, line) for line in said)


def test_time_passes_between_two_looks(capsys):
    """The loss is read where `due`, and it waits for a GPU: not every step."""
    bar, begun, due = Bar("x", 10**6, "images"), time.time(), 0
    bar.mininterval, bar.delay = 0.05, 0
    while time.time() < begun + 0.5:
        due += bar.due()
        bar.update()
    assert bar.n > 1000
    assert 1 <= due <= 10


def test_numbers_and_times_are_short():
    assert [three(x) for x in (0.5, 0.09123, 1.5, 512.3, 12345.0, 1e-5, float("nan"))] == [
        "0.500", "0.0912", "1.50", "512", "12345", "1.00e-05", "nan",
    ]  # fmt: skip
    assert [clock(s) for s in (0, 59.9, 3599, 3600, 16320, 187200)] == [
        "00:00", "00:59", "59:59", "1h00m", "4h32m", "2d04h",
    ]  # fmt: skip


def test_a_run_says_its_figures_the_best_and_what_it_wrote(tmp_path, capsys):
    """Also after a resume: the best is the best of before."""
    length = lambda n: (f"trainer.max_steps={n}", "trainer.validate=4", "trainer.save=4")
    train_run(run_config("autoencoder", tmp_path, *length(8), "optim.lr=3e-2"))
    folder, out = tmp_path / "tiny-autoencoder", capsys.readouterr()
    assert out.err == "" and "\r" not in out.out
    lines = out.out.splitlines()
    best = r"step 4: val/psnr (\d+\.\d+), the best so far"
    assert any(re.fullmatch(best, line) for line in lines)
    assert f"step 4: saved {folder}/last.ckpt, again every 4 steps" in lines
    for step in (0, 4, 8):
        picture = folder / f"samples/reconstructions-{step:07d}.png"
        assert f"step {step}: wrote {picture}" in lines and picture.exists()
    assert [line for line in lines if re.fullmatch(r"training: 8 steps in \d+ s", line)]
    # rates that ruin it
    train_run(run_config("autoencoder", tmp_path, *length(12), "optim.lr=9"), resume=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "val/psnr" in line]
    found = re.fullmatch(
        r"step 12: val/psnr -?\d+\.\d+, the best is (\d+\.\d+) at step (\d)", *said
    )
    assert found and found[2] in "48" and float(found[1]) > 0


@pytest.mark.slow
def test_training_in_a_terminal(tmp_path):
    """Both stages by the script, 80 columns."""
    given = overrides("latent", tmp_path, "stage1.trainer.max_steps=60", "trainer.max_steps=30")
    command = [sys.executable, "train.py", "--config", TINY / "latent.yaml", *given]
    status, sent = in_terminal(command, 80)
    assert status == 0 and "\x1b" not in sent
    for ours in ("stage 1 of 2 |", "stage 2 of 2 |", " images/s", "both <"):
        assert ours in sent
    for stage, steps in (1, 60), (2, 30):
        whole = rf"stage {stage} of 2 \|.*\| \d+/{steps} 00:\d\d<00:\d\d, loss \d[\d.]+, [\d.]+ images/s"
        assert re.search(whole, sent), stage
    for theirs in ("Epoch", "v_num", "it/s", "Validation", "0/?", "Warning", "warning", "Tip"):
        assert theirs not in sent
    bars = [look for look in looks(sent) if re.match("stage . of 2[ ,]", look)]
    assert max(map(len, bars)) < 80
    lines = screen(sent)
    assert not any("|" in line for line in lines)
    assert "stage 2 of 2: tiny-latent" in lines and lines[-2].startswith("finished. To sample:")
    assert any(re.match(r"step 4: val/loss \d\.\d+, the best so far$", line) for line in lines)


@pytest.mark.slow
def test_evaluation_in_a_terminal(pixel_run, tmp_path):
    """The real pictures' features and the samples, step by step: one batch is more than one look."""
    given = (
        "--count",
        60,
        "--steps",
        50,
        "--output",
        tmp_path / "out",
        "--cache",
        tmp_path / "cache",
    )
    command = [sys.executable, "evaluate.py", "--checkpoint", pixel_run, *given]
    status, sent = in_terminal(command, 80)
    assert status == 0 and "\x1b" not in sent
    assert "features of Digits train |" in sent and not any("|" in line for line in screen(sent))
    assert re.search(r"sampling \|.*\| [1-5]\d/60 00:\d\d<00:\d\d, [\d.]+ images/s", sent)


@pytest.mark.ddp
def test_one_of_two_processes_speaks(tmp_path):
    given = overrides("pixel", tmp_path, "trainer.devices=2", "trainer.max_steps=8")
    done = script("train.py", "--config", TINY / "pixel.yaml", *given)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and not re.search(r"[\r\x1b]", done.stdout)
    lines = [line for line in done.stdout.splitlines() if line]
    assert len(lines) == len(set(lines)) and sum("step 4: val/loss" in line for line in lines) == 1
