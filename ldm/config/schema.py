"""Typed trees: dataclasses from plain dicts and back, YAML files with `base:`, merging.

What config.py is made with.

A component is its own schema (a dataclass) and a union annotation is the list of choices: `name:`
picks the member. Nothing is imported by a string. Whatever does not fit is a Refusal with the key's
path and the nearest name.
"""

import math
import os
import types
import typing
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass, make_dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.config import plain
from ldm.config.synonyms import MEANT
from ldm.errors import Refusal, nearest, one_of


def to_dict(config: Any) -> Any:
    """The typed config as plain dicts, lists, strings and numbers; `from_dict` is its inverse."""
    if not is_dataclass(config):
        return list(map(to_dict, config)) if isinstance(config, (list, tuple)) else config
    plain = {}
    for f in fields(config):
        value = getattr(config, f.name)
        name = {"name": type(value).__name__} if _members(_hints(type(config))[f.name]) else {}
        plain[f.name] = name | to_dict(value) if is_dataclass(value) else to_dict(value)
    return plain


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Paths of the keys in which two plain configs differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            d
            for k in sorted({*a, *b})
            for d in differences(a.get(k), b.get(k), f"{path}.{k}".lstrip("."))
        ]
    return [] if a == b else [path]


def read_config(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML file and its `base:` files under it."""
    path = path.expanduser()
    if not path.is_file():
        raise Refusal(f"config: {missing(path)}")
    if path.resolve() in seen:
        raise Refusal(f"{path}: its base: leads back to itself")
    raw = plain.from_file(path)
    if not isinstance(raw, dict):
        raise Refusal(
            f"{path}: "
            + ("empty" if raw is None else "no config")
            + "; a config is a list of `key: value` lines"
        )
    base = raw.pop("base", None)
    if base is not None and not (isinstance(base, str) and base):
        raise Refusal(f"{path}: base: names one file, got {base!r}")
    _anchor(raw, path.parent)
    if base is None:
        return raw
    under = path.parent / Path(base).expanduser()
    if not under.is_file():
        raise Refusal(f"{path}: base: {missing(under)}")
    return merge(read_config(under, (*seen, path.resolve())), raw, top=True)


LISTED = 1000  # entries of a folder that are looked at for a near name


def missing(path: Path, more: Iterable[str] = (), besides: str = "") -> str:
    """Why a path is no config, with the nearest name in its own folder or of `more`."""
    folder = path if path.is_dir() else path.parent
    try:
        beside = [str(folder / entry.name) for entry in islice(os.scandir(folder), LISTED)]
    except OSError:
        beside = []
    beside = sorted(name for name in beside if name.endswith((".yaml", ".yml")))
    if path.is_dir():
        return f"'{path}' is a folder; name a file in it" + (
            f" ({', '.join(beside[:5])})" if beside else ""
        )
    return f"no file '{path}'{besides}{nearest(str(path), [*beside, *more])}"


def _anchor(raw: dict[str, Any], folder: Path) -> None:
    """A stage 1, or another run, named beside the file that names it, from anywhere."""
    sample = raw.get("sample")
    guide = sample.get("guide") if isinstance(sample, dict) else None
    for node, key in ((raw.get("space"), "autoencoder"), (raw, "init"), (guide, "run")):
        if isinstance(node, dict) and isinstance(node.get(key), str):
            beside = folder / os.path.expanduser(node[key])
            node[key] = str(beside) if beside.exists() else node[key]


def merge(base: Any, new: Any, top: bool = False) -> Any:
    """Merge `new` over `base`, key by key.

    A node that names another choice replaces the old one whole, and so does `{}` (a component's
    defaults). A list, a value and null stand for themselves.
    """
    if isinstance(base, str) and isinstance(new, dict) and new:
        base = {"name": base}  # `schedule: Cosine`, then `schedule.s=0.01`
    if not (isinstance(base, dict) and isinstance(new, dict) and (new or top)):
        return new
    if not top and "name" in new and new["name"] != base.get("name", new["name"]):
        return new
    return base | {k: merge(base[k], v) if k in base else v for k, v in new.items()}


def _hints(cls: type) -> dict[str, Any]:
    found = typing.get_type_hints(cls)
    return {f.name: found[f.name] for f in fields(cls)}


def _members(annotation: Any) -> dict[str, type]:
    """The choices of a union of dataclasses by name; empty for any other annotation."""
    if typing.get_origin(annotation) not in (types.UnionType, typing.Union):
        return {}
    kinds: tuple[type, ...] = typing.get_args(annotation)
    return {kind.__name__: kind for kind in kinds if is_dataclass(kind)}


def typed(cls: type, raw: Any, path: str, where: str) -> Any:
    """Dataclass `cls` from a plain dict: components here, leaves by OmegaConf's type checks."""
    if not isinstance(raw, dict):
        raise Refusal(f"{where}: {path or 'config'}: expected keys and values, got {raw!r}")
    hints, built, leaves = _hints(cls), {}, {}
    for key, value in raw.items():
        full = f"{path}.{key}".lstrip(".")
        if key not in hints:
            meant = MEANT.get(str(key).lower())
            near = f"; did you mean '{meant}'?" if meant else nearest(str(key), hints)
            raise Refusal(f"{where}: no key '{full}'{near} (keys here: {', '.join(hints)})")
        members = _members(hints[key]) or (
            {hints[key].__name__: hints[key]} if is_dataclass(hints[key]) else {}
        )
        if members:
            built[key] = _choose(members, cls, key, value, full, where)
        else:
            leaves[key] = value
    for key, value in leaves.items():
        built[key] = _leaf(cls, key, value, f"{path}.{key}".lstrip("."), where)
    missing = [f.name for f in fields(cls) if f.name not in built and _required(f)]
    if missing:
        raise Refusal(f"{where}: {f'{path}.{missing[0]}'.lstrip('.')} is missing; give it a value")
    try:
        return cls(**built)
    except ValueError as error:
        raise Refusal(f"{where}: {path}: {error}".replace(": : ", ": ")) from None


def _required(f: Any) -> bool:
    return f.default == "???" or (f.default is MISSING and f.default_factory is MISSING)


def _choose(
    members: dict[str, type], cls: type, key: str, value: Any, full: str, where: str
) -> Any:
    if isinstance(value, str):
        value = {"name": value}  # `schedule: Cosine` is short for `schedule: {name: Cosine}`
    if not isinstance(value, dict):
        raise Refusal(f"{where}: {full}: expected name: and settings, got {value!r}")
    factory = next((f.default_factory for f in fields(cls) if f.name == key), MISSING)
    default = None if factory is MISSING else type(factory()).__name__
    name = str(value.get("name", default))
    if name not in members:
        raise Refusal(f"{where}: " + one_of(f"{full}.name", str(name), members))
    return typed(members[name], {k: v for k, v in value.items() if k != "name"}, full, where)


def _leaf(cls: type, key: str, value: Any, full: str, where: str) -> Any:
    """One value checked by OmegaConf against its annotation; null empties a list or dict."""
    hint = _hints(cls)[key]
    kind = typing.get_origin(hint)
    if kind in (list, dict) and value is None:
        return kind()
    if kind is dict and isinstance(value, dict):
        value = {
            k: v for k, v in value.items() if v is not None
        }  # `skip: {category: null}` takes one key out
    if kind is Literal and value not in typing.get_args(hint):
        raise Refusal(f"{where}: " + one_of(full, str(value), map(str, typing.get_args(hint))))
    if why := _mistaken(value, hint):
        raise Refusal(f"{where}: {full}: {why}")
    try:
        schema = OmegaConf.structured(make_dataclass("Leaf", [("value", hint)]))
        whole: Any = OmegaConf.to_object(OmegaConf.merge(schema, {"value": value}))
        found = whole.value
    except (OmegaConfBaseException, TypeError):  # a mapping where a list is meant, or the reverse
        wanted = (
            hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
        )
        raise Refusal(f"{where}: {full}: {value!r} is not {wanted}") from None
    if not _finite(found) and _finite(next(f.default for f in fields(cls) if f.name == key)):
        raise Refusal(f"{where}: {full}: {value} is not a finite number")
    return found


def _finite(value: Any) -> bool:
    """Whether every number in it is."""
    if isinstance(value, (list, tuple, dict)):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _mistaken(value: Any, hint: Any) -> str:
    """What OmegaConf would silently convert: a bool for a number, ..., or ."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, (list, tuple)) and kind in (list, tuple):
        fixed = kind is tuple and Ellipsis not in inner
        if fixed and len(value) != len(inner):
            return f"{value!r} has {len(value)} values, {len(inner)} are needed"
        kinds = inner if fixed else [inner[0]] * len(value)
        return next(filter(None, map(_mistaken, value, kinds)), "")
    if isinstance(value, dict) and kind is dict:
        return next(filter(None, (_mistaken(v, inner[1]) for v in value.values())), "")
    kinds = inner if kind in (types.UnionType, typing.Union) else (hint,)
    if isinstance(value, bool) and not {bool, Any} & {*kinds}:
        return f"{str(value).lower()} is not {getattr(kinds[0], '__name__', kinds[0])}" + _quote(
            kinds
        )
    if isinstance(value, float) and kinds[0] is str:
        return f"{value} is not a text" + _quote(kinds)
    if bool in kinds and isinstance(value, int) and value not in (0, 1):
        return f"{value} is not bool; true or false"
    return ""


def _quote(kinds: tuple[Any, ...]) -> str:
    return "; put it in quotes inside the quotes of the shell: '\"...\"'" if str in kinds else ""
