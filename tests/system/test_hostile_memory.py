"""What claims much takes little: the cases of the hostile set that once ate the machine, in a
process that is measured.
"""

import subprocess
import sys

import pytest
from helpers import ROOT

LARGE = "channels or shape or layers or 4096 or one_number or share or compressed or laughs or bytearray or multiple"
LARGE += " or written or contiguous or filled or packed or block or idx or swells or claims or pictures_that or alone"
# A child's ru_maxrss begins with what its parent held when it started (Linux keeps it over exec);
# the peak of the process's own memory is VmHWM.
MEASURED = """
import sys, pytest
status = pytest.main(sys.argv[2:])
open(sys.argv[1], "w").write(open("/proc/self/status").read())
sys.exit(status)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_no_case_of_the_hostile_set_takes_two_gigabytes(tmp_path, pixel_run, latent_run, jets_run):
    """The runs whose checkpoints are changed are this session's: no training is measured."""
    files = sorted(map(str, ROOT.glob("tests/*/test_hostile_[cf]*.py")))
    status = tmp_path / "status"
    given = ["-q", "-n", "0", "-p", "no:cacheprovider", "-k", LARGE, *files]
    command = [sys.executable, "-c", MEASURED, str(status), *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) * 1024 < 2e9, peak
