"""Processes that tests start, watch and signal."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from helpers import ROOT, TINY, overrides


def wait_for(condition, seconds=120):
    """Poll until it holds; returns what it gave."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def children(pid):
    """Processes whose parent is pid."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                    found.append(int(entry.name))
            except (OSError, ValueError, IndexError):
                continue
    return found


def start(kind, folder, *more):
    """train.py in a process group of its own."""
    command = [
        sys.executable,
        "train.py",
        "--config",
        str(TINY / f"{kind}.yaml"),
        *overrides(kind, folder),
        *more,
    ]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


def ended(run, number, at):
    """It ended with 128 + the signal's number and one line that says so; returns that line."""
    try:
        said = run.communicate(timeout=120)[1]
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 128 + number, said
    lines = [
        line for line in re.split(r"[\r\n]+", said) if re.search("stopped|error|memory|died", line)
    ]
    assert len(lines) == 1 and at in lines[0] and f"by {signal.Signals(number).name}" in lines[0], (
        said
    )
    assert "Traceback" not in said
    return lines[0]


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
