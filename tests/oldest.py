"""Run tests against the oldest versions that pyproject.toml claims.

python tests/oldest.py --venv /tmp/oldest                      # the fast set
python tests/oldest.py --venv /tmp/oldest tests/diffusion -x   # any of pytest's arguments

Makes the virtual environment where it is missing (about 6 GB with CUDA's libraries).
"""

import argparse
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def oldest(requirement: str) -> str | None:
    """`name>=1.2,<2` as `name==1.2`; None where no lower end is claimed."""
    found = re.match(r"([\w.-]+)(?:\[.*\])?\s*[>=]=([\w.]+)", requirement)
    return f"{found[1]}=={found[2]}" if found else None


def pins(extras: tuple[str, ...]) -> list[str]:
    """The oldest version of each dependency, and of each of these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [one for extra in extras for one in project["optional-dependencies"][extra]]
    return [pin for one in (*project["dependencies"], *optional) if (pin := oldest(one))]


def install(folder: Path, extras: tuple[str, ...]) -> None:
    """A virtual environment of those versions, ldm in it as a checkout."""
    venv.create(folder, with_pip=True)
    constraints = folder / "oldest.txt"
    constraints.write_text("\n".join(pins(extras)) + "\n")
    what = f"{ROOT}[{','.join(extras)}]"
    command = [folder / "bin/pip", "install", "-q", "-c", constraints, "-e", what]
    subprocess.run(command, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, required=True, help="folder of the environment")
    parser.add_argument("--extras", nargs="*", default=["test"], help="extras of pyproject.toml")
    given, rest = parser.parse_known_args()
    if not (given.venv / "bin/pytest").exists():
        install(given.venv, tuple(given.extras))
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [given.venv / "bin/python", "-m", "pytest", *rest]
    return subprocess.run(command, cwd=ROOT, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
