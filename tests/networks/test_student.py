"""A network of one's own (docs/extending.md's DiT) gets what it declares, and is refused what it
does not.
"""

import re
import sys
from dataclasses import replace
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from helpers import ROOT, captioned, run_config

from ldm.networks.base import NetworkConfig
from ldm.training.run import train_run


@pytest.fixture(scope="module")
def dit():
    """The page's file as a module."""
    page = (ROOT / "docs" / "extending.md").read_text()
    (code,) = re.findall(r"```python\n(\"\"\"A small DiT.*?)\n```", page, re.DOTALL)
    module = sys.modules["student_dit"] = ModuleType("student_dit")
    exec(code, module.__dict__)
    return module


def test_it_supports_label_and_caption(dit):
    torch.manual_seed(0)
    net = dit.DiT().build((3, 8, 8), classes=4, text=12)
    x, c_noise, label = torch.randn(2, 3, 8, 8), torch.tensor([10.0, 700.0]), torch.tensor([0, 4])
    text, mask = torch.randn(2, 5, 12), torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    whole = net(x, c_noise, label, text, mask)
    assert whole.shape == x.shape
    assert not torch.allclose(whole, net(x, c_noise, label))
    # an empty caption is none
    assert torch.allclose(whole[1], net(x, c_noise, label)[1], atol=1e-5)
    assert not torch.allclose(net(x, c_noise, label), net(x, c_noise, label.flip(0)))


def test_a_run_of_captions_trains_it(dit, clip, captioned_pictures, tmp_path):
    given = captioned(clip, captioned_pictures, "trainer.max_steps=2")
    run = replace(run_config("pixel", tmp_path, *given), network=dit.DiT(dim=16, heads=2, layers=1))
    seen = []
    forward = dit.DiTNetwork.forward

    def watched(net, x, c_noise, label=None, text=None, text_mask=None):
        seen.append((text is not None, label is not None))
        return forward(net, x, c_noise, label, text, text_mask)

    dit.DiTNetwork.forward = watched
    train_run(run)
    assert seen and all(text and not label for text, label in seen)


class Deaf(NetworkConfig):
    supports: ClassVar[frozenset[str]] = frozenset()


class Clouds(NetworkConfig):
    modality: ClassVar[str] = "clouds"


def test_a_config_says_what_a_network_does_not_take(clip, captioned_pictures, tmp_path):
    run = run_config("pixel", tmp_path)
    with pytest.raises(ValueError, match="condition=text: network Deaf does not support captions"):
        replace(run, network=Deaf(), condition="text")
    with pytest.raises(ValueError, match="network Clouds is for clouds"):
        replace(run, network=Clouds())
