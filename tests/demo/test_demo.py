"""What the page does, without Gradio: limits, uploads, drawn masks, work that is watched, stopped
and never overdue.
"""

import os
import shlex
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

from ldm.demo.base import GUESS, STATE, Click, Site
from ldm.demo.edits import Wanted, change, drawn, enlarged, upload
from ldm.demo.limits import Asked, Limits, apart, prompt_of
from ldm.demo.live import Done, live
from ldm.demo.samples import PictureKind
from ldm.errors import Refusal
from ldm.sampling.model import restore
from ldm.scripts import sample

NUMBERS = "DDIM", 6, 1.0, 3, 2  # solver, steps, guidance, seed, count
OPTIONS = {"factor": 2, "noise_std": 0.5, "degrade": True, "strength": 0.5}


@pytest.fixture(scope="module")
def model(pixel_run):
    return restore(pixel_run)


@pytest.mark.parametrize(
    "place, bad",
    [
        (1, 999),
        (1, 2.5),
        (1, "25"),
        (1, None),
        (2, float("nan")),
        (2, 99),
        (3, -1),
        (4, 17),
        (4, 0),
    ],
)
def test_numbers_beyond_the_limits_are_refused(place, bad):
    given = [*NUMBERS]
    assert Asked.of(Limits(), *given).seeds == [3, 4]
    given[place] = bad
    with pytest.raises(Refusal, match=r"is not a (whole )?number from .* to ") as error:
        Asked.of(Limits(), *given)
    assert "\n" not in str(error.value)


def test_no_class_is_never_the_name_of_one():
    assert (
        apart("without a class", ("a", "b")) == "without a class"
        and apart("without a class", ("without a class", "(without a class)"))
        == "((without a class))"
    )


def test_prompts_are_one_line_of_limited_length():
    assert (
        prompt_of(Limits(), " a\nred  heart ") == "a red heart" and prompt_of(Limits(), " ") is None
    )
    with pytest.raises(Refusal, match="301 characters, at most 300"):
        prompt_of(Limits(), "x" * 301)


