"""docs/extending.md as it is written: a schedule, a solver, a space and a task are added to a copy
of the project.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from docs_place import quiet
from helpers import ROOT, grey, load
from pages import blocks, commands

from ldm import config

# `python FILE ...` of each line, one after the other in one process: torch is imported once
ONE_BY_ONE = """
import json, runpy, sys
for line in sys.stdin:
    sys.argv = json.loads(line)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            sys.exit(f"{sys.argv}: {end.code}")
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_worked_examples(tmp_path):
    """docs/extending.md put into a copy of the project: trains, samples, and each addition is at
    most 20 lines.
    """
    page = ROOT / "docs" / "extending.md"
    for name in ("ldm", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "sample.py"):
        shutil.copy(ROOT / name, tmp_path)
    for before, code in blocks(page, "python"):
        target = tmp_path / re.findall(r"`([\w/]+\.py)`", before)[-1]
        assert len(code.splitlines()) <= (20 if target.exists() else 60), code
        target.write_text((target.read_text() + "\n\n" if target.exists() else "") + code + "\n")
    for before, code in blocks(page, "diff"):
        target = tmp_path / re.findall(r"`([\w/]+\.py)`", before)[-1]
        for old, new in re.findall(
            r"((?:^-[^\n]*\n)+)((?:^\+[^\n]*(?:\n|\Z))+)", code, re.MULTILINE
        ):
            old, new = (
                "".join(f"{line[1:]}\n" for line in part.splitlines()) for part in (old, new)
            )
            assert target.read_text().count(old) == 1, f"{target}: {old}"
            target.write_text(target.read_text().replace(old, new))
    path = tmp_path / "configs" / "digits" / "pixel.yaml"
    pixels = config.load(path)
    pixels.trainer.__dict__ |= dict(max_steps=30, validate=30, save=30, accelerator="cpu")
    pixels.network.__dict__ |= dict(channels=(16, 16), layers=1, attention=())
    pixels.sample.__dict__ |= dict(count=4, every=30, steps=4)
    pixels.logger.mode = "disabled"
    config.save_config(pixels, path)
    env = quiet() | {"PYTHONPATH": str(tmp_path)}
    lines = [json.dumps(shlex.split(command.text)[1:]) for command in commands(page)]
    done = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE],
        input="\n".join(lines),
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name, key, value in (
        ("log-linear", "schedule", "LogLinear"),
        ("patches", "space", "Patches"),
        ("dit", "network", "DiT"),
    ):
        state = load(tmp_path / "checkpoints" / name / "last.ckpt")
        assert state["ldm"]["config"][key]["name"] == value
    assert "Midpoint" in (tmp_path / "samples" / "midpoint" / "settings.json").read_text()
    picture = grey(tmp_path / "samples" / "mirrored" / "00000003-00000000.png")
    # LogLinear leaves a little noise at t = 0, and each half has its own
    assert picture.std() > 10 and np.abs(picture - picture[:, ::-1]).max() <= 8
