"""The settings of a run as a link carries them and the history keeps them, by sample.py's names."""

import html
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from ldm.config import AnySolver
from ldm.demo.base import Click, Kind, Site
from ldm.demo.limits import LARGEST_SEED, number, typed, whole_number
from ldm.errors import Refusal, one_of
from ldm.sampling.model import Model

NUMBERS = ("solver", "steps", "guidance", "seed", "count")
MOST_KEYS, LONGEST = 20, 2000  # of a query string that is read
OWN = re.compile(r"__\w+|view")  # of Gradio's own page: its theme, its language
Settings = dict[str, Any]


def solvers_of(model: Model) -> list[str]:
    """Names of the solvers that fit a model: a student of few steps has its own."""
    few = model.settings.solver.few
    return [kind.__name__ for kind in AnySolver.__args__ if kind.few == few]


def keys_of(kind: Kind) -> tuple[str, ...]:
    """What a link can carry, in the order of the page's fields."""
    return ("label", kind.key, *NUMBERS)


def settings_of(click: Click, kind: Kind) -> Settings:
    """What was chosen; a class or a prompt that was not is left out."""
    asked = click.asked
    chosen = {"label": click.label, kind.key: click.control or None}
    chosen |= {key: getattr(asked, key) for key in NUMBERS}
    return {key: value for key, value in chosen.items() if value is not None}


def link(settings: Settings) -> str:
    """A link to this page with the settings, as HTML; relative, so that any name of it will do."""
    query = html.escape(urlencode(settings))
    return f'<a id="link" href="?{query}">Link to these settings</a>'


def read_query(query: Mapping[str, str], site: Site, kind: Kind) -> tuple[Settings, list[str]]:
    """The settings of a query string, and a line for each part of it that cannot be used.

    It is a stranger's: each value is checked as a click's is, and what a line repeats of it is cut
    and cannot be markup.
    """
    pairs = [(str(key), str(value)) for key, value in query.items() if not OWN.fullmatch(str(key))]
    if len(pairs) > MOST_KEYS or sum(len(key) + len(value) for key, value in pairs) > LONGEST:
        return {}, ["It is too long to be a link of this page"]
    found, problems, known = {}, [], keys_of(kind)
    for key, value in pairs:
        if key not in known:
            problems.append(f"{harmless(key)} is not a setting; known are {', '.join(known)}")
            continue
        try:
            found[key] = checked(key, value, site, kind)
        except Refusal as error:
            problems.append(harmless(str(error).removeprefix("--"), 200))
    return found, problems


def checked(key: str, text: str, site: Site, kind: Kind) -> Any:
    """The value of one key. Refusal where it cannot be."""
    model, limits = site.model, site.limits
    if key == "label":
        return model.classes[model.label(text)]
    if key == kind.key:
        return kind.checked(site, text)
    if key == "solver":
        if text not in (known := solvers_of(model)):
            raise Refusal(one_of("solver", text, known))
        return text
    if key == "guidance":
        return number(key, typed(text), 0, limits.guidance)
    low, high = {
        "steps": (1, limits.steps),
        "seed": (0, LARGEST_SEED - limits.count),
        "count": (1, limits.count),
    }[key]
    return whole_number(key, typed(text), low, high)


def harmless(text: str, most: int = 40) -> str:
    """A text of a stranger's as Markdown shows it: cut, and nothing in it is markup."""
    return re.sub(r"[^\w .,:;'?/+-]", "?", text)[:most]
