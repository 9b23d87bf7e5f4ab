"""What the commands say to a newcomer: every flag explained, a missing package in one line."""

import argparse
import subprocess
import sys

import pytest
from helpers import ROOT, without_key

from ldm.errors import Refusal, ending
from ldm.sampling.run import SampleRequest, sample_to_folder
from ldm.scripts import demo, evaluate, export, flags, lecture, pack, sample, train
from ldm.tasks import TASKS

SCRIPTS = (train, sample, evaluate, demo, export, pack, lecture)


class Seen(Exception):
    """The parser of a script, about to read its arguments."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_flag_of_every_script_has_a_text(script, monkeypatch):
    def stop(parser, *_, **__):
        raise Seen(parser)

    for name in ("parse_args", "parse_known_intermixed_args"):
        monkeypatch.setattr(flags.Parser, name, stop)
    with pytest.raises(Seen) as seen:
        script.main()
    parser = seen.value.args[0]
    assert len(parser._actions) > 2 and not parser.allow_abbrev
    bare = [action.option_strings or action.dest for action in parser._actions if not action.help]
    assert bare == [] and argparse.SUPPRESS not in [action.help for action in parser._actions]
    if script is sample:
        (way,) = (action.help for action in parser._actions if action.dest == "method")
        assert all(one in way for task in TASKS for of in task.methods.values() for one in of)


def test_a_flag_that_is_cut_short_is_not_taken_for_the_whole(monkeypatch, capsys):
    """Argparse takes `--resum` for `--resume`: a training began where a typo stood."""
    monkeypatch.setattr("sys.argv", ["train.py", "--config", "no.yaml", "--resum"])
    with pytest.raises(SystemExit) as end:
        train.main()
    said = "error: unrecognized arguments: --resum; did you mean '--resume'? (--help lists all)\n"
    assert end.value.code == 2 and capsys.readouterr().err == said


@pytest.mark.parametrize(
    "words",
    [
        ("train.py", "--config", "configs/digits/latent.yaml"),
        ("sample.py", "--checkpoint", "checkpoints/fashion-latent"),
        ("-m", "ldm.lecture"),
    ],
)
def test_a_python_without_our_packages_gets_one_line(words):
    """-S: without site-packages."""
    command = [sys.executable, "-S", *words]
    env = {key: value for key, value in without_key().items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 2 and done.stdout == "", done.stderr
    first, _, rest = done.stderr.partition(" is not installed for ")
    assert first.removeprefix("error: ") in ("torch", "numpy", "PIL", "omegaconf", "tqdm")
    assert rest == (
        f"{sys.executable}: use the environment's python (.venv/bin/python), or pip install -e .\n"
    )


def test_a_module_of_ours_that_is_missing_is_a_mistake_of_ours():
    for name in ("ldm.nothing", "torch.nothing"):
        assert ending(ModuleNotFoundError("no", name=name))[0] == 1
    assert ending(ModuleNotFoundError("no", name="nothing.inside"))[0] == 2


def test_the_checkpoint_is_looked_for_before_the_folder(tmp_path):
    """Without --output `samples` is often not empty, which is not what is wrong."""
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/a.png").touch()
    words = {"checkpoint": str(tmp_path / "no"), "output": str(tmp_path / "samples")}
    with pytest.raises(Refusal, match="neither a run's folder nor a file"):
        sample_to_folder(SampleRequest.parse(words))


WRONG = """
import contextlib, io, sys
from importlib import import_module

out, said = ["--output", "o"], io.StringIO()
for name, words in {
    "train": ["--confg", "x"],
    "sample": ["--checkpoint", "nowhere", *out],
    "evaluate": ["--checkpoint", "nowhere"],
    "demo": ["--checkpoint", "nowhere"],
    "export": ["--checkpoint", "nowhere", *out],
    "pack": ["--checkpoint", "nowhere", *out],
}.items():
    sys.argv = [name, *words]
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        import_module(f"ldm.scripts.{name}").entry()
    print(name, [slow for slow in ("torch", "numpy", "gradio", "omegaconf") if slow in sys.modules])
print(said.getvalue().count("error: checkpoint: 'nowhere' is neither a run's folder nor a file"))
"""


def test_a_wrong_flag_or_path_is_said_before_anything_slow_is_imported():
    done = subprocess.run([sys.executable, "-c", WRONG], cwd=ROOT, capture_output=True, text=True)
    *scripts, lines = done.stdout.splitlines()
    assert len(scripts) == 6 and all(line.endswith(" []") for line in scripts), done
    assert lines == "5"
