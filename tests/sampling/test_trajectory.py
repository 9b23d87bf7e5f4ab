"""The way to noise and back: the chain's exact law, and pictures that are of the very samples."""

import numpy as np
import pytest
import torch
from helpers import here
from PIL import Image

from ldm.diffusion.schedules import VE, VP, Cosine, Discrete, Linear, SubVP
from ldm.diffusion.simulate import noising
from ldm.diffusion.solvers import start
from ldm.pictures.labels import GAP, side_of
from ldm.sampling.generate import generate
from ldm.sampling.model import restore
from ldm.sampling.trajectory import Recorder
from ldm.system.randomness import SampleNoise


@pytest.mark.parametrize("schedule", [VP(), SubVP(), Cosine(), VE(), Linear(), Discrete()])
def test_the_markov_chain_has_the_jumps_law(schedule):
    """Exactly, without Monte Carlo: x_s is linear in x_0 and the noises, so unit noises give its
    standard deviation.
    """
    times = schedule.grid(7).flip(0).double()
    alpha, sigma = schedule(times)
    units = iter(torch.eye(7, dtype=torch.float64))
    mean = noising(schedule, torch.ones(1, dtype=torch.float64), times, lambda: torch.zeros(1))[
        :, 0
    ]
    noise = noising(schedule, torch.zeros(7, dtype=torch.float64), times, lambda: next(units))
    torch.testing.assert_close(mean, alpha / alpha[0])
    first = (sigma[0] * alpha / alpha[0]).square()
    torch.testing.assert_close(noise.square().sum(1), sigma.square() - first, rtol=1e-9, atol=1e-12)
    assert (
        noise[-1, :-1] != 0
    ).any() or schedule == Linear()  # a chain, not jumps: old noise is still in it
    with pytest.raises(ValueError, match="times must increase"):
        noising(schedule, mean[:1], times.flip(0), lambda: torch.zeros(1))


@pytest.mark.parametrize("kind", ["pixel_run", "latent_run"])
def test_what_is_drawn_is_what_was_sampled(kind, request):
    model = restore(request.getfixturevalue(kind))
    recorder = Recorder(model, model.settings, range(3, 14), 2)
    images = generate(model, model.settings, range(3, 14), watch=recorder)
    assert torch.equal(
        images, generate(model, model.settings, range(3, 14))
    )  # to look changes nothing
    rows, times = recorder.rows(100)
    assert rows.shape == (3, 5, 2, 1, 8, 8) and times[0] == 1 and times[-1] == 0
    for row in rows:  # all three end in the samples, but for the last bits of another batch shape
        assert (row[-1].int() - images[:2].int()).abs().max() <= 1
    noise = start(model.denoiser.schedule, times[0], SampleNoise([3, 4], model.space.shape)())
    first = ((model.space.decode(noise) + 1) * 127.5).round().byte()
    assert (rows[1, 0].int() - first.int()).abs().max() <= 1
    assert not torch.equal(rows[0, 0], rows[1, 0])  # the chain has noise of its own
    assert len(recorder.rows(3)[1]) == 3


@pytest.mark.slow
def test_sample_draws_it(pixel_run, tmp_path):
    done = here(
        "sample.py",
        "--checkpoint",
        pixel_run,
        "--output",
        tmp_path / "a",
        "--count",
        3,
        "--trajectory",
        2,
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "a" / "trajectory.gif") as gif:
        assert gif.n_frames == 10  # five times there, five back
        size = gif.size
    strip = Image.open(tmp_path / "a" / "trajectory.png")
    assert strip.height > size[1] and size[0] < strip.width
    side = side_of(8, 5)
    sample = Image.open(tmp_path / "a" / "00000001.png")
    sample = sample.resize((side, side), Image.Resampling.NEAREST)
    row = side + 2 * GAP  # the last: x_0 as predicted; above it x_t, each ending in the sample
    for up in (0, row):
        right, low = strip.width - GAP, strip.height - GAP - up
        last = strip.crop((right - side, low - side, right, low)).convert("L")
        assert np.abs(np.asarray(last, int) - np.asarray(sample, int)).max() <= 1
    names = strip.crop((0, 0, strip.width - 5 * (side + GAP), strip.height)).convert("L")
    dark = np.asarray(names)[40:] < 128  # what stands at the left of every row
    rows = np.array_split(dark[-3 * row - 50 :], 3)
    assert all(part.sum() > 30 for part in rows)
    times = np.asarray(strip.convert("L"))[-row - side - GAP - 16 : -row - side - 2 * GAP]
    for part in np.array_split(times[:, -5 * (side + GAP) :], 5, 1):  # letters on white
        assert (part < 128).sum() > 20 and (part > 250).mean() > 0.5
    done = here(
        "sample.py",
        "--checkpoint",
        pixel_run,
        "--output",
        tmp_path / "b",
        "--count",
        3,
        "--trajectory",
        4,
    )
    assert (
        done.returncode == 2
        and "--trajectory: 4 samples cannot be shown of --count 3" in done.stderr
    )
