"""Links and history: what is carried, what a stranger's query string can do, how much is kept."""

import re
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import pytest
import torch
from PIL import Image

from ldm.config import SampleConfig
from ldm.demo.base import Click, Shown, Site
from ldm.demo.history import KEPT, History, Run
from ldm.demo.jets import JetKind
from ldm.demo.limits import Asked, Limits, new_seed
from ldm.demo.links import link, read_query, settings_of
from ldm.demo.samples import PictureKind
from ldm.diffusion.solvers import Consistency
from ldm.errors import Refusal

ASKED = Asked("Heun", 30, 2.5, 7, 4)


def site(classes=(), text=None, constituents=30, settings=SampleConfig()):
    """Of a model, of which a link needs little."""

    def label(name):
        if name not in classes:
            raise Refusal(f"--label: '{name}' is not one of the {len(classes)} classes")
        return classes.index(name)

    space = SimpleNamespace(shape=(constituents, 3))
    parts = {"classes": classes, "text": text, "label": label, "space": space}
    return Site(SimpleNamespace(**parts, settings=settings), Limits())


def carried(click, kind):
    """The settings after a click, by way of the link's own query string."""
    address = re.search('href="([^"]*)"', link(settings_of(click, kind)))[1].replace("&amp;", "&")
    return read_query(dict(parse_qsl(urlsplit(address).query)), click.site, kind)


def test_a_link_carries_every_setting():
    of = site(("T-shirt", "a & b"), text=object())
    click = Click(of, ASKED, "a & b", 'two "hearts" <b>&seed=9 ♥')
    expected = {"label": "a & b", "prompt": 'two "hearts" <b>&seed=9 ♥', "solver": "Heun"}
    expected |= {"steps": 30, "guidance": 2.5, "seed": 7, "count": 4}
    assert carried(click, PictureKind()) == (expected, [])
    found, problems = carried(Click(of, ASKED, None, 12), JetKind())
    assert found["constituents"] == 12 and "label" not in found and not problems


def test_a_student_of_few_steps_has_its_own_solver_alone():
    few = site(settings=SampleConfig(solver=Consistency(2), steps=2))
    assert read_query({"solver": "Consistency"}, few, PictureKind()) == (
        {"solver": "Consistency"},
        [],
    )
    for of, name in ((few, "DDIM"), (site(), "Consistency")):
        found, (problem,) = read_query({"solver": name}, of, PictureKind())
        assert not found and "is not one of" in problem


def test_a_links_markup_is_text():
    text = link({"prompt": '"><script>alert(1)</script>', "seed": 1})
    assert "<script" not in text and text.count('"') == 4


@pytest.mark.parametrize(
    "query, line",
    [
        ({"foo": "1"}, "foo is not a setting; known are label, prompt, solver"),
        ({"<img src=x onerror=alert(1)>": "1"}, "?img src?x onerror?alert"),
        ({"constituents": "3"}, "constituents is not a setting"),
        ({"label": "Hat"}, "label: 'Hat' is not one of"),
        ({"prompt": "a heart"}, "takes no prompt"),
        ({"solver": "__import__('os')"}, "solver: '__import__"),
        ({"solver": "heun"}, "did you mean 'Heun'"),
        ({"steps": "1e9"}, "steps: 1000000000 is not a whole number from 1 to 250"),
        ({"steps": "2.5"}, "steps: 2.5 is not"),
        ({"steps": "9" * 400}, "steps: nan is not"),
        ({"guidance": "nan"}, "guidance: nan is not a number"),
        ({"guidance": "inf"}, "guidance: inf is not a number"),
        ({"seed": "-1"}, "seed: -1 is not"),
        ({"seed": "\x1b[2J"}, "seed: "),
        ({"count": "17"}, "count: 17 is not a whole number from 1 to 16"),
        ({"seed": "x" * 3000}, "too long"),
        ({str(i): "1" for i in range(30)}, "too long"),
    ],
)
def test_what_is_wrong_in_a_strangers_link_is_named_and_left_out(query, line):
    found, problems = read_query(query, site(("T-shirt",)), PictureKind())
    assert not found and len(problems) == 1 and line in problems[0], problems
    assert len(problems[0]) < 300 and not re.search(r"[<>&`$\x00-\x1f]", problems[0])


def test_the_rest_of_such_a_link_is_used():
    query = {"foo": "1", "steps": "30", "count": "x", "label": "T-shirt", "__theme": "dark"}
    found, problems = read_query(query, site(("T-shirt",)), PictureKind())
    assert found == {"steps": 30, "label": "T-shirt"} and len(problems) == 2


def test_the_history_is_bounded_in_number_and_memory():
    history, large = History(), Shown(Image.new("RGB", (3000, 2000)), "", samples=torch.zeros(9))
    for seed in range(30):
        settings = settings_of(Click(site(), Asked("Heun", 30, 2.5, seed, 4)), PictureKind())
        history = history.with_run(Run.of(large, settings))
    assert [run.settings["seed"] for run in history.runs] == list(range(29, 29 - KEPT, -1))
    assert sum(run.small.nbytes for run in history.runs) < 400_000
    assert history.settings(0)["seed"] == 29
    assert history.gallery()[1][1] == "seed 28, Heun, 30 steps, guidance 2.5"
    for index in (-1, KEPT, "0", None, [0, 0]):
        with pytest.raises(Refusal, match="run: "):
            history.settings(index)


def test_new_seeds_are_new_and_short():
    seeds = {new_seed() for _ in range(50)}
    assert len(seeds) > 45 and all(0 <= seed < 1_000_000 for seed in seeds)
