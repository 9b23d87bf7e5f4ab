"""Batches of samples: how far they are filled up, and that within one size a seed is its sample."""

import pytest
import torch

from ldm.config import SampleConfig
from ldm.sampling.generate import generate, job_settings
from ldm.sampling.model import restore
from ldm.sampling.settings import Overrides


@pytest.mark.parametrize(
    "count, most, size",
    [
        *[(1, 64, 1), (2, 64, 4), (4, 64, 4), (5, 64, 16), (17, 64, 64), (64, 64, 64)],
        *[(65, 200, 200), (2, 3, 3), (5, 5, 5), (3, 3, 3), (1, 1, 1)],
    ],
)
def test_a_batch_is_filled_up_to_the_next_size(count, most, size):
    assert job_settings(SampleConfig(batch_size=most), count).batch_size == size


def test_two_samples_do_not_cost_what_64_do(pixel_run):
    """The rows that the network is given; and within one size a sample depends on its seed alone."""
    model, rows = restore(pixel_run), []
    settings = Overrides("EulerMaruyama", steps=2, batch_size=64).over(model.settings)
    model.denoiser.net.register_forward_hook(lambda _, args, out: rows.append(len(args[0])))
    two = generate(model, job_settings(settings, 2), [7, 3])
    assert {*rows} == {4} or {*rows} == {8}  # the null condition's beside the condition's
    three = generate(model, job_settings(settings, 3), [3, 8, 9])
    assert torch.equal(two[1], three[0]) and not torch.equal(two[0], three[0])
