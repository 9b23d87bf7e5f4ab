"""Consistency: exact on Gaussian data, where the flow's end is known in closed form."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from ldm.diffusion.consistency import Consistency, carried, carrying, noised
from ldm.diffusion.denoiser import Denoiser, Draw, Loss
from ldm.diffusion.exact import Gaussian, law
from ldm.diffusion.schedules import VP, Cosine, Linear, expand
from ldm.diffusion.solvers import Consistency as Jumps
from ldm.diffusion.solvers import sample
from ldm.diffusion.tasks import cfg


class Flow(nn.Module):
    """The consistency function of N(mean, std^2): where the flow from (x_t, t) ends."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.exact = schedule, Gaussian(schedule)

    def forward(self, x_t, t):
        return self.exact.flow(x_t, expand(t, x_t), torch.zeros((), dtype=x_t.dtype))


class Jump(Gaussian):
    """The same as an estimate of x_0 by which DDIM goes to the end of t's segment."""

    def __init__(self, schedule, segments=1, grid="uniform"):
        super().__init__(schedule)
        self.ends = schedule.grid(segments, grid).flip(0)

    def __call__(self, x_t, t):
        t = t.expand(len(x_t)).contiguous()
        e = self.ends[torch.searchsorted(self.ends, t) - 1]
        x_e = self.flow(x_t, expand(t, x_t), expand(e, x_t))
        return carrying(self.schedule, x_t, x_e, t, e)


def drawn(count=4000, **more):
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, count, 1, generator=generator, dtype=torch.float64)
    u = torch.rand(count, generator=generator, dtype=torch.float64)
    return Draw(0.7 + 0.6 * x_0, u, eps, **more)


def teacher_of(exact):
    return lambda x_t, t: exact(x_t, expand(t, x_t))


class Net(nn.Module):
    """A small network of (x, t), and of a label."""

    def __init__(self, dtype=torch.float64, classes=0, width=64):
        super().__init__()
        self.embed = nn.Embedding(classes + 1, width, dtype=dtype)
        self.first = nn.Linear(2, width, dtype=dtype)
        self.rest = nn.Sequential(
            nn.SiLU(),
            nn.Linear(width, width, dtype=dtype),
            nn.SiLU(),
            nn.Linear(width, 1, dtype=dtype),
        )

    def forward(self, x, c_noise, label=None):
        hidden = self.first(torch.cat([x, c_noise[:, None] / 500 - 1], 1))
        return self.rest(hidden if label is None else hidden + self.embed(label))


@pytest.mark.parametrize("predict", ["v", "edm", "velocity"])
@pytest.mark.parametrize("schedule", [VP(), Cosine(), Linear()], ids=repr)
def test_the_boundary_is_exact(schedule, predict):
    """f(x, 0) = x whatever the network says, but where sigma' is infinite at 0."""
    finite = predict != "velocity" or isinstance(schedule, Linear)
    assert Consistency(predict=predict).bounded(schedule) == finite
    if not finite:
        return
    x = torch.randn(5, 1, dtype=torch.float64)
    net = Net()
    with torch.no_grad():
        net.rest[-1].bias.fill_(1e3)
    denoiser = Denoiser(net, schedule, Consistency(predict=predict))
    assert torch.equal(denoiser(x, torch.zeros(5, dtype=torch.float64)), x)


@pytest.mark.parametrize("predict", ["x0", "eps", "score"])
def test_what_has_no_boundary_is_refused(predict):
    with pytest.raises(ValueError, match="Consistency needs predict = v, edm, velocity"):
        Consistency(predict=predict)


def test_the_grid_grows_from_first_to_last():
    loss, u = Consistency(first=4, last=16), torch.tensor([0.0, 0.3, 0.999])
    for progress, steps in ((0.0, 4), (0.375, 8), (0.75, 16), (1.0, 16)):
        t, _, s, _ = loss.pairs(VP(), u, progress)
        assert torch.allclose(t - s, torch.full_like(t, 1 / steps))
        assert torch.allclose(t * steps, (t * steps).round()) and t.max() == 1 and s.min() == 0


