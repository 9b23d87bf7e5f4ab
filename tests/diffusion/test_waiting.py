"""No solver waits for a device: it reads nothing there, and copies nothing to it at a step.

Numbers on the meta device cannot be read, and every operation on them is seen here.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ldm.diffusion import VP, Denoiser, Discrete, Linear, Loss, solvers
from ldm.diffusion.tasks import AveragePool, Repaint, cfg, project

SOLVERS = (
    solvers.DDPM(),
    solvers.DDPM(variance="large"),
    solvers.DDIM(),
    solvers.DDIM(0.5),
    solvers.Euler(),
    solvers.Heun(),
    solvers.Heun("angle"),
    solvers.EulerMaruyama(),
    solvers.PredictorCorrector(),
    solvers.EDMStochastic(),
    solvers.DPMpp2M(),
    solvers.DPMpp2MSDE(),
    solvers.DPMpp3M(),
    Repaint(solvers.DDIM()),
)


class Copies(TorchDispatchMode):
    """Notes what is copied from one device to another."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        source = {"aten::_to_copy": 0, "aten::copy_": 1}.get(name := func._schema.name)
        if source is not None and args[source].device != out.device:
            self.found.append(name)
        return out


class Net(torch.nn.Module):
    def forward(self, x, c_noise, label=None):
        return x * c_noise[:, None, None, None]


def run(solver, schedule, task=lambda denoise: denoise):
    denoiser = Denoiser(Net(), schedule, Loss(predict="v"))
    label = torch.zeros(2, dtype=torch.long, device="meta")
    denoise = task(cfg(denoiser, {"label": label}, {"label": label}, 2.0, (0.2, 0.8), 0.5))
    x = torch.empty(2, 1, 4, 4, device="meta")
    with torch.inference_mode(), Copies() as copies:
        times = schedule.grid(5)
        x = solvers.sample(solver, denoise, x, times, lambda: torch.empty_like(x))
    assert x.device.type == "meta"
    return copies.found


@pytest.mark.parametrize("schedule", [VP(), Linear(), Discrete()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_step_copies_nothing_and_reads_nothing(solver, schedule):
    assert run(solver, schedule) == []


def test_nor_does_a_projection():
    y = torch.empty(2, 1, 2, 2, device="meta")
    task = lambda denoise: project(denoise, AveragePool(2), y)
    assert run(solvers.DDIM(), VP(), task) == []


def test_times_filled_in_are_times_copied():
    """Rounded alike, in every kind of number."""
    from ldm.diffusion.denoiser import noise_levels

    for t in torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)):
        for kind in (torch.float32, torch.float64, torch.bfloat16):
            filled = torch.empty(1, dtype=kind).new_full((1,), float(1000 * t))
            assert torch.equal(filled, noise_levels(t, torch.empty(1, dtype=kind)))
