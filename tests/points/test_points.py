"""Points: laws in closed form against autograd and integrals, data, files that are refused, every
solver, prediction and task.
"""

import math

import pytest
import torch
from exact import energy_distance
from solver_models import OURS, SCHEDULES

from ldm.diffusion.denoiser import Denoiser, Loss, score
from ldm.diffusion.flow import Ode
from ldm.diffusion.likelihood import log_likelihood
from ldm.diffusion.predictions import PREDICTIONS
from ldm.diffusion.schedules import VP, Cosine
from ldm.diffusion.solvers import DDIM, EulerMaruyama, sample, start
from ldm.diffusion.tasks import Mask, Repaint, cfg, denoising_start, guide, project
from ldm.diffusion.tasks.starts import below
from ldm.errors import Refusal
from ldm.points.data import Points
from ldm.points.exact import Finite, Mixture, exact_denoiser
from ldm.points.files import read_csv
from ldm.points.metrics import denoiser_errors, error_times
from ldm.points.metrics import energy_distance as biased
from ldm.points.network import MLP
from ldm.points.space import PlainSpace
from ldm.system.randomness import generator


def tilted():
    """Three Gaussians in the plane, of which two are no circles."""
    factors = torch.tensor(
        [[[0.6, 0.0], [0.4, 0.2]], [[0.3, 0.0], [-0.2, 0.5]], [[0.25, 0], [0, 0.25]]]
    ).double()
    means = torch.tensor([[-1.0, 0.5], [1.0, 1.0], [0.5, -1.0]]).double()
    return Mixture(means, factors @ factors.mT, torch.tensor([0.5, 0.2, 0.3]).double())


def some(n=5, seed=0):
    return torch.randn(n, 2, generator=generator("test", seed), dtype=torch.float64)


LAWS = {"mixture": tilted(), "finite": Finite(some(7, 1))}


# -- laws in closed form ---------------------------------------------------------------------------
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_the_denoiser_is_tweedies_of_the_density(name, t):
    """score = grad log p_t by autograd of the density, which is another formula; for one time and
    for a time a row.
    """
    law, schedule, x = LAWS[name], VP(), some().requires_grad_()
    t = torch.tensor(t).double()
    alpha, sigma = schedule(t)
    (wanted,) = torch.autograd.grad(law.log_density(x, alpha, sigma).sum(), x)
    x0_hat = exact_denoiser(law, schedule)(x.detach(), t)
    assert (score(x.detach(), x0_hat, alpha, sigma) - wanted).abs().max() < 1e-9
    rows = law.denoised(x.detach(), *schedule(t.expand(5)))
    assert (rows - x0_hat).abs().max() < 1e-12


def test_the_density_is_of_what_is_drawn():
    """It sums to 1 over a fine mesh, with mean and covariance of 100,000 draws; at noise too."""
    law, axis = tilted(), torch.linspace(-6, 6, 241).double()
    mesh, cell = torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2
    drawn = law.draw(100_000, generator("draw"))
    for alpha, sigma in ((1.0, 0.0), (0.6, 0.8)):
        at = torch.tensor(alpha).double(), torch.tensor(sigma).double()
        p = law.log_density(mesh, *at).exp() * cell
        noisy = alpha * drawn + sigma * torch.randn(drawn.shape, generator=generator("more"))
        mean = (p[:, None] * mesh).sum(0)
        cov = (p[:, None] * mesh).T @ mesh - torch.outer(mean, mean)
        assert p.sum() == pytest.approx(1, abs=1e-4)
        assert (mean - noisy.mean(0)).abs().max() < 0.02 and (
            cov - noisy.T.cov()
        ).abs().max() < 0.03


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_posterior_is_bayes_on_a_mesh(noise):
    """y = x + 0.5 y' + n: prior times likelihood, normalised; without noise along the line."""
    law, matrix, y = tilted(), torch.tensor([[1.0, 0.5]]).double(), torch.tensor([0.4]).double()
    axis = torch.linspace(-6, 6, 401).double()
    if noise:
        mesh = torch.cartesian_prod(axis, axis)
        logs = law.log_density(mesh) - (mesh @ matrix[0] - y).square() / (2 * noise**2)
    else:
        mesh = torch.stack([y - 0.5 * axis, axis], 1)
        logs = law.log_density(mesh)
    p = logs.softmax(0)
    mean = (p[:, None] * mesh).sum(0)
    made = law.given(matrix, y, noise)
    drawn = made.draw(100_000, generator("posterior"))
    assert ((made.weights[:, None] * made.means).sum(0) - mean).abs().max() < 1e-6
    assert (drawn.T.cov() - (p[:, None] * (mesh - mean)).T @ (mesh - mean)).abs().max() < 0.02
    with pytest.raises(ValueError, match="no spread"):
        law.given(torch.zeros(1, 2), y, 0.0)