@pytest.mark.parametrize("grid", ["uniform", "angle"])
def test_every_step_lies_in_its_segment(grid):
    """Whatever the grid has grown to, segments end on the sampler's own times."""
    loss = Consistency(first=4, last=15, segments=3, grid=grid)
    u, ends = torch.linspace(0, 0.999, 200, dtype=torch.float64), VP().grid(3, grid)
    for progress in (0.0, 0.3, 0.6, 1.0):
        t, middle, s, e = loss.pairs(VP(), u, progress)
        assert ((t > middle) & (middle > s) & (s >= e)).all()
        above = ends[(ends[None] > e[:, None] + 1e-9).sum(1) - 1]
        assert (t <= above + 1e-9).all()
        assert (e[:, None] - ends[None]).abs().min(1).values.max() < 1e-9 and len(e.unique()) == 3


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("grid", ["uniform", "angle"])
@pytest.mark.parametrize("segments", [1, 2, 4])
def test_the_segments_function_is_where_the_loss_goes_to(segments, grid, order):
    """A step of the teacher errs by h^2, the midpoint's by h^3; as x0_hat by a little more where
    DDIM has a short way to the segment's end. The last step to t = 0 is left out.
    """
    schedule, found = Linear(), {}
    jump, exact = Jump(schedule, segments, grid), Gaussian(schedule)
    whole = drawn(teacher=teacher_of(exact))
    draw = replace(whole, u=0.5 + whole.u / 2)
    jump.loss_config = Loss()
    for steps in (64, 128):
        loss = Consistency(
            order=order, segments=segments, grid=grid, first=steps, last=steps, huber=1e-12
        )
        found[steps] = loss.measure(jump, draw).mean()
    assert abs((found[64] / found[128]).log2() - order - 1) < (0.2 if segments == 1 else 0.5)


@pytest.mark.parametrize("taught", [True, False])
def test_the_exact_function_is_where_the_loss_goes_to(taught):
    """With the exact teacher the loss of the exact flow falls with the square of the step: DDIM's
    step errs so. Without a teacher the same x_0 and noise, whose path is no flow line, leave more.
    """
    schedule = VP()
    flow, exact = Flow(schedule), Gaussian(schedule)
    found = {}
    for steps in (32, 64):
        loss = Consistency(first=steps, last=steps, huber=1e-9)
        draw = drawn(teacher=teacher_of(exact) if taught else None)
        found[steps] = loss.measure(flow, draw).mean()
    ratio = (found[32] / found[64]).log2()
    assert abs(ratio - (2 if taught else 1)) < 0.2


def test_no_gradient_reaches_the_target_or_the_teacher():
    """The gradient is that of the distance to a constant."""
    schedule, loss = VP(), Consistency(first=8, last=8)
    denoiser = Denoiser(Net(), schedule, loss)
    master = Denoiser(Net(), schedule)
    draw = drawn(64, teacher=master)
    loss.measure(denoiser, draw).mean().backward()
    frozen = copy.deepcopy(denoiser)
    denoiser_grad = [p.grad.clone() for p in denoiser.net.parameters() if p.grad is not None]
    t, _, s, _ = loss.pairs(schedule, draw.u, 0)
    x_t = noised(schedule, draw.x_0, draw.eps, t)
    target = frozen(carried(schedule, x_t, master(x_t, t), t, s), s).detach()
    denoiser.zero_grad()
    error = (denoiser(x_t, t) - target).square().mean(1)
    ((error + loss.huber**2).sqrt() - loss.huber).mean().backward()
    again = [p.grad for p in denoiser.net.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-15) for a, b in zip(denoiser_grad, again, strict=True))
    assert all(p.grad is None for p in master.parameters())


@pytest.mark.parametrize("steps", [1, 2, 4, 9])
@pytest.mark.parametrize("schedule", [VP(), Cosine(), Linear()], ids=repr)
def test_any_number_of_jumps_keeps_the_law(schedule, steps):
    """Mean 0.7 and variance 0.36 after n exact jumps from the exact start."""

    class Exact(Gaussian):
        def __call__(self, x_t, t):
            return self.flow(x_t, t, torch.zeros((), dtype=torch.float64))

    mean, variance = law(Jumps(), Exact(schedule), schedule.grid(steps))
    assert abs(mean - 0.7) < 1e-12 and abs(variance - 0.36) < 1e-12


