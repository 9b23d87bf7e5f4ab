"""Averages of weights: power-function profiles against their integrals, post-hoc reconstruction
against the one tracked.
"""

import numpy as np
import pytest
import torch
from helpers import load, run_config
from torch import nn

from ldm.checkpoints.averaging import coefficients, exponent, reconstruct, write_snapshot
from ldm.errors import Refusal
from ldm.sampling.model import restore
from ldm.training.ema import EMA
from ldm.training.run import train_run

KEPT = (0.05, 0.10)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2])
def test_width_is_the_standard_deviation_of_the_profile(width):
    u = np.linspace(0, 1, 2_000_001)
    density = u ** exponent(width)
    density /= density.sum()
    mean = (u * density).sum()
    assert np.sqrt(((u - mean) ** 2 * density).sum()) == pytest.approx(width, rel=1e-4)


def walk(steps=600, widths=KEPT, folder=None, every=100):
    """A net on a smooth path with noise, as weights in training are, and its averages; snapshots on
    the way.
    """
    net = nn.Linear(40, 5, bias=False)
    ema = EMA(net, (0.9,), widths)
    generator = torch.Generator().manual_seed(0)
    phase = torch.rand(5, 40, generator=generator) * 6
    for step in range(1, steps + 1):
        noise = 0.3 * torch.randn(5, 40, generator=generator)
        net.weight.data = (step / 150 + phase).sin() + noise
        ema.update()
        if folder is not None and step % every == 0:
            write_snapshot(folder, step, {w: ema.powers[w] for w in KEPT})
    return ema


def test_post_hoc_average_of_a_width_never_kept(tmp_path):
    """Six snapshots of two widths make any other as if it had been tracked: nearer by far than the
    nearest one kept.
    """
    averages = walk(widths=(*KEPT, 0.07, 0.15), folder=tmp_path).powers
    tracked, averages = averages, {w: averages[w] for w in KEPT}
    for width, neighbour in ((0.07, 0.05), (0.15, 0.10)):
        truth = tracked[width]["weight"]
        found = reconstruct(tmp_path, 600, averages, width)["weight"]
        assert (found - truth).norm() < 0.1 * (tracked[neighbour]["weight"] - truth).norm()
    assert torch.allclose(
        reconstruct(tmp_path, 600, averages, 0.05)["weight"], tracked[0.05]["weight"], atol=1e-5
    )


def test_post_hoc_average_of_an_earlier_step(tmp_path):
    walk(folder=tmp_path)
    then = walk(steps=400, widths=(*KEPT, 0.08)).powers
    found = reconstruct(tmp_path, 400, {w: then[w] for w in KEPT}, 0.08)["weight"]
    assert (found - then[0.08]["weight"]).norm() < 0.02 * then[0.08]["weight"].norm()


def test_coefficients_of_a_kept_profile_are_one_hot():
    kept = [(100, 0.05), (200, 0.05), (200, 0.10)]
    assert coefficients(kept, (200, 0.05)) == pytest.approx([0, 1, 0], abs=1e-9)


@pytest.mark.slow
def test_every_average_of_a_run_samples(tmp_path):
    """Two decays and the post-hoc widths, in one run that was stopped and resumed: each loads, all
    differ, bits are kept.
    """
    more = (
        "optim={ema: 0.9, ema_more: [0.5], posthoc: 2}",
        "trainer.save=4",
        "trainer.max_steps=14",
    )
    whole = train_run(run_config("pixel", tmp_path / "whole", *more))
    train_run(
        run_config("pixel", tmp_path / "parts", *more, "trainer.max_steps=12")
    )  # from step 9 on the decays differ
    parts = train_run(run_config("pixel", tmp_path / "parts", *more), resume=True)
    names = ("raw", "ema", "ema:0.9", "ema:0.5", "ema:0.05", "ema:0.1", "ema:0.2")
    nets = {name: restore(whole, name).denoiser.net.state_dict() for name in names}
    flat = {name: torch.cat([v.flatten() for v in net.values()]) for name, net in nets.items()}
    assert torch.equal(flat["ema"], flat["ema:0.9"])
    rest = [name for name in names if name != "ema"]
    assert all(not torch.equal(flat[a], flat[b]) for i, a in enumerate(rest) for b in rest[:i])
    for name in names:
        again = restore(parts, name).denoiser.net.state_dict()
        assert all(torch.equal(again[k], v) for k, v in nets[name].items()), name
    kept = load(whole / "last.ckpt")["ldm"]["ema"]
    assert [d for d, _ in kept["more"]] == [0.5] and [w for w, _ in kept["power"]] == list(KEPT)


def test_bad_weights(pixel_run, tmp_path):
    table = [
        ("best", "is not ema, raw"),
        ("ema:", "is not ema, raw"),
        ("ema:0.77", "no average of decay 0.77"),
        ("ema:0.05", "kept no power averages; train with optim.posthoc"),
        ("ema:0.4", "relative width is between"),
        ("ema:nan", "no average|relative width"),
    ]
    for which, message in table:
        with pytest.raises(Refusal, match=message):
            restore(pixel_run, which)
    now = walk(steps=100, folder=tmp_path / "snapshots").powers
    path = tmp_path / "snapshots" / "00000100.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(Refusal, match=r"00000100.safetensors is damaged"):
        reconstruct(tmp_path / "snapshots", 200, now, 0.05)
