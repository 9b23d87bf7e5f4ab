"""Where a checkpoint's file is, asked before torch is imported: a wrong path is said at once."""

from pathlib import Path

from ldm.errors import Refusal

PACKED = "model.safetensors"  # the name of a packed one


def find_checkpoint(path: str | Path, prefer: str = "last") -> Path:
    """The checkpoint file that a path names: itself, or one in a run's folder.

    There `prefer`.ckpt, else last.ckpt, else best.ckpt, else the packed one.
    """
    path = Path(path)
    if path.is_file():
        return path
    for name in (f"{prefer}.ckpt", "last.ckpt", "best.ckpt", PACKED):
        if (path / name).is_file():
            return path / name
    missing = f"has no last.ckpt in it, nor {PACKED}: did its training start?"
    why = missing if path.is_dir() else "is neither a run's folder nor a file"
    raise Refusal(f"checkpoint: '{path}' {why}")
