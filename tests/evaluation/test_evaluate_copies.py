"""Copies are found where there are some, and told from what held-out pictures are: on the digits."""

import json

import pytest
import torch
from helpers import column_of, here, run_config
from PIL import Image

from ldm.errors import Refusal
from ldm.evaluation.copies import Copies, Views, pairs, said
from ldm.evaluation.pictures import Asked
from ldm.metrics.features import choose
from ldm.pictures.images import Digits, Images
from ldm.sampling.model import restore
from ldm.system.processes import Ranks
from ldm.training.run import train_run


@pytest.fixture(scope="module")
def views():
    return Views(choose("digits"))


@pytest.fixture(scope="module")
def digits():
    return Digits().load()


def test_copies_are_told_from_fresh_pictures(views, digits):
    """Training pictures as samples, some changed in one pixel; then held-out ones in their place."""
    copied = digits.train.images[:100].clone()
    copied[:50, :, 0, 0] += 16
    for found in Copies(digits, views).of(views(copied), quiet=True):
        assert found.nearest.tolist() == list(range(100)), found.view
        assert found.copied and found.share == 1, found.view
        assert found.figures()[f"copies_auc_{found.view}_100"].value > 0.99
    pixels = Copies(digits, views).of(views(copied), quiet=True)[0]
    assert pixels.samples[50:].max() == 0  # exact ones, whatever a matrix product makes of them
    assert pixels.samples[:50] == pytest.approx(16 / 255 / 8)
    halves = [digits.test.rows(list(range(i, 297, 2))) for i in (0, 1)]
    rest = Images(digits.train, halves[1], digits.classes, digits.shape)
    for found in Copies(rest, views).of(views(halves[0].images), quiet=True):
        auc = found.figures()[f"copies_auc_{found.view}_149"]
        assert not found.copied and abs(auc.value - 0.5) < 3 * auc.std, found.view


def test_mirrored_copies_are_found_where_training_mirrors(views, digits):
    turned = views(digits.train.images[:60].flip(-1))
    plain, mirrored = (
        Copies(digits, views, flip).of(turned, quiet=True)[0] for flip in (False, True)
    )
    assert plain.samples.max() != 0
    assert mirrored.samples.max() == 0 and mirrored.nearest.tolist() == [*range(1500, 1560)]
    copies = Copies(digits, views, True)
    assert torch.equal(
        copies.picture([1500, 3]),
        digits.train.images[[0, 3]].where(
            torch.tensor([False, True])[:, None, None, None], digits.train.images[[0, 3]].flip(-1)
        ),
    )


def test_ranks_share_the_training_pictures(views, digits):
    """What two ranks find in their halves is, together, what one finds."""
    copies, queries, seen = Copies(digits, views), views(digits.test.images[:40]), ([], [])
    for rank in (0, 1):
        keep = lambda rows, mine=seen[rank]: mine.append(rows) or rows[None]
        copies._search(queries, Ranks(rank, 2, keep), True)
    both = iter([torch.stack(pair) for pair in zip(*seen, strict=True)])
    together = copies._search(queries, Ranks(0, 2, lambda rows: next(both)), True)
    alone = copies._search(queries, Ranks(), True)
    for view, index in alone.items():
        assert torch.equal(together[view], index), view
        halves = [part[list(alone).index(view)][1].long() for part in seen]
        assert not any(torch.equal(half, index) for half in halves)


def test_too_few_held_out(views, digits):
    alone = Images(digits.train, digits.train, digits.classes, digits.shape)
    few = Images(digits.train, digits.test.rows([0, 1, 2]), digits.classes, digits.shape)
    for data, message in ((alone, "none of the pictures are held out"), (few, "3 of the pictures")):
        with pytest.raises(Refusal, match=message):
            Copies(data, views)


def test_evaluate_writes_figures_and_pairs(pixel_run, jets_run, tmp_path):
    out = tmp_path / "out"
    more = ("--steps", 2, "--count", 20, "--metrics", "fd", "--output", out, "--cache", tmp_path)
    done = here("evaluate.py", "--checkpoint", pixel_run, "--copies", *more)
    assert done.returncode == 0, done.stderr
    found = {
        line["metric"]: line
        for line in map(json.loads, (out / "records.jsonl").read_text().splitlines())
    }
    names = [
        f"copies_{what}_{view}_20" for view in ("pixels", "digits") for what in ("auc", "share")
    ]
    assert [*found] == ["fd_digits_20", *names]
    assert (
        found["copies_auc_pixels_20"]["value"] < 0.1
    )  # 8 steps of training: noise is near nothing
    assert "Closer to a training picture than 1 in 100 held-out ones" in done.stdout
    (path,) = out.glob("copies-*-8.png")
    with Image.open(path) as picture:
        assert picture.width > 400 and picture.height > 300
    refused = here("evaluate.py", "--checkpoint", jets_run, "--copies")
    assert (
        refused.returncode == 2 and "--copies: it is of samples that are pictures" in refused.stderr
    )
    assert refused.stderr.count("\n") == 1


def test_the_pairs_are_the_closest_samples(views, digits, pixel_run):
    """The picture's first row is of the samples that are closest, made again by their seeds."""
    model, copies = restore(pixel_run), Copies(digits, views)
    asked = Asked(model, model.settings, range(5, 25))
    table = views(((asked.job().run() + 1) * 127.5).round().to(torch.uint8))
    found = copies.of(table, quiet=True)
    title = said(found, "a model")
    drawn = pairs(asked.job(), copies, found, title)
    order = found[0].samples.argsort(kind="stable")
    again = views(
        ((asked.job().rows(order[:3].tolist()).run() + 1) * 127.5).round().to(torch.uint8)
    )
    torch.testing.assert_close(again, table[order[:3].tolist()])
    assert "no more copies than by chance" in title and drawn.height > 4 * 64


@pytest.mark.slow
def test_copies_in_training(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    more = ("evaluate.every=4", "evaluate.count=20", "evaluate.copies=true")
    folder = train_run(run_config("pixel", tmp_path, *more))
    column = column_of(folder / "metrics.csv", "evaluate/copies_auc_digits_20")
    assert len(column) == 2 and all(float(value) < 0.5 for value in column.values())
    assert len([*(folder / "samples").glob("copies-*.png")]) == 2
    with pytest.raises(Exception, match=r"set evaluate\.every too"):
        run_config("pixel", tmp_path, "evaluate.copies=true")
