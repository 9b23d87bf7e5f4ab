"""What claims much takes little: the cases of the hostile set that once ate the machine, in a
process that is measured.
"""

import os
import resource
import subprocess
import sys

import pytest
from helpers import ROOT

LARGE = "channels or shape or layers or 4096 or one_number or share or compressed or laughs or bytearray or multiple"
LARGE += " or written or contiguous or filled or packed or block or idx or swells or claims or pictures_that or alone"


@pytest.mark.slow
def test_no_case_of_the_hostile_set_takes_two_gigabytes():
    files = sorted(map(str, ROOT.glob("tests/*/test_hostile_[cf]*.py")))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", LARGE, *files]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 2e9
