"""Where a run is shown: W&B's and TensorBoard's own files read back, and boards that fail in the
middle of a run.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, TINY, inspect, load, overrides, pixels, run_config, script, table_of
from PIL import Image
from processes import port

from ldm.errors import NotFinite, Refusal, Stopped
from ldm.pictures.labels import GAP, side_of
from ldm.training import watching
from ldm.training.boards.loggers import where_shown
from ldm.training.run import train_run

AXIS = "trainer/global_step"


def of_kind(records, kind):
    return [record[kind] for record in records if record["type"] == kind]


def history(records, key):
    """{step on the axis: value} of a logged key."""
    rows = [row["item"] for row in of_kind(records, "history")]
    return {row[AXIS]: row[key] for row in rows if key in row}


@pytest.fixture(scope="module")
def both_stages(tmp_path_factory):
    """Two stages of one call, on W&B and TensorBoard, checkpoints as artifacts; stage 2 goes on
    after a stop.
    """
    output = tmp_path_factory.mktemp("boards")
    (output / "ae.yaml").write_text((TINY / "autoencoder.yaml").read_text())
    more = (
        "logger={kind: both, mode: offline, log_model: true, tags: [try]}",
        f"space.autoencoder={output}/ae.yaml",
        "sample.trajectory=1",
    )
    return train_run(run_config("latent", output, *more))


# -- W&B -------------------------------------------------------------------------------------------
def test_media_of_wandb_step_by_the_training_step(both_stages):
    files, records = inspect(both_stages)
    for key, suffix in (
        ("pictures/samples", "png"),
        ("pictures/trajectory", "png"),
        ("pictures/trajectory-animation", "gif"),
    ):
        shown = history(records, f"{key}.path")
        assert list(shown) == [0, 4, 8], key
        name = {"pictures/samples": "samples"}.get(key, "trajectory")
        for step, path in shown.items():
            ours = both_stages / "samples" / f"{name}-{step:07d}.{suffix}"
            assert np.array_equal(pixels(files / path), pixels(ours))
    metrics = of_kind(records, "metric")
    assert {"glob_name": "*", "step_metric": AXIS} in [
        {k: m.get(k) for k in ("glob_name", "step_metric")} for m in metrics
    ]


def test_sample_table_of_wandb(both_stages):
    """Tables are artifacts: every picture is there, in its row, and another one at another step."""
    records = inspect(both_stages)[1]
    assert list(history(records, "tables/samples.path")) == [0, 4, 8]
    seen = set()
    tables = [
        a["manifest"]["contents"] for a in of_kind(records, "artifact") if a["type"] == "run_table"
    ]
    for step, contents in zip((0, 4, 8), tables, strict=True):
        files = {content["path"]: Path(content["local_path"]) for content in contents}
        table = json.loads(files["tables/samples.table.json"].read_text())
        assert table["columns"] == [
            "picture",
            "seed",
            "label",
            "prompt",
            "solver",
            "steps",
            "guidance",
        ]
        assert [row[1:] for row in table["data"]] == [
            [i, str(i), "", "DDIM", 4, 1.5] for i in range(10)
        ]
        grid = np.asarray(
            Image.open(both_stages / "samples" / f"samples-{step:07d}.png")
        )  # one column per class, here one row
        side = side_of(8, 10)  # of 8 px in the grid
        for i, (cell, *_) in enumerate(table["data"]):
            picture = np.asarray(Image.open(files[cell["path"]]).convert("RGB"))
            left, top = GAP + i * (side + GAP), len(grid) - GAP - side
            shown = grid[top : top + side, left : left + side]
            assert np.array_equal(picture[::8, ::8], shown[:: side // 8, :: side // 8])
            seen.add(cell["sha256"])
    assert len(seen) == 30


def test_summaries_of_wandb_keep_the_best(both_stages):
    for folder, key, best in (
        (both_stages.parent / "tiny-autoencoder", "val/psnr", max),
        (both_stages, "val/loss", min),
    ):
        records = inspect(folder)[1]
        values = list(history(records, key).values())
        summary = {}
        for update in of_kind(records, "summary"):
            summary |= update["update"]
        assert len(values) == 2 and summary[key] == {
            best.__name__: best(values),
            "last": values[-1],
        }


def test_the_stages_of_one_call_are_one_group(both_stages):
    about = {}
    for name in ("tiny-autoencoder", "tiny-latent"):
        (about[name],) = of_kind(inspect(both_stages.parent / name)[1], "run")
    assert {run["run_group"] for run in about.values()} == {"tiny-latent"}
    assert [run["job_type"] for run in about.values()] == ["autoencoder", "diffusion"]
    assert [run["tags"] for run in about.values()] == [["try", "autoencoder"], ["try", "diffusion"]]
    ids = [
        json.loads((both_stages.parent / name / "run.json").read_text())["wandb_id"]
        for name in about
    ]
    assert [run["run_id"] for run in about.values()] == ids and ids[0] != ids[1]


def test_checkpoints_as_artifacts(both_stages):
    """Each with its alias and its file's name; the copy that waits to be synced lies in the run's
    folder.
    """
    for folder in (both_stages, both_stages.parent / "tiny-autoencoder"):
        found = [a for a in of_kind(inspect(folder)[1], "artifact") if a["type"] == "model"]
        contents = {
            alias: a["manifest"]["contents"]
            for a in found
            for alias in a["aliases"]
            if alias != "latest"
        }
        assert {key: [c["path"] for c in value] for key, value in contents.items()} == {
            "best": ["best.ckpt"],
            "last": ["last.ckpt"],
        }
        for alias, (content,) in contents.items():
            copy = Path(content["local_path"])
            assert (
                copy.is_relative_to(folder)
                and copy.read_bytes() == (folder / f"{alias}.ckpt").read_bytes()
            )
    assert "WANDB_DATA_DIR" not in os.environ


@pytest.mark.slow
def test_a_resumed_run_is_the_same_run_of_wandb(tmp_path):
    for steps, resume in ((4, False), (8, True)):
        folder = train_run(
            run_config("pixel", tmp_path, "logger.mode=offline", f"trainer.max_steps={steps}"),
            resume,
        )
    identity = json.loads((folder / "run.json").read_text())["wandb_id"]
    parts = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(parts) == 2 and all(
        f"-{identity}" in path.name for path in parts
    )  # -1 follows in one second


# -- TensorBoard and metrics.csv -------------------------------------------------------------------
def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(
        str(folder / "tensorboard"), size_guidance={"images": 0, "tensors": 0, "scalars": 0}
    ).Reload()


def test_tensorboard_has_every_number_picture_and_table(both_stages, tmp_path):
    for folder in (both_stages, both_stages.parent / "tiny-autoencoder"):
        board, rows = events(folder), table_of(folder)
        names = rows[0].keys() - {"step", "epoch"}
        assert names <= set(board.Tags()["scalars"])
        for name in names:
            written = {int(row["step"]): float(row[name]) for row in rows if row[name]}
            assert {event.step: event.value for event in board.Scalars(name)} == pytest.approx(
                written
            )
        ours = {path.name for path in (folder / "samples").iterdir()}
        for tag in board.Tags()["images"]:
            name = tag.removeprefix("pictures/").removesuffix("-animation")
            for event in board.Images(tag):
                file = (
                    folder
                    / "samples"
                    / f"{name}-{event.step:07d}.{'gif' if 'animation' in tag else 'png'}"
                )
                (tmp_path / "x").write_bytes(event.encoded_image_string)
                theirs, mine = (pixels(path, "RGB") for path in (tmp_path / "x", file))
                assert np.array_equal(theirs, mine)
                ours.discard(file.name)
        assert not ours
    (table,) = [events(both_stages).Tensors("tables/samples/text_summary")[-1]]
    lines = table.tensor_proto.string_val[0].decode().splitlines()
    assert (
        lines[0] == "| seed | label | prompt | solver | steps | guidance |"
        and lines[-1] == "| 9 | 9 |  | DDIM | 4 | 1.5 |"
    )


@pytest.mark.slow
def test_tensorboard_goes_on_where_a_resumed_run_does(tmp_path, monkeypatch):
    """Stopped in the middle of a run, behind its last checkpoint: what is done again is there once."""
    more = ("logger.kind=tensorboard", "trainer.log=1", "sample.every=0")
    original = watching.Throughput.on_train_batch_end

    def fail(self, trainer, module, *rest):
        original(self, trainer, module, *rest)
        if trainer.global_step == 6:
            raise ZeroDivisionError

    monkeypatch.setattr(watching.Throughput, "on_train_batch_end", fail)
    with pytest.raises(ZeroDivisionError):
        train_run(run_config("pixel", tmp_path, *more))
    monkeypatch.undo()
    folder = train_run(run_config("pixel", tmp_path, *more), resume=True)
    assert (
        len(list((folder / "tensorboard").glob("events.*"))) == 2
        and not (folder / "wandb").exists()
    )
    steps = [event.step for event in events(folder).Scalars("train/loss")]
    assert sorted(set(steps)) == list(range(8)) and [s for s in steps if steps.count(s) > 1] in (
        [],
        [4, 4],
    )
    assert [event.step for event in events(folder).Scalars("val/loss")] == [4, 8]


def test_metrics_csv_alone(tmp_path):
    folder = train_run(run_config("pixel", tmp_path, "logger={kind: csv, mode: online}"))
    assert not (folder / "wandb").exists() and not (folder / "tensorboard").exists()
    assert table_of(folder) and len(list((folder / "samples").glob("samples-*.png"))) == 3


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    import importlib.util

    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "tensorboard" else there(name, *more),
    )
    with pytest.raises(
        Refusal, match=r"TensorBoard is not installed: pip install 'ldm\[tensorboard\]'"
    ):
        train_run(run_config("pixel", tmp_path, "logger.kind=tensorboard"))
    assert not any(tmp_path.iterdir())


# -- boards that fail ------------------------------------------------------------------------------
def at_step(monkeypatch, step, act):
    """Call `act(trainer)` once, after that step."""
    original = watching.Throughput.on_train_batch_end

    def then(self, trainer, module, *rest):
        original(self, trainer, module, *rest)
        if trainer.global_step == step:
            act(trainer)

    monkeypatch.setattr(watching.Throughput, "on_train_batch_end", then)


@pytest.mark.slow
def test_wandb_that_cannot_write_is_one_line(tmp_path, monkeypatch, capsys):
    """A file where its folder of pictures was: no more pictures there, but the numbers go on; the
    training has its end.
    """

    def block(trainer):
        (files,) = (tmp_path / "tiny-pixel" / "wandb").glob("offline-run-*/files")
        (files / "media").rename(files / "gone")
        (files / "media").write_text("")

    at_step(monkeypatch, 2, block)
    folder = train_run(run_config("pixel", tmp_path, "logger.mode=offline"))
    said = [line for line in capsys.readouterr().out.splitlines() if "warning:" in line]
    assert len(said) == 1 and "W&B fails" in said[0] and "training goes on" in said[0]
    assert (
        load(folder / "last.ckpt")["global_step"] == 8
        and len(list((folder / "samples").glob("samples-*.png"))) == 3
    )
    assert list(history(inspect(folder)[1], "val/loss")) == [4, 8]


@pytest.mark.slow
def test_tensorboard_that_fails_is_one_line(tmp_path, monkeypatch, capsys):
    """Its writer is closed under it."""
    at_step(
        monkeypatch,
        2,
        lambda trainer: (
            trainer.loggers[0].experiment._get_file_writer().event_writer._async_writer.close()
        ),
    )
    folder = train_run(run_config("pixel", tmp_path, "logger.kind=tensorboard"))
    said = [line for line in capsys.readouterr().out.splitlines() if "warning:" in line]
    assert len(said) == 1 and "TensorBoard fails" in said[0]
    assert load(folder / "last.ckpt")["global_step"] == 8


KILLS = """
import os, runpy, signal, sys
sys.path.insert(0, "tests")
from processes import children
from pathlib import Path
from ldm.training import watching
original = watching.Throughput.on_train_batch_end
def then(self, trainer, module, *rest):
    original(self, trainer, module, *rest)
    if trainer.global_step == 5:
        (core,) = [p for p in children(os.getpid()) if "wandb-core" in Path(f"/proc/{p}/cmdline").read_text()]
        os.kill(core, signal.SIGKILL)
