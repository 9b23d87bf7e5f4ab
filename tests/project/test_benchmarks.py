"""The benchmarks that compare two things run, and their JSON holds what was asked."""

import json
import subprocess
import sys

import pytest
from helpers import ROOT, TINY


def benchmark(name, output, *flags):
    """Run a benchmark as a user does; what it wrote."""
    command = [
        sys.executable,
        "-m",
        f"benchmarks.{name}",
        "--output",
        str(output),
        *map(str, flags),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())


STARTED = """
import contextlib, io, pkgutil, runpy, sys
import benchmarks
assert len([*pkgutil.iter_modules(benchmarks.__path__)]) > 25
for one in pkgutil.iter_modules(benchmarks.__path__):
    if one.name in ("clock", "judged"):  # no commands: what the others share
        continue
    sys.argv, said = [one.name, "--help"], io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_module(f"benchmarks.{one.name}", run_name="__main__")
    except SystemExit as left:
        assert not left.code, (one.name, left.code)
    except Exception as error:
        raise AssertionError(f"benchmarks.{one.name} does not start") from error
    else:
        raise AssertionError(f"benchmarks.{one.name} has no --help")
    assert "usage:" in said.getvalue(), one.name
"""


@pytest.mark.slow
def test_every_benchmark_starts():
    """`python -m benchmarks.NAME --help` of all of them, in one process."""
    done = subprocess.run([sys.executable, "-c", STARTED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_benchmarks_read_their_flags_as_the_scripts_do():
    """Argparse's own parser takes `--out` for `--output`, and a typo is three lines."""
    files = [*(ROOT / "benchmarks").rglob("*.py")]
    own = [f.name for f in files if "ArgumentParser(" in f.read_text()]
    assert len(files) > 25 and own == []


@pytest.mark.slow
def test_sampling_does_the_work_of_diffusers(tmp_path):
    """The pictures that are timed are the same, and so is the number of rounds that count."""
    flags = (
        "--config",
        TINY / "pixel.yaml",
        "--shape",
        1,
        8,
        8,
        "--batch",
        4,
        "--steps",
        3,
        "--rounds",
        3,
    )
    found = benchmark("sampling", tmp_path / "sampling.json", *flags)
    assert found["largest_difference"] <= 1
    assert all(
        len(each["ratios"]) == 3 and min(each["ratios"]) > 0 for each in found["ratios"].values()
    )
    assert found["machine"]["threads"] == 1 and found["machine"]["versions"]["torch"]


@pytest.mark.slow
def test_latent_cache_holds_the_whole_set_and_spares_the_encoder(stage1, tmp_path):
    """A step on cached latents costs less than one that encodes, by the smallest of encoders too."""
    flags = (
        "--autoencoder",
        stage1,
        "--config",
        TINY / "latent.yaml",
        "--rounds",
        3,
        "--steps",
        10,
        "--size",
        32,
    )
    found = benchmark("latent_cache", tmp_path / "cache.json", *flags)
    moments, label, index, checksum = (
        2 * 2 * 4 * 4 * 2,
        8,
        8,
        4,
    )  # mean and log-variance, 2 channels, 4 x 4, float16
    assert found["cache"]["images"] == 1500
    assert found["cache"]["bytes_an_image"] == moments + label + index + checksum
    assert min(map(len, found["seconds_an_image"].values())) == 3
    assert found["ratios"]["cached over encoding, images/s"]["median"] > 0.9
    assert found["large"]["bytes_an_image"] == 2 * 2 * 2 * 4 * 8 * 8


@pytest.mark.slow
def test_the_first_hour_of_a_gpu_rehearses_on_the_cpu(tmp_path):
    """Every job of the three parts at toy size; none fails, and the table has a row of each."""
    command = [sys.executable, "-m", "benchmarks.gpu", "rehearse", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    sections = {row["section"] for row in rows}
    assert {"eager", "compiled", "GPU against CPU", "waiting", "resumed", "training"} <= sections
    assert {"sampling", "encoding", "latent cache", "jets", "profile", "networks"} <= sections
    assert {"against diffusers", "tasks", "likelihood"} <= sections
    values = {(row["section"], row["what"]): row["values"] for row in rows}
    assert values["resumed", "pixel"] == {"largest difference of a weight": 0}
    assert values["compiled", "pixel"]["graphs"] > 0
    ratio = values["training", "rehearsal, batch 4, 32-true: bare"]["ours over bare"]
    assert 0.05 < ratio < 2 and not any("FAILED" in row["values"] for row in rows)
    table = (tmp_path / "scale.md").read_text()
    assert all(f"| {row['what']} |" in table for row in rows) and "| jobs |" in table
