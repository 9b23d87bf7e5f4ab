"""Two real processes (gloo) against one: the same weights after the same global batches."""

import pytest
from helpers import TINY, largest_difference, load, overrides, script

pytestmark = pytest.mark.ddp
GAN = "discriminator={weight: 0.5, warmup: 3, channels: 8, layers: 1}"


def trained(kind, output, *more):
    done = script("train.py", "--config", TINY / f"{kind}.yaml", *overrides(kind, output, *more))
    assert done.returncode == 0, done.stderr
    return load(output / f"tiny-{kind}" / "last.ckpt")


@pytest.mark.parametrize(
    "kind, more",
    [
        pytest.param("pixel", ("trainer.max_steps=20", "sample.count=5"), id="pixel"),
        pytest.param("autoencoder", ("trainer.max_steps=20",), id="autoencoder", marks=pytest.mark.slow),
        pytest.param("autoencoder", ("trainer.max_steps=20", GAN), id="gan"),
    ],
)
def test_two_processes_equal_one_on_the_union_batch(tmp_path, kind, more):
    """20 steps of 2 x B on two processes; of B accumulated twice on one: noise, times and rows are the same."""
    two = trained(kind, tmp_path / "two", "trainer.devices=2", *more)
    one = trained(kind, tmp_path / "one", "trainer.accumulate=2", *more)
    assert two["global_step"] == one["global_step"] == 20
    assert largest_difference(two["state_dict"], one["state_dict"]) < 1e-6
    assert largest_difference(two["ldm"]["ema"]["weights"], one["ldm"]["ema"]["weights"]) < 1e-6
    assert two["ldm"]["images_seen"] == one["ldm"]["images_seen"]
    pictures = [sorted(p.name for p in (tmp_path / n / f"tiny-{kind}" / "samples").iterdir()) for n in ("one", "two")]
    assert pictures[0] == pictures[1]


def test_latent_stage_on_two_processes(stage1, tmp_path):
    """Whitening measured by two ranks, each on its half, is what one measures; grids at fixed seeds are equal."""
    more = (f"space.autoencoder={stage1}", "trainer.max_steps=20")
    two = trained("latent", tmp_path / "two", "trainer.devices=2", *more)
    one = trained("latent", tmp_path / "one", "trainer.accumulate=2", *more)
    for name in ("space.mean", "space.std"):
        assert (two["state_dict"][name] - one["state_dict"][name]).abs().max() < 1e-6
    assert largest_difference(two["state_dict"], one["state_dict"]) < 1e-6
