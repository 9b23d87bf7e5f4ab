"""The configs that come with ldm."""

from pathlib import Path

from ldm.config.schema import missing
from ldm.errors import Refusal

# the configs that come with ldm: inside the installed package, or at the top of a checkout
SHIPPED = tuple(
    filter(
        Path.is_dir, (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")
    )
)


def made_for_cpu(path: str | Path) -> str | None:
    """The config NAME-cpu.yaml beside a config NAME.yaml, named as that is; None without one."""
    path = Path(path).expanduser()
    beside = path.with_name(f"{path.stem}-cpu{path.suffix}")
    try:
        shipped(path)  # a file of the user's own stands before the shipped one of its name
        found = beside.is_file() if path.is_file() else shipped(beside).is_file()
    except Refusal:
        return None
    return str(beside) if found else None


def shipped(path: Path) -> Path:
    """The path, or, where there is no such file, ldm's own config of that name."""
    path = path.expanduser()
    if path.is_file() or path.is_absolute():
        return path
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    for folder in SHIPPED:
        if (folder / inside).is_file():
            return folder / inside
    known = (str(p.relative_to(folder)) for folder in SHIPPED for p in folder.rglob("*.yaml"))
    raise Refusal(f"config: {missing(path, known, ', nor does ldm ship one of that name')}")
