"""Measurements, each a command: `python -m benchmarks.NAME --help`."""

import sys
from pathlib import Path

# the exact answers that solvers are held against stand with the tests (tests/exact.py)
sys.path.append(str(Path(__file__).parents[1] / "tests"))
