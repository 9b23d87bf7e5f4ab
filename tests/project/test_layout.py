"""The rooms: `ldm/`, the tests and docs/architecture.md have the same, and each test file has a
name of its own.
"""

import re
from collections import Counter

from helpers import ROOT

ROOMS = {p.parent.name for p in ROOT.glob("ldm/*/__init__.py")}
BESIDE = {"project"}  # docs, packaging, benchmarks
MODULES = {p.stem for p in ROOT.glob("ldm/*.py")}  # which may have a folder of tests, too


def test_tests_mirror_the_rooms():
    tested = {p.parent.name for p in ROOT.glob("tests/*/test_*.py")}
    assert tested - MODULES == ROOMS | BESIDE
    assert not [*ROOT.glob("tests/test_*.py")]


def test_the_architecture_names_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert set(re.findall(r"^\| `(\w+)/`", page, re.MULTILINE)) == ROOMS
    layers = (ROOT / ".importlinter").read_text()
    assert all(re.search(rf"^ .*\b{room}\b", layers, re.MULTILINE) for room in ROOMS)


def test_names_of_test_files_stand_once():
    """pytest puts each folder on the path: a second file of a name would be the first."""
    names = Counter(p.name for p in ROOT.glob("tests/**/*.py"))
    assert not [name for name, times in names.items() if times > 1]