@pytest.mark.parametrize("segments", [2, 3, 8])
@pytest.mark.parametrize("schedule", [VP(), Cosine(), Linear()], ids=repr)
def test_as_many_steps_as_segments_are_the_flow_itself(schedule, segments):
    """No noise is drawn, and every x_1 ends where its flow does."""
    exact, x_1 = Gaussian(schedule), torch.randn(50, 1, dtype=torch.float64)
    times, none = schedule.grid(segments, "angle"), lambda: pytest.fail("noise is drawn")
    solver = Jumps(segments).bind(schedule, times)
    made = sample(solver, Jump(schedule, segments, "angle"), x_1, times, none)
    assert torch.allclose(made, exact.flow(x_1, times[0], times[-1]), atol=1e-9)


def test_another_number_of_steps_than_segments_is_refused():
    with pytest.raises(ValueError, match="student of 2 segments is sampled in 2 steps, not in 4"):
        Jumps(2).bind(VP(), VP().grid(4))
    with pytest.raises(ValueError, match="segments must be at least 1"):
        Jumps(0)
    with pytest.raises(ValueError, match="segments must be 1 to first = 8"):
        Consistency(segments=9)


@pytest.mark.slow
def test_a_student_learns_the_flow_of_its_guided_teacher():
    """Two classes N(-1, 0.3^2) and N(1, 0.3^2), the teacher their exact mixture guided by 2: the
    student's f(x_1, 1) within 5 % RMS of the end of the guided flow, by 2,000 steps of DDIM.
    """
    torch.manual_seed(0)
    schedule, std = VP(), 0.3

    def exact(x_t, t, label):
        t = expand(t, x_t)
        parts = [Gaussian(schedule, mean, std) for mean in (-1.0, 1.0)]
        means = torch.stack([part(x_t, t) for part in parts])
        log_p = torch.stack(
            [-0.5 * ((x_t - m) / s) ** 2 - s.log() for m, s in (part.marginal(t) for part in parts)]
        )
        both = (log_p.softmax(0) * means).sum(0)
        rows = label[:, None]
        return torch.where(rows == 2, both, torch.where(rows == 1, means[1], means[0]))

    class Master:
        def __init__(self):
            self.schedule = schedule

        def __call__(self, x_t, t, label):
            return exact(x_t, t, label)

    loss = Consistency(first=8, last=64, guidance=2.0)
    denoiser = Denoiser(Net(torch.float32, 2, 128), schedule, loss)
    optimizer = torch.optim.Adam(denoiser.parameters(), 3e-3)
    steps, count = 4000, 256
    for i in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - i / steps)
        label = torch.randint(2, (count,))
        x_0 = (2.0 * label - 1)[:, None] + std * torch.randn(count, 1)
        guided = cfg(Master(), {"label": label}, {"label": torch.full_like(label, 2)}, 2.0)
        u = (torch.randperm(count) + torch.rand(count)) / count
        draw = Draw(x_0, u, torch.randn(count, 1), i / steps, guided)
        optimizer.zero_grad()
        loss.measure(denoiser, draw, label=label).mean().backward()
        optimizer.step()
    label = torch.arange(2).repeat_interleave(500)
    x_1 = torch.randn(1000, 1)
    guided = cfg(Master(), {"label": label}, {"label": torch.full_like(label, 2)}, 2.0)
    x, times = x_1.double(), torch.linspace(1, 0, 2001, dtype=torch.float64)
    for t, s in pairwise(times):
        t, s = t.expand(1000), s.expand(1000)
        x = carried(schedule, x, guided(x, t), t, s)
    with torch.no_grad():
        ends = denoiser(x_1, torch.ones(1000), label=label)
    error = (ends - x).square().mean().sqrt() / x.std()
    assert error < 0.05


def test_loss_measures_as_before():
    """`Loss.measure` is Algorithm 1's loss at the drawn times."""
    denoiser, draw = Denoiser(Net(), VP(), Loss("v")), drawn(16)
    want = denoiser.loss(draw.x_0, denoiser.times(draw.u), draw.eps)
    assert torch.equal(denoiser.loss_config.measure(denoiser, draw), want)
