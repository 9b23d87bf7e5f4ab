"""Plain trees (dicts, lists, texts, numbers) from YAML and the command line.

YAML as people write configs: 1e-3 is a number; 007, 1:30, on and a date are texts; a key stands
once; nothing is merged by `<<` or made by a tag. No `${...}` is ever filled in: a config, or a
checkpoint's, must not read the environment.
"""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from ldm.errors import Refusal, printable

LARGEST = 256 * 1024  # bytes of a file
DEEPEST, MOST = (
    32,
    20_000,
)  # levels of a tree, and its nodes, an alias counted as what it stands for


class _Loader(yaml.SafeLoader):
    """Its texts, numbers, lists and dicts alone; see the module's head."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", node.value[i][0].start_mark
                )
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leaves `<<` a key like any other: merged aliases can double at every level."""


_Loader.yaml_implicit_resolvers = {}
_NUMBER = (
    r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
    r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)
for _tag, _words, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", "null|Null|NULL|", ["n", "N", ""]),
    ("int", "[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", _NUMBER, "-+0123456789."),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_words})$"), list(_first)
    )


def from_file(path: Path) -> Any:
    """What a YAML file says; Refusal where it is too large, unreadable or not YAML."""
    with open(path, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise Refusal(f"{path}: over {LARGEST // 1024} kB; that is no config")
    tree = _parsed(data, str(path))
    check(tree, str(path))
    return tree


def from_text(text: str, where: str) -> Any:
    """A value of the command line.

    YAML in brackets, braces or quotes; else a number, true, false, null, or a text as it stands,
    whatever signs are in it: `data.root=/my data #1`.
    """
    if text.lstrip()[:1] in ("[", "{", '"', "'"):
        return _parsed(text, where)
    return (
        _parsed(text, where)
        if re.fullmatch(rf"\s*(?:null|true|false|[-+]?[0-9]+|{_NUMBER})?\s*", text)
        else text
    )


def from_pair(text: str) -> dict[str, Any]:
    """`a.b=value` of the command line as {"a": {"b": value}}."""
    key, _, value = text.partition("=")
    where = f"override {text}"
    parts = key.strip().split(".")
    if not all(parts):
        raise Refusal(
            f"override {text}: '{key}' is not a key; write key=value, for example "
            "trainer.max_steps=100"
        )
    tree = from_text(value, where)
    for part in reversed(parts):
        tree = {part: tree}
    check(tree, where)
    return tree


def _parsed(data: bytes | str, where: str) -> Any:
    try:
        return yaml.load(data, _Loader)
    except yaml.YAMLError as error:
        raise Refusal(
            f"{where}: not readable as YAML: {printable(' '.join(str(error).split()))}"
        ) from None
    except RecursionError:
        raise Refusal(f"{where}: nested too deep for a config (at most {DEEPEST} levels)") from None
    except ValueError as error:  # int() of very many digits
        raise Refusal(f"{where}: {printable(str(error).split(';')[0])}") from None


def check(tree: Any, where: str) -> None:
    """Refusal, with its key, of `${...}`, non-plain values, numbers beyond 64 bits, NaN."""
    left = [MOST]
    _check(tree, "", where, DEEPEST, left)


def _check(value: Any, path: str, where: str, depth: int, left: list[int]) -> None:
    left[0] -= 1
    if depth < 0 or left[0] < 0:
        raise Refusal(f"{where}: {_cut(path)}: nested too deep or too large for a config")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise Refusal(
                    f"{where}: {_cut(f'{path}.{key}'.lstrip('.'))}: a key is a text; put {key!r} "
                    "in quotes"
                )
            full = f"{path}.{key}".lstrip(".")
            _check_text(key, full, where)
            _check(inner, full, where, depth - 1, left)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            _check(inner, f"{path}[{i}]", where, depth - 1, left)
    elif isinstance(value, str):
        _check_text(value, path, where)
    elif why := _odd(value):
        raise Refusal(f"{where}: {_cut(path)}: {why}")


def _odd(value: Any) -> str:
    """Why this is nothing for a config; empty where it is."""
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, int):
        return "" if abs(value) < 2**63 else "a whole number of more than 64 bits"
    if isinstance(value, float):
        return "nan is not a number" if math.isnan(value) else ""
    return f"a {type(value).__name__} is no value of a config"


def _check_text(text: str, path: str, where: str) -> None:
    if "${" in text:
        raise Refusal(
            f"{where}: {_cut(path)}: '{_cut(text)}' holds "
            f"${{, which is not filled in here; write the value itself"
        )
    if "\0" in text or text != text.encode(errors="ignore").decode():
        raise Refusal(f"{where}: {_cut(path)}: '{_cut(text)}' is not a text in UTF-8")


def _cut(text: str, most: int = 80) -> str:
    shown = printable(text)
    return shown if len(shown) <= most else f"{shown[:most]}..."
