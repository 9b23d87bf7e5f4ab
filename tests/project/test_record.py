"""The recipes of the record: each one's loss and sampler fit each other, and a run goes on as it was.

Of data that are one picture the right network is known: by it a recipe's loss is 0, and its sampler
gives the picture (smalldiffusion stops at sigma = 0.01).
"""

import json

import pytest
import torch
from helpers import ROOT

from benchmarks import record
from ldm.diffusion.schedules import expand
from ldm.errors import Refusal

ONE = 0.4 * torch.ones(1, *record.SHAPE)


def exact(name):
    """The network that is right where every picture is ONE, in the recipe's own units."""

    def ours(x, c_noise):
        t = (c_noise / 1000).double()
        skip, out, into = record.OURS.loss.coefficients(record.OURS.schedule, t)
        x_t = x / expand(into, x)
        return ((ONE - expand(skip, x) * x_t) / expand(out, x)).float()

    def of_table(law, predict):
        def net(x, t):
            alpha = law[t.long()].sqrt()[:, None, None, None]
            sigma = (1 - alpha**2).sqrt()
            eps = (x - alpha * ONE) / sigma
            return eps if predict == "eps" else alpha * eps - sigma * ONE

        return net

    def small(x, c_noise):
        sigma = (0.01 * (20 / 0.01) ** (c_noise / 1000))[:, None, None, None]
        return (x * (sigma**2 + 1).sqrt() - ONE) / sigma

    betas = torch.linspace(1e-4, 0.02, 1000)
    return {
        "ours": ours,
        "diffusers": of_table((1 - betas).cumprod(0), "eps"),
        "lucidrains": of_table(record.sigmoid_law(), "v"),
        "smalldiffusion": small,
    }[name]


@pytest.mark.parametrize("name", record.RECIPES)
def test_loss_and_sampler_of_a_recipe_fit(name):
    recipe, random = record.RECIPES[name](), torch.Generator().manual_seed(0)
    x = ONE.expand(64, -1, -1, -1)
    assert recipe.loss(exact(name), x, random).item() < 1e-4
    wrong = lambda x, t: exact(name)(x, t) + 0.5
    assert recipe.loss(wrong, x, random).item() == pytest.approx(0.25, rel=0.05)
    for steps in (recipe.steps, min(recipe.steps, 100)):  # as shipped, and bounded
        with torch.inference_mode():
            made = recipe.sample(exact(name), 2, steps, random)
        assert made.shape == (2, *record.SHAPE) and (made - ONE).abs().max() < 0.05


def test_rates_and_averages_are_those_published():
    ours, theirs, lucid, small = (record.RECIPES[name]() for name in record.RECIPES)
    assert theirs.rate(499, 0.0) == 1e-4 and theirs.rate(0, 0.0) == pytest.approx(2e-7)
    assert theirs.rate(10_000, 1.0) == pytest.approx(0) and ours.rate(10_000, 0.5) == 2.5e-4
    assert theirs.decay(10**9) == 0.9999 and theirs.decay(15) == pytest.approx(1 - 16**-0.75)
    assert (lucid.decay(5000), lucid.every, small.batch, small.rate(0, 0)) == (
        0.995,
        10,
        1024,
        7e-4,
    )
    law = record.sigmoid_law()
    assert law[0] > 0.998 and law[-1] < 1e-4 and (law.diff() < 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ours", "lucidrains"])
def test_a_run_goes_on_as_if_it_had_not_stopped(name, tmp_path):
    images = torch.randint(0, 256, (50, *record.SHAPE)).byte()
    whole, part = (
        record.Run(name, record.RECIPES[name](), 3, tmp_path / kind) for kind in ("a", "b")
    )
    (tmp_path / "b").mkdir()
    for run in (whole, part):
        run.recipe.batch, run.recipe.every = 4, 2
    for _ in range(4):
        whole.update(images, 0.5)
    part.update(images, 0.5)
    part.save()
    again = record.Run(name, record.RECIPES[name](), 3, tmp_path / "b")
    again.recipe.batch, again.recipe.every = 4, 2
    for _ in range(3):
        again.update(images, 0.5)
    for key, value in whole.average.items():
        assert torch.equal(value, again.average[key]), key
    assert again.step == 4


def test_the_table_compares_with_the_best_peer():
    rows = [
        {"recipe": name, "seed": seed, "fd_fashion_1000": value}
        for name, value in (("ours", 3.0), ("diffusers", 8.0), ("smalldiffusion", 5.0))
        for seed in (0, 1)
    ]
    text = record.table(json.loads(json.dumps(rows)))
    assert "| ours | 3.00 (3.00 to 3.00) | 2 |" in text and "lucidrains" not in text
    assert text.endswith("ours over the best peer's: 0.60")
    rows.append({"recipe": "mine", "seed": 0, "fd_fashion_1000": 2.0})
    text = record.table(rows)
    assert "| mine | 2.00 (2.00 to 2.00) | 1 |" in text
    assert text.endswith("ours over the best peer's: 0.60\nmine over the best peer's: 0.40")


def test_a_config_may_try():
    """Its own rates, batch and sampler; what is no recipe of pixels is one line."""
    shipped = str(ROOT / "configs/fashion/pixel-cpu.yaml")
    ours, mine = record.ours(), record.tried(shipped, "optim.lr=0.25", "sample.steps=7")
    (recipe,) = (make() for make in mine.values())
    assert (recipe.steps, recipe.batch) == (7, ours.batch) and list(mine) == ["fashion-pixel-cpu"]
    assert recipe.rate(10**6, 0) == 0.25 and ours.rate(10**6, 0) != 0.25
    for path in ("configs/fashion/latent-cpu.yaml", "configs/fashion/autoencoder-cpu.yaml"):
        with pytest.raises(Refusal, match="is not of diffusion in pixels"):
            record.tried(str(ROOT / path))
    with pytest.raises(Refusal, match="a decay that is not cosine"):
        record.tried(shipped, "optim.decay=constant")
    with pytest.raises(Refusal, match="is the name of a recipe; add name=NAME"):
        record.tried(shipped, "name=ours")