watching.Throughput.on_train_batch_end = then
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.slow
def test_wandb_killed_in_the_middle_of_both_stages(tmp_path):
    """kill -9 of wandb-core, in stage 1 and again in stage 2: a line each, status 0, the same bits
    as without W&B.
    """
    (tmp_path / "ae.yaml").write_text((TINY / "autoencoder.yaml").read_text())
    more = [
        *overrides("latent", tmp_path),
        "logger={mode: offline, log_model: true}",
        f"space.autoencoder={tmp_path}/ae.yaml",
    ]
    command = [sys.executable, "-c", KILLS, "--config", TINY / "latent.yaml", *more]
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
    }
    env.pop("WANDB_SERVICE", None)  # of an earlier test's run: the child starts its own
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "warning:" in line]
    assert len(said) == 2 and all("W&B fails" in line for line in said)
    assert "Traceback" not in done.stderr + done.stdout
    (tmp_path / "alone").mkdir()
    alone = train_run(
        run_config("latent", tmp_path / "alone", f"space.autoencoder={tmp_path}/ae.yaml")
    )
    from helpers import largest_difference

    theirs, ours = (
        load(folder / "last.ckpt")["state_dict"] for folder in (tmp_path / "tiny-latent", alone)
    )
    assert largest_difference(theirs, ours) == 0