def test_uploads_are_cropped_and_shrunk_and_their_size_is_read_first(model, tmp_path):
    """A large one by its header alone: of this one there are no pixels to read."""
    wide = np.zeros((40, 60, 3), np.uint8)
    wide[:, 10:50] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert upload(model, Limits(), tmp_path / "wide.png").shape == (1, 8, 8)
    assert upload(model, Limits(), tmp_path / "wide.png").min() > 200  # the middle alone
    Image.fromarray(wide[:4, :4]).save(tmp_path / "small.png")
    assert upload(model, Limits(), tmp_path / "small.png").shape == (1, 4, 4)
    exif = Image.Exif()
    exif[274] = 3
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(
        tmp_path / "turned.png", exif=exif
    )
    assert upload(model, Limits(), tmp_path / "turned.png").flatten().tolist() == list(
        range(63, -1, -1)
    )
    whole = (tmp_path / "wide.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-30])
    (tmp_path / "text.png").write_text("not a picture")
    for name, limits, message in (
        ("wide.png", Limits(pixels=2000), "more than 0.002 million pixels"),
        ("cut.png", Limits(pixels=2000), "more than 0.002 million pixels"),
        ("wide.png", Limits(upload=50), "MB, at most"),
        ("cut.png", Limits(), "damaged"),
        ("text.png", Limits(), "not a picture"),
    ):
        with pytest.raises(Refusal, match=message) as error:
            upload(model, limits, tmp_path / name)
        assert str(tmp_path) not in str(error.value)


def test_a_stroke_is_the_pixels_of_which_it_covers_half():
    layer = np.zeros((80, 80, 4), np.uint8)
    layer[20:40, 20:36, 3] = 255  # of squares of 10: two rows, one column and 6 / 10 of the next
    layer[60:80, 0:4, 3] = 255  # 4 / 10: not
    other = np.zeros((160, 160, 4), np.uint8)
    other[140:, 140:, 3] = 255
    hole = drawn([layer, other], (8, 8))[0] == 0
    assert [tuple(p) for p in hole.nonzero().tolist()] == [(2, 2), (2, 3), (3, 2), (3, 3), (7, 7)]
    for layers, message in (
        ([], "nothing is drawn"),
        ([np.full((80, 80, 4), 255, np.uint8)], "nothing is left"),
    ):
        with pytest.raises(Refusal, match=message):
            drawn(layers, (8, 8))


def test_work_ends_when_nobody_looks():
    """At its next step, and not before the iterator's close returns: no two clicks run at once."""
    steps = []

    def work(watch):
        for i in range(1000):
            steps.append(i)
            time.sleep(0.005)
            watch(i, None, None)

    before = threading.active_count()
    looking = live(work, lambda step, *_: step, 60)
    assert next(looking) < next(looking)
    looking.close()
    assert threading.active_count() == before and len(steps) < 100


def test_work_is_stopped_when_overdue_and_its_errors_are_raised_here():
    def endless(watch):
        while True:
            time.sleep(0.01)
            watch(0, None, None)

    with pytest.raises(Refusal, match=r"stopped after 0.1 s"):
        list(live(endless, lambda *_: 0, 0.1))
    with pytest.raises(ZeroDivisionError):
        list(live(lambda watch: 1 / 0, lambda *_: 0, 9))


def test_a_slow_viewer_misses_steps_and_gets_the_end():
    def work(watch):
        for i in range(40):
            time.sleep(0.002)
            watch(i, None, None)
        return "end"

    seen = []
    for item in live(work, lambda step, *_: step, 60):
        seen.append(item)
        time.sleep(0.03)
    assert isinstance(seen[-1], Done) and seen[-1].value == "end"
    assert seen[:-1] == sorted(set(seen[:-1])) and 1 < len(seen) < 20


@pytest.mark.parametrize("shown", [GUESS, STATE])
def test_the_last_picture_is_the_samples_and_the_command_makes_them(
    model, pixel_run, tmp_path, monkeypatch, shown
):
    """Frames differ on the way; the command, run as it stands, makes the samples within a grey
    level.
    """
    site = Site(model, Limits(), str(pixel_run))
    frames = list(PictureKind().made(Click(site, Asked("DDIM", 30, 1.5, 5, 3), "3", shown=shown)))
    assert len({frame.picture.tobytes() for frame in frames}) > 2 and frames[-1].more is not None
    assert [caption for _, caption in frames[-1].gallery] == ["3, seed 5", "3, seed 6", "3, seed 7"]
    line = shlex.split(frames[-1].command)
    assert line[:2] == ["python", "sample.py"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", line[1:])
    sample.main()
    made = tmp_path / line[line.index("--output") + 1]
    for i, (picture, _) in enumerate(frames[-1].gallery):
        file = np.asarray(Image.open(made / f"{5 + i:08d}.png")).astype(int)
        assert np.abs(file - np.asarray(picture)).max() <= 1


@pytest.mark.parametrize("task", ["inpaint", "super-resolve", "denoise", "edit"])
@pytest.mark.parametrize("run_of", ["pixel_run", "latent_run"])
def test_tasks(run_of, task, request):
    """Live, then a panel with the input; drawn over, what is not drawn over stays."""
    model = restore(request.getfixturevalue(run_of))
    picture = (torch.arange(64).reshape(1, 8, 8) * 4).to(torch.uint8)
    layer = np.zeros((8, 8, 4), np.uint8)
    layer[2:6, 2:6] = 255
    wanted = Wanted(picture, [layer], task, None, "3", OPTIONS)
    shown = list(change(model, Limits(), wanted, Asked("DPMpp2MSDE", 12, 1.0, 0, 2)))
    assert len(shown) > 1 and "step" in shown[0].status and "Done" in shown[-1].status
    assert shown[-1].samples.shape == (2, 1, 8, 8) and not torch.equal(*shown[-1].samples)
    if task == "inpaint":
        apart = (shown[-1].samples.int() - picture).abs()
        assert apart[..., torch.from_numpy(layer[..., 3] == 0)].max() <= 1 and apart.max() > 5


def test_what_a_task_cannot_do_is_one_line(model):
    picture, small = (
        torch.zeros(1, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 4, 4, dtype=torch.uint8),
    )
    for pixels, task, options, message in (
        (None, "edit", {}, "none yet"),
        (picture, "nonsense", {}, "is not one of inpaint"),
        (picture, "inpaint", {}, "nothing is drawn"),
        (picture, "super-resolve", {"factor": 3}, "does not divide"),
        (picture, "denoise", {"noise_std": 0}, "how much is to be added"),
        (
            picture,
            "denoise",
            {"noise_std": 0, "degrade": False},
            "no noise was found in the picture",
        ),
        (picture, "edit", {"strength": 0}, "strength"),
    ):
        with pytest.raises(Refusal, match=message) as error:
            wanted = Wanted(pixels, [], task, options=OPTIONS | options)
            list(change(model, Limits(), wanted, Asked(*NUMBERS)))
        assert "\n" not in str(error.value)
    assert enlarged(picture).size == (448, 448)
    large = Wanted(small, [], "super-resolve", options=OPTIONS)
    made = list(change(model, Limits(), large, Asked(*NUMBERS)))[-1]
    assert made.samples.shape == (2, 1, 8, 8)
    edited = Wanted(small, [], "edit", options=OPTIONS)
    made = list(change(model, Limits(), edited, Asked(*NUMBERS)))[-1]
    assert made.samples.shape == (2, 1, 8, 8) and "scaled from 4 x 4 to 8 x 8" in made.status


def test_help_is_fast_and_needs_neither_torch_nor_gradio(tmp_path):
    for name in ("torch", "gradio"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "ldm.demo", "--help"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--checkpoint" in done.stdout


def test_without_gradio_it_says_what_to_install(monkeypatch, tmp_path):
    from ldm.demo import server

    monkeypatch.setattr(server, "find_spec", lambda name: None)
    monkeypatch.setattr(server, "os", SimpleNamespace(environ={"GRADIO_SHARE": "True"}))
    with pytest.raises(Refusal, match=r"pip install 'ldm\[demo\]'"):
        server.prepare(str(tmp_path), Limits())
    assert server.os.environ == {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(tmp_path),
    }
