"""JetNet's files from Zenodo, held against its MD5."""

import hashlib
import json
import os
from pathlib import Path
from urllib.request import urlopen

from ldm.errors import Refusal, say
from ldm.system.progress import Bar


def download(path: Path, record: int) -> Path:
    """Get a file of a Zenodo record, as jetnet does, its MD5 held against Zenodo's."""
    say(f"data: downloading {path.name} from zenodo.org/records/{record} into {path.parent}")
    part = path.with_name(path.name + ".part")
    try:
        with urlopen(f"https://zenodo.org/api/records/{record}", timeout=20) as answer:
            entry = next(
                f
                for f in json.load(answer)["files"]
                if f.get("key", f.get("filename")) == path.name
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        url = entry["links"].get("self") or entry["links"]["download"]
        digest = _fetch(url, part, entry.get("size"))
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise Refusal(
            f"data: {path.name} is not in '{path.parent}' and cannot be downloaded ({error}); set "
            "data.root"
        ) from None
    if digest != entry["checksum"].removeprefix("md5:"):
        part.unlink()
        raise Refusal(
            f"data: {path.name} came with another checksum than Zenodo's ({digest}); try again"
        )
    os.replace(part, path)
    return path


def _fetch(url: str, part: Path, size: int | None) -> str:
    """Stream a URL into a file; its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    with (
        urlopen(url, timeout=60) as answer,
        open(part, "wb") as file,
        Bar("downloading", size, "B", unit_scale=True) as bar,
    ):
        while block := answer.read(1 << 20):
            file.write(block)
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