@pytest.mark.ddp
def test_rank_0_alone_shows(pair, tmp_path):
    more = ("logger={kind: both, mode: offline, log_model: true}", "trainer.devices=2")
    done = pair("train.py", "--config", TINY / "pixel.yaml", *overrides("pixel", tmp_path), *more)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "tiny-pixel"
    assert (
        len(list((folder / "wandb").glob("offline-run-*")))
        == len(list((folder / "tensorboard").glob("events.*")))
        == 1
    )
    records = inspect(folder)[1]
    assert list(history(records, "tables/samples.path")) == [0, 4, 8] and list(
        history(records, "val/loss")
    ) == [4, 8]
    assert len([a for a in of_kind(records, "artifact") if a["type"] == "model"]) == 2


# -- the saved workspace ---------------------------------------------------------------------------
def test_workspace_names_what_is_logged(both_stages):
    pytest.importorskip("wandb_workspaces")
    from docs.workspace import LINES, PICTURES, workspace

    logged = set()
    for folder in (both_stages, both_stages.parent / "tiny-autoencoder"):
        logged |= {
            key.removesuffix(".path")
            for row in of_kind(inspect(folder)[1], "history")
            for key in row["item"]
        }
    named = {key for plots in LINES.values() for keys in plots.values() for key in keys} | set(
        PICTURES
    )
    assert named <= logged
    assert [section.name for section in workspace("me", "ldm").sections] == ["Pictures", *LINES]