def test_a_finite_law_is_the_nearest_point_near_the_data():
    """In blocks as at once; drawn from its own points; its scale is the points'."""
    points, x = some(1000, 2), some(300, 3)
    law, schedule = Finite(points), Cosine()
    t = torch.tensor(0.002).double()
    near = points[torch.cdist(x, points).argmin(1)]
    assert ((exact_denoiser(law, schedule)(x, t) - near).norm(dim=1) < 0.05).float().mean() > 0.95
    alpha, sigma = schedule(torch.tensor(0.3).double())
    whole = (law._logs(x, alpha, sigma)).softmax(1) @ points
    assert torch.allclose(law.denoised(x, alpha, sigma), whole)
    moved = law.scaled(torch.ones(2), 2 * torch.ones(2))
    assert torch.allclose(moved.points, (points - 1) / 2)


def test_classes_and_guidance_of_the_exact_denoiser():
    """A class' label is its own component, the null label the whole; bound by `cfg` as a network."""
    law, x, t = tilted(), some(4), torch.tensor(0.3).double()
    exact = exact_denoiser(law, VP(), [law.only(k) for k in range(3)])
    label = torch.tensor([0, 2, 3, 1])
    found = exact(x, t, label=label)
    for row, k in enumerate(label.tolist()):
        own = law if k == 3 else law.only(k)
        assert torch.allclose(found[row], own.denoised(x[row : row + 1], *VP()(t))[0])
    null = torch.full((4,), 3)
    guided = cfg(exact, {"label": label}, {"label": null}, 2.0)(x, t)
    assert torch.allclose(guided, 2 * found - exact(x, t))


def test_the_flows_likelihood_is_the_density():
    law, x = tilted(), tilted().draw(20, generator("likelihood"))
    found = log_likelihood(exact_denoiser(law, Cosine()), x, probes=0, ode=Ode(1e-7, 1e-7))
    assert (found.nats - law.log_density(x)).abs().max() < 5e-3


# -- every solver, prediction and task -------------------------------------------------------------
@pytest.mark.parametrize("name", [name for name in OURS if name != "PredictorCorrector"])
def test_every_solver_samples_the_mixture(name):
    """(Predictor-corrector's step has a norm in it, which in the plane is no number to trust.)"""
    law, random = tilted(), generator("solver", name)
    exact, randn = (
        exact_denoiser(law, SCHEDULES["Cosine"]),
        lambda: torch.randn(800, 2, generator=random).double(),
    )
    times = exact.schedule.grid(40)
    made = sample(OURS[name], exact, start(exact.schedule, times[0], randn()), times, randn)
    data = law.draw(3000, random)
    assert energy_distance(made, data) < 0.01 < 0.05 < energy_distance(randn(), data)


@pytest.mark.parametrize("predict", [*PREDICTIONS])
def test_every_prediction_learns(predict):
    """150 steps leave about a third of the error, or less; of score, whose loss is all at small t,
    about half.
    """
    law, random = tilted(), generator("learn", predict)
    torch.manual_seed(0)
    model = Denoiser(MLP(dim=32, layers=2, fourier=8).build((2,)), Cosine(), Loss(predict, std=1.0))
    optim = torch.optim.Adam(model.net.parameters(), 1e-2)
    x_0, times = law.draw(256, random).float(), error_times(8, 0.2)
    wrong = lambda: denoiser_errors(model, exact_denoiser(law, Cosine()), x_0, times, random).mean()
    before = wrong()
    for _ in range(150):
        x = law.draw(256, random).float()
        t = model.times(torch.rand(256, generator=random))
        loss = model.loss(x, t, torch.randn(x.shape, generator=random)).mean()
        optim.zero_grad()
        loss.backward()
        optim.step()
    assert wrong() < (0.6 if predict == "score" else 0.34) * before or wrong() < 0.1


def test_tasks_on_points_against_the_posterior():
    """De-noising samples the exact posterior; projection, guidance and RePaint keep what is known."""
    law, random = tilted(), generator("task")
    exact, randn = (
        exact_denoiser(law, Cosine()),
        lambda: torch.randn(1500, 2, generator=random).double(),
    )
    y = torch.tensor([[0.2, 0.3]]).double()
    t, x_t = denoising_start(exact.schedule, y.expand(1500, 2), 0.5)
    times = below(exact.schedule.grid(60), t)
    made = sample(EulerMaruyama(), exact, x_t, times, randn)
    wanted = law.given(torch.eye(2), y[0], 0.5).draw(3000, random)
    assert (
        energy_distance(made, wanted) < 4e-3 < 0.1 < energy_distance(made, law.draw(3000, random))
    )
    known = Mask(torch.tensor([1.0, 0.0]).double())
    given, times = torch.tensor([0.5, 0.0]).double().expand(1500, 2), exact.schedule.grid(25)
    for task, solver in (
        (project(exact, known, given), DDIM()),
        (guide(exact, known, given, 0.05), EulerMaruyama()),
        (project(exact, known, given), Repaint(DDIM(), 2)),
    ):
        done = sample(solver, task, randn(), times, randn)
        assert (done[:, 0] - 0.5).abs().mean() < 0.1 and done[:, 1].std() > 0.3


