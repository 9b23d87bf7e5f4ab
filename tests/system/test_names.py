"""Words of others never lead out of a folder, are never obeyed by a terminal, and are kept apart."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import torch
from helpers import ROOT, run_config

from ldm.errors import Refusal, printable, say
from ldm.sampling.jet_files import Clouds, write_clouds
from ldm.system.names import LONGEST, file_name, file_names, plain

HOSTILE = [
    "/etc/passwd",
    "../../up",
    "..",
    ".",
    "",
    "   ",
    "a/b",
    "a\\b",
    "C:\\x",
    "-rf",
    "~root",
    ".hidden",
    "nul",
    "CON.txt",
]
HOSTILE += [
    "a\0b",
    "a\nb",
    "\x1b[2Jcleared",
    "‮gnp.exe",
    "\udcff",
    "ü" * 300,
    "x" * 300,
    "a. ",
    "com1",
    "a:b",
    "?*",
    "a\u2028b",
]
HOSTILE += ["COM¹", "aux.tar.gz", "...", "--output", "a" * 99 + "é", "👩‍🎨 paints", "_"]


@pytest.mark.parametrize("word", HOSTILE)
def test_any_word_is_a_plain_file_name(word, tmp_path):
    name = file_name(word)
    path = tmp_path / f"{name}.png"
    path.write_text("")
    assert (
        [*tmp_path.iterdir()] == [path]
        and Path(name).name == name
        and len(name.encode()) <= LONGEST
    )
    assert (
        name == printable(name)
        and name[0] not in ".-~ "
        and name[-1] not in ". "
        and not set(name) & set('<>:"|?*\\/')
    )
    stem = name.split(".")[0].lower()
    assert stem not in {"con", "prn", "aux", "nul", "com1", "com¹", ""}


def test_good_words_are_not_changed():
    for word in ("digit", "T-shirt", "light quark", "Ångström", "café (2)", "日本", "👩‍🎨", "a.b"):
        assert file_name(word) == word and plain(word)


def test_names_are_told_apart_on_every_system():
    """Also where a system does not tell A from a, or one form of é from another, or where a number
    is taken already.
    """
    words = [
        "A",
        "a",
        "a/b",
        "a_b",
        "a\\b",
        "a_b-2",
        "é",
        "e\u0301",
        "x" * 300,
        "x" * 301,
        "",
        ".",
        "ﬁ",
        "fi",
    ]
    names = file_names(words)
    assert len({name.casefold() for name in names}) == len(words)
    assert names[3] == "a_b" and names[5] == "a_b-2" and names[0] == "A"
    assert file_names(["a", "a", "a-2"]) == ["a", "a-3", "a-2"]


def test_nothing_of_a_word_is_obeyed_by_a_terminal(capsys):
    say("\x1b[31mred\x07\n‮txet ok\u200d é\udcff")
    assert capsys.readouterr().out == "\\x1b[31mred\\x07\n\\u202etxet ok\u200d é\\udcff\n"


def test_an_error_line_is_safe_and_on_a_line_of_its_own():
    """A bar that is open is ended before the line; a terminal of few letters gets them written out."""
    code = """
import sys
from tqdm import tqdm
from ldm.errors import Refusal, guard, say
def main():
    bar = tqdm(range(10), desc="working", mininterval=0)
    bar.update(3)
    say("caf\\u00e9")
    raise Refusal("no \\x1b]0;title\\x07 \\u202e in 'x'")
guard(main)
"""
    env = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 2 and done.stdout == "caf\\xe9\n"
    last = done.stderr.split("\n")[-2]
    assert last == r"error: no \x1b]0;title\x07 \u202e in 'x'"


@pytest.mark.parametrize(
    "name",
    ["..", ".", "a/b", "a\\b", "/x", "-x", "~", " x", "a\nb", "\x1b[31mx", "‮x", "x" * 300, " "],
)
def test_a_runs_own_name_is_a_folder(name, tmp_path):
    with pytest.raises(Refusal, match="must be a plain folder name"):
        run_config(
            "pixel",
            tmp_path,
            f"name={name!r}" if name.isprintable() else 'name="' + repr(name)[1:-1] + '"',
        )


def test_jets_of_hostile_classes_stay_in_their_folder(tmp_path):
    """The issue's own: a class named by an absolute path replaced that file."""
    victim = tmp_path / "victim.hdf5"
    victim.write_text("precious")
    classes = [str(tmp_path / "victim"), "x", "X", "../victim", "\x1b[2J", "light quark"]
    folder = tmp_path / "out"
    folder.mkdir()
    features, mask = torch.rand(6, 5, 3) / 5, torch.ones(6, 5, dtype=torch.bool)
    files = write_clouds(folder, Clouds(features, mask, classes), range(6), {})
    assert victim.read_text() == "precious" and {*os.listdir(tmp_path)} == {"victim.hdf5", "out"}
    assert len(files) == 6 and {*files} | {"samples.jsonl", "settings.json"} == {
        *os.listdir(folder)
    }
    for file, row in zip(files, features, strict=True):
        with h5py.File(folder / file) as opened:
            hardest_first = row[row[:, 2].argsort(descending=True)]
            assert torch.allclose(
                torch.from_numpy(opened["particle_features"][0, :, :3]), hardest_first
            )
    assert "light-quark.hdf5" in files
