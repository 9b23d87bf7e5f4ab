"""Classifier-free guidance: on every channel, identity at 1, unconditional at 0."""

import pytest
import torch
from torch import nn

from ldm.diffusion.denoiser import Denoiser, Loss
from ldm.diffusion.schedules import VP
from ldm.diffusion.tasks import cfg


class Labelled(nn.Module):
    def forward(self, x, c_noise, label):
        return x * 0.1 + label.to(x)[:, None, None, None]


@pytest.mark.parametrize("channels", [1, 3, 4, 16])
def test_guidance(channels):
    denoiser = Denoiser(Labelled(), VP(), Loss("x0"))
    x, t = torch.randn(2, channels, 4, 4), torch.tensor(0.5)
    cond, null = {"label": torch.tensor([1, 2])}, {"label": torch.tensor([7, 7])}
    at = {w: cfg(denoiser, cond, null, w)(x, t) for w in (0.0, 1.0, 3.0)}
    assert torch.equal(at[1.0], denoiser(x, t, **cond))
    assert torch.allclose(at[0.0], denoiser(x, t, **null), atol=1e-6)
    difference = (at[3.0] - at[0.0]).mean((2, 3))
    assert torch.allclose(difference, 3 * torch.tensor([[-6.0], [-5.0]]).expand(2, channels), atol=1e-5)