@pytest.mark.slow
def test_workspace_is_saved(tmp_path):
    """By the real client, on as much of a server as it asks for."""
    pytest.importorskip("wandb_workspaces")

    number = port()
    server = subprocess.Popen(
        [sys.executable, ROOT / "tests/wandb_server.py", str(number)],
        stdout=subprocess.PIPE,
        text=True,
    )
    env = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{number}"}
    try:
        done = script("docs/workspace.py", "me/ldm", PYTHONPATH=str(ROOT), **env)
    finally:
        server.kill()
    assert done.returncode == 0 and "saved: http" in done.stdout, done.stderr
    (view,) = [line for line in server.stdout if line.startswith("view ")]
    sections = json.loads(view.removeprefix("view "))["section"]["panelBankConfig"]["sections"]
    assert next(section["name"] for section in sections) == "Pictures" and AXIS in view


# -- how a run ended -------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_run_that_dies_is_not_green_in_wandb(tmp_path, monkeypatch):
    """Its file ends with the status of the script, and has the alert: for a gradient that is not
    finite, for SIGTERM.
    """
    at_step(
        monkeypatch,
        3,
        lambda trainer: next(trainer.lightning_module.net.parameters()).data.fill_(float("nan")),
    )
    with pytest.raises(NotFinite):
        train_run(run_config("pixel", tmp_path / "nan", "logger.mode=offline", "sample.every=0"))
    monkeypatch.undo()
    at_step(monkeypatch, 3, lambda trainer: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        train_run(run_config("pixel", tmp_path / "stop", "logger.mode=offline", "sample.every=0"))
    for name, status, title, words in (
        ("nan", 2, "run died", "not finite"),
        ("stop", 143, "run stopped", "by SIGTERM"),
    ):
        records = inspect(tmp_path / name / "tiny-pixel")[1]
        (alert,), (end,) = of_kind(records, "alert"), of_kind(records, "exit")
        assert alert["title"] == title and words in alert["text"] and end["exit_code"] == status


def test_a_run_that_ends_well_is_green(both_stages):
    records = inspect(both_stages)[1]
    assert not of_kind(records, "alert") and [
        end.get("exit_code", 0) for end in of_kind(records, "exit")
    ] == [0]


@pytest.mark.slow
def test_the_sync_line_sends_every_leg(pixel_run, tmp_path):
    """Of a run killed twice and resumed: a leg cut in the middle of a record, one killed before it
    began, and the last.
    """

    more = ("logger.mode=offline", "sample.every=0", "trainer.log=1")
    folder = train_run(run_config("pixel", tmp_path, *more, "trainer.max_steps=4"))
    first = next((folder / "wandb").glob("offline-run-*/*.wandb"))
    first.write_bytes(first.read_bytes()[:-5000])
    empty = folder / "wandb" / "offline-run-20200101_000000-x" / "run-x.wandb"
    empty.parent.mkdir()
    empty.write_bytes(first.read_bytes()[:7])
    train_run(run_config("pixel", tmp_path, *more, "trainer.max_steps=8"), resume=True)
    number = port()
    server = subprocess.Popen(
        [sys.executable, ROOT / "tests/wandb_server.py", str(number)], stdout=subprocess.DEVNULL
    )
    env = os.environ | {
        "WANDB_API_KEY": "0" * 40,
        "WANDB_BASE_URL": f"http://127.0.0.1:{number}",
        "WANDB_MODE": "online",
    }
    try:
        line = f"{Path(sys.executable).parent}/{where_shown(run_config('pixel', tmp_path, *more))[0].split('to sync: ')[1]}"
        said = subprocess.run(
            line, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100
        )  # wandb's log of it lies in ./wandb
    finally:
        server.kill()
    said = said.stdout + said.stderr
    assert "ERROR" not in said and "Failed" not in said, said
    assert len(list((folder / "wandb").glob("offline-run-*/*.wandb.synced"))) == 2, said
