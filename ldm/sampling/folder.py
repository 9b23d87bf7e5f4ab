"""The folder that samples are written to, and the two lists that each such folder has."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ldm.errors import Refusal


@contextmanager
def new_folder(output: str) -> Iterator[Path]:
    """The folder to write to, made before the work, so that a bad one is refused early.

    Where the work fails before anything is written, no empty folder is left.
    """
    folder = Path(output)
    if not output.strip():
        raise Refusal("--output: it is empty; name a folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refusal(
            f"--output: '{folder}' is not empty; name another folder, nothing is overwritten"
        )
    made = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):  # from the innermost on, as long as they are empty
            for part in made:
                part.rmdir()
        raise


def write_lists(
    folder: Path, lines: Iterable[Mapping[str, Any]], settings: Mapping[str, Any]
) -> None:
    """Write samples.jsonl, a line each file or row, and settings.json."""
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")