def test_the_energy_distance():
    """Typed out for a few points; its floor for draws of one law; and 0 for the same points."""
    x, y = some(4), some(3, 1)
    pair = lambda a, b: (
        sum(math.dist(p, q) for p in a.tolist() for q in b.tolist()) / len(a) / len(b)
    )
    assert biased(x, y) == pytest.approx(2 * pair(x, y) - pair(x, x) - pair(y, y))
    assert biased(x, x) == pytest.approx(0, abs=1e-12)
    a, b = some(2000, 2), some(2000, 3)
    floor = 2 * pair(some(200, 4), some(200, 5)) / 2000
    assert 0.3 * floor < biased(a, b) < 4 * floor
    assert abs(energy_distance(a, b)) < 3 * floor


# -- data ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["mixture", "moons", "spiral", "rings", "checkerboard", "picture"])
def test_drawn_data(kind):
    """A function of the seed; sets of their own; classes that fit; a batch as the loader wants it."""
    data, again = (Points(kind=kind, count=2000, held_out=300).load() for _ in range(2))
    assert torch.equal(data.train.points, again.train.points) and data.shape == (2,)
    assert data.train.identity() == again.train.identity()
    other = Points(kind=kind, count=2000, held_out=300, seed=1).load()
    assert not torch.equal(data.train.points, other.train.points)
    assert not torch.equal(data.held_out.points, data.test.points)
    counts = torch.bincount(data.train.labels)
    assert len(counts) == max(1, len(data.classes)) and counts.min() > 200
    batch = data.train.__getitems__([3, 5])
    assert batch["points"].shape == (2, 2) and batch["index"].tolist() == [3, 5]
    law, classes = data.known()
    assert len(classes) == len(data.classes) and (kind == "mixture") == isinstance(law, Mixture)


def test_what_the_shapes_are():
    """Each by what makes it that shape, without noise."""
    plain = lambda kind: Points(kind=kind, count=4000, noise=0.0).load().train
    rings = plain("rings")
    assert torch.allclose(rings.points.norm(dim=1), rings.labels + 1.0, atol=1e-5)
    board = (plain("checkerboard").points + 2).floor()
    assert ((board.sum(1) % 2) == 0).all() and board.min() >= 0 and board.max() <= 3
    moons = plain("moons")
    upper = moons.points[moons.labels == 0]
    assert (
        torch.allclose(upper.norm(dim=1), torch.ones(len(upper)), atol=1e-5)
        and upper[:, 1].min() >= -1e-6
    )
    arm = plain("spiral")
    angle = torch.atan2(*arm.points.T.flip(0)) - math.pi * arm.labels
    turn = 1.5 * math.pi * arm.points.norm(dim=1)
    assert ((angle - turn).cos() > 0.999).all()
    face = Points(kind="picture", count=4000).load().train.points
    assert face.abs().max() <= 2 and face.norm(dim=1).median() > 1


def test_a_drawn_picture_is_a_density(tmp_path):
    """Dark twice as often as half dark, nothing on paper; what is no picture is refused."""
    from PIL import Image

    pixels = bytearray([255] * 64)
    pixels[0], pixels[63] = 0, 128
    Image.frombytes("L", (8, 8), bytes(pixels)).save(tmp_path / "two.png")
    points = Points(kind="picture", file=str(tmp_path / "two.png"), count=9000).load().train.points
    left = points[:, 0] < 0
    assert left.float().mean() == pytest.approx(2 / 3, abs=0.03) and points.abs().min() > 1
    Image.new("L", (8, 8), 255).save(tmp_path / "paper.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, words in (
        ("paper.png", "nothing dark"),
        ("text.png", "no picture"),
        ("none.png", "no picture"),
    ):
        with pytest.raises(Refusal, match=words):
            Points(kind="picture", file=str(tmp_path / name)).load()


def rows(*lines, n=30):
    return "\n".join([*lines, *(f"{i},{i * i % 7}.5,{'ab'[i % 2]}" for i in range(n))]) + "\n"


