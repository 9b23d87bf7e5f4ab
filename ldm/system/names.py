"""Words of others (classes, captions, runs, files) as names of files, safe on every system."""

import re
import unicodedata
from collections.abc import Iterable

from ldm.errors import printable, unseen

# bytes of a name in UTF-8: room for a seed and a suffix below the 255 of most file systems
LONGEST = 100
FORBIDDEN = frozenset('/\\<>:"|?*')  # of one system or another
# devices on Windows
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)", re.IGNORECASE)


def file_name(text: object, empty: str = "unnamed") -> str:
    """A file name, good on every system, that looks like the text: no path, not hidden, no option.

    At most LONGEST bytes, `empty` where nothing is left. Two texts may get one name: see
    `file_names`.
    """
    words = unicodedata.normalize("NFC", str(text)).strip()
    plain = "".join("_" if c in FORBIDDEN or unseen(c) else c for c in words)
    plain = (
        re.sub(r"^[.\-~\s]+", "_", plain).encode()[:LONGEST].decode(errors="ignore").rstrip(". ")
    )
    if RESERVED.fullmatch(plain.split(".")[0].rstrip()):
        plain = f"_{plain}"
    return plain if plain.strip("_ ") else empty


def file_names(texts: Iterable[object]) -> list[str]:
    """A plain file name for each, all different, also where a system ignores case."""
    texts = [str(text) for text in texts]
    wanted = [file_name(text) for text in texts]
    names, taken = dict[int, str](), set[str]()
    first = {text: i for i, text in reversed([*enumerate(texts)])}
    kept = [wanted[i] == text and first[text] == i for i, text in enumerate(texts)]
    # who keeps its name chooses first
    for i in sorted(range(len(texts)), key=lambda i: not kept[i]):
        names[i] = _free(wanted[i], taken)
        taken.add(_folded(names[i]))
    return [names[i] for i in range(len(texts))]


def _free(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while _folded(candidate) in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def plain(name: str) -> bool:
    """Whether a person's word can name a folder: one part of a path, not hidden, no option."""
    shown = name == printable(name) == name.strip() and not set("/\\") & set(name)
    return (
        shown
        and bool(name.strip("."))
        and name[0] not in "-~"
        and 0 < len(name.encode()) <= 2 * LONGEST
    )
