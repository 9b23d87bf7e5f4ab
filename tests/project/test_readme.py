"""README: short enough to be read, and its lines of Python run as written."""

import re

import pytest
import torch
from helpers import ROOT, TINY

import ldm

README = (ROOT / "README.md").read_text()


class Net(torch.nn.Module):
    """Anything that takes x and c_noise."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, x, c_noise):
        return self.linear(x)


def test_two_minutes_are_enough_to_read_it():
    assert len(README.splitlines()) <= 150


@pytest.mark.slow
def test_its_python_runs(tmp_path, monkeypatch):
    """As written, but that the training is of a tiny config."""
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    tiny = f'"{TINY / "pixel.yaml"}", "output={tmp_path}", "trainer.max_steps=2"'
    short, changed = re.subn(r'"fashion/pixel.yaml", "trainer.max_steps=1000"', tiny, code)
    assert changed == 1
    monkeypatch.chdir(ROOT)
    pictures = [(torch.full((1, 8, 8), i / 40), i % 2) for i in range(40)]
    names = {"net": Net(), "x_0": torch.randn(16, 2), "my_dataset": pictures}
    exec(short, names)
    assert names["bags"].shape == (16, 1, 28, 28) and names["bags"].dtype == torch.uint8
    assert names["x"].shape == (16, 2) and names["loss"] > 0
    assert len(ldm.load(names["folder"], device="cpu").sample(1, steps=2)) == 1
