"""What claims much takes little: the cases of the hostile set that once ate the machine, in a
process that is measured.
"""

import os
import subprocess
import sys

import pytest
from helpers import ROOT

LARGE = "channels or shape or layers or 4096 or one_number or share or compressed or laughs or bytearray or multiple"
LARGE += " or written or contiguous or filled or packed or block or idx or swells or claims or pictures_that or alone"


@pytest.mark.slow
def test_no_case_of_the_hostile_set_takes_two_gigabytes(tmp_path):
    files = sorted(map(str, ROOT.glob("tests/*/test_hostile_[cf]*.py")))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    with open(tmp_path / "said", "w+") as said:
        process = subprocess.Popen([*command, "-k", LARGE, *files], cwd=ROOT, stdout=said)
        _, status, used = os.wait4(process.pid, 0)  # of this process alone, not of other tests'
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, (tmp_path / "said").read_text()[-5000:]
    assert used.ru_maxrss * 1024 < 2e9