def test_a_csv_of_ones_own(tmp_path):
    """With names and classes, without either, and with one column; split by a seed."""
    path = tmp_path / "own.csv"
    path.write_text("\ufeff" + rows("height, mass,kind"), encoding="utf-8")
    data = Points(kind="csv", file=str(path), label="kind").load()
    assert data.columns == ("height", "mass") and data.classes == ("a", "b")
    assert (len(data.train), len(data.held_out), len(data.test)) == (24, 3, 3)
    parts = torch.cat([part.points[:, 0] for part in (data.train, data.held_out, data.test)])
    assert sorted(parts.tolist()) == list(range(30))
    even = data.train.points[:, 0] % 2
    assert torch.equal(even.long(), data.train.labels)
    path.write_text("".join(f"{i}\n\n" for i in range(40)))
    plain = Points(kind="csv", file=str(path)).load()
    assert plain.columns == ("x1",) and plain.shape == (1,) and plain.classes == ()


@pytest.mark.parametrize(
    ("text", "label", "words"),
    [
        ("", "", "has 0 rows"),
        ("a,b\n" + "1,2\n" * 5, "", "has 5 rows"),
        (rows("x,y,kind"), "", "line 2: 'a' is not a number"),
        (rows("x,y,kind"), "knd", "did you mean 'kind'"),
        (rows("x,y,kind"), "x", "line 2: 'a' is not a number"),
        (rows("x,x,kind"), "kind", "names a column twice"),
        (rows("x,y,kind", "1,2"), "kind", "line 2 has not 3 values"),
        (rows("x,y,kind", "nan,2,a"), "kind", "line 2: 'nan' is not a number"),
        (rows("x,y,kind", "1e300,2,a"), "kind", "line 2: '1e300' is not a number"),
        (rows("x,y,kind", "1,2,"), "kind", "empty ones"),
        ("x,y\n" + "3,4\n" * 30, "", "column 'x' .* hardly varies"),
        (",".join("abcdefghi") + "\n" + (",".join("123456789") + "\n") * 30, "", "9 columns"),
        ("x\n" + "1\n" * 10 + "\0\n" * 20, "", "no CSV|not a number"),
    ],
)
def test_a_csv_that_cannot_be(tmp_path, text, label, words):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(Refusal, match=words):
        read_csv(tmp_path / "bad.csv", label)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00,1\n")
    for name, said in (("bytes.csv", "no text in UTF-8"), ("none.csv", "no file"), ("", "no file")):
        with pytest.raises(Refusal, match=said):
            read_csv(tmp_path / name)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(flip=True), "flip is of pictures"),
        (dict(kind="csv"), "needs file="),
        (dict(label="x"), "of kind=csv"),
        (dict(means=[[0.0], [1.0, 2.0]]), "1 to 8 numbers"),
        (dict(stds=[1.0]), "a number for each of 5 means"),
        (dict(stds=[1.0, 1, 1, 1, 0]), "above 0"),
        (dict(count=1), "count must be"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words):
        Points(**settings)


# -- space and network -----------------------------------------------------------------------------
def test_the_space_is_standardised_and_its_density_is_the_points():
    """Mean 0 and standard deviation 1 over any batches, back again, log |det|, and the exact law."""
    data, space = Points(count=3000).load(), PlainSpace((2,))
    parts = [{"points": part} for part in data.train.points.split(700)]
    said = space.measure(parts, lambda sums: sums, "cpu")
    x = space.encode(data.train.points)
    assert x.mean(0).abs().max() < 1e-5 and (x.std(0) - 1).abs().max() < 1e-3 and "shift" in said
    assert torch.allclose(space.finish(x, {}), data.train.points, atol=1e-5)
    exact = space.exact(data, VP())
    of_x = exact.law.log_density(x) + space.log_jacobian()
    assert (of_x - data.law.log_density(data.train.points)).abs().max() < 1e-4
    space.scale[0] = 0
    with pytest.raises(Refusal, match="not all above 0"):
        space.expect_measured("file")


def test_the_network_uses_all_it_is_given():
    """x, time and class change the output, and every parameter has a gradient."""
    torch.manual_seed(0)
    net = MLP(dim=16, layers=2, fourier=4).build((3,), classes=2)
    torch.nn.init.normal_(net.out.weight)
    x, t, label = torch.randn(4, 3), torch.full((4,), 300.0), torch.tensor([0, 1, 2, 0])
    base = net(x, t, label=label)
    assert not torch.allclose(base, net(x + 0.1, t, label=label))
    assert not torch.allclose(base, net(x, t + 50, label=label))
    assert (base - net(x, t, label=1 - label.clamp(max=1))).abs().amax(1).min() > 1e-4
    base.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
