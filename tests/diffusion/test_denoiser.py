"""Predictions are coefficients: their identities, the losses of the papers, training times, masks."""

import math

import pytest
import scipy.stats
import torch
from torch import nn

from ldm.diffusion.denoiser import Denoiser, Loss, eps_hat, score, velocity
from ldm.diffusion.predictions import PREDICTIONS
from ldm.diffusion.schedules import VE, VP, Cosine, Discrete, Linear, SubVP, expand
from ldm.diffusion.times import Importance, LogitNormal, LogNormal
from ldm.diffusion.weights import EDM, MaximumLikelihood, MinSNR, One

torch.manual_seed(0)
x_0, eps = (
    torch.randn(6, 3, 4, 4, dtype=torch.float64),
    torch.randn(6, 3, 4, 4, dtype=torch.float64),
)
t = torch.linspace(0.1, 0.95, 6, dtype=torch.float64)


class Oracle(nn.Module):
    """A network that returns a fixed answer, and remembers its input."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, c_noise, **cond):
        self.x, self.c_noise, self.cond = x, c_noise, cond
        return self.answer


ALL = [VP(), SubVP(), Cosine(), VE(), Linear(), Discrete()]


def noisy(schedule):
    alpha, sigma = (expand(c, x_0) for c in schedule(t))
    return alpha, sigma, alpha * x_0 + sigma * eps


def perfect(schedule, predict):
    """What the paper's network should say, and the paper's c_in."""
    alpha, sigma, x_t = noisy(schedule)
    alpha_rate, sigma_rate = (expand(c, x_0) for c in schedule.rates(t))
    scale, ratio = (alpha**2 + sigma**2).sqrt(), sigma / alpha
    total = (ratio**2 + 0.25).sqrt()
    return {
        "eps": (eps, 1 / scale),
        "x0": (x_0, 1 / scale),
        "v": ((alpha * eps - sigma * x_0) / scale, 1 / scale),
        # Karras et al. 2022, table 1, of x_t / alpha with noise sigma / alpha
        "edm": ((x_0 - 0.25 / total**2 * x_t / alpha) / (ratio * 0.5 / total), 1 / (alpha * total)),
        "velocity": (alpha_rate * x_0 + sigma_rate * eps, 1 / scale),
        "score": (-eps / sigma, 1 / scale),
    }[predict]


@pytest.mark.parametrize("schedule", ALL, ids=str)
@pytest.mark.parametrize("predict", PREDICTIONS)
def test_a_perfect_network_gives_back_x_0(schedule, predict):
    x_t = noisy(schedule)[2]
    answer, c_in = perfect(schedule, predict)
    net = Oracle(answer)
    denoiser = Denoiser(net, schedule, Loss(predict))
    assert torch.allclose(denoiser(x_t, t), x_0, atol=1e-9)
    assert denoiser.loss(x_0, t, eps).max() < 1e-12
    assert torch.allclose(net.c_noise, 1000 * t) and torch.allclose(net.x, c_in * x_t)


def test_loss_is_l_simple_and_the_v_loss():
    """Algorithm 1 typed from the lecture with betas: || eps - eps_theta(sqrt(abar) x_0 + sqrt(1 -
    abar) eps, t) ||^2.
    """
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    step = torch.tensor([1, 10, 100, 500, 900, 1000])
    answer = torch.randn_like(x_0)
    abar = expand(alpha_bar[step - 1], x_0)
    net = Oracle(answer)
    loss = Denoiser(net, Discrete(), Loss("eps")).loss(x_0, step.double() / 1000, eps)
    assert torch.allclose(net.x, abar.sqrt() * x_0 + (1 - abar).sqrt() * eps, atol=1e-9)
    assert torch.allclose(loss, (eps - answer).square().flatten(1).mean(1), atol=1e-6)
    alpha, sigma, _ = noisy(VP())
    loss = Denoiser(net, VP(), Loss("v")).loss(x_0, t, eps)
    assert torch.allclose(
        loss, (alpha * eps - sigma * x_0 - answer).square().flatten(1).mean(1), atol=1e-5
    )


def test_edm_target_and_input_have_unit_variance():
    alpha, sigma = VP()(t)
    c_skip, c_out, c_in = PREDICTIONS["edm"](alpha, sigma)
    std = 0.5
    assert torch.allclose(c_in**2 * (alpha**2 * std**2 + sigma**2), torch.ones_like(t))
    target = ((1 - c_skip * alpha) ** 2 * std**2 + c_skip**2 * sigma**2) / c_out**2
    assert torch.allclose(target, torch.ones_like(t))


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_min_snr_is_the_same_loss_whatever_is_predicted(predict):
    """A given error of x_0 costs min(SNR, 5) times its square, in every parametrisation."""
    alpha, sigma, x_t = noisy(VP())
    wrong = x_0 + 0.1
    c_skip, c_out, _ = (expand(c, x_0) for c in Loss(predict).coefficients(VP(), t))
    loss = Denoiser(Oracle((wrong - c_skip * x_t) / c_out), VP(), Loss(predict, MinSNR())).loss(
        x_0, t, eps
    )
    expected = (alpha / sigma).square().flatten().clamp(max=5) * 0.01
    assert torch.allclose(loss.double(), expected, rtol=1e-4)


def test_score_of_a_gaussian():
    """x_0 ~ N(0, 4): x_t ~ N(0, 4 alpha^2 + sigma^2), and the score is - x_t over that variance."""
    alpha, sigma, x_t = noisy(VP())
    variance = 4 * alpha**2 + sigma**2
    x0_hat = 4 * alpha / variance * x_t
    assert torch.allclose(score(x_t, x0_hat, *VP()(t)), -x_t / variance)
    assert torch.allclose(alpha * x0_hat + sigma * eps_hat(x_t, x0_hat, *VP()(t)), x_t)


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_conversions_of_the_true_x_0(schedule):
    """eps_hat, score and velocity of x0_hat = x_0 are eps, the kernel's score and the derivative of
    the path.
    """
    alpha, sigma, x_t = noisy(schedule)
    law, h, u = (
        schedule(t),
        1e-6,
        t + 3e-4,
    )  # u: between the entries of a table, where it has a slope
    assert torch.allclose(eps_hat(x_t, x_0, *law), eps, atol=1e-9)
    assert torch.allclose(score(x_t, x_0, *law), (alpha * x_0 - x_t) / sigma**2, atol=1e-8)
    path = lambda u: expand(schedule(u)[0], x_0) * x_0 + expand(schedule(u)[1], x_0) * eps
    slope = (path(u + h) - path(u - h)) / (2 * h)
    assert torch.allclose(
        velocity(path(u), x_0, *schedule(u), *schedule.rates(u)), slope, rtol=1e-5, atol=1e-6
    )


def test_flow_matching_predicts_eps_minus_x_0():
    """On the straight line the velocity is eps - x_0 at every time, the last one too, and x0_hat =
    x_t - t velocity.
    """
    for u in (1e-3, 0.4, 1.0):
        times = torch.full((6,), u, dtype=torch.float64)
        denoiser = Denoiser(Oracle(eps - x_0), Linear(), Loss("velocity"))
        assert denoiser.loss(x_0, times, eps).max() < 1e-20
        x_t = (1 - u) * x_0 + u * eps
        assert torch.allclose(denoiser(x_t, times), x_t - u * (eps - x_0), atol=1e-12)


@pytest.mark.parametrize("predict", ["x0", "v", "edm", "velocity"])
def test_loss_is_finite_where_nothing_of_x_0_is_left(predict):
    one = torch.ones(6, dtype=torch.float64)
    for weight in (One(), MinSNR(), EDM(), MaximumLikelihood()):
        denoiser = Denoiser(Oracle(torch.zeros_like(x_0)), Linear(), Loss(predict, weight))
        assert (
            torch.isfinite(denoiser.loss(x_0, one, eps)).all()
            and torch.isfinite(denoiser(eps, one)).all()
        )


def test_another_law_of_the_same_ratio_leaves_x0_hat_unchanged():
    """x0_hat depends on x_t / alpha and sigma / alpha alone: the exact denoiser of a mixture,
    carried from VP to VE.
    """
    centres, u = (
        torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64),
        torch.linspace(0.05, 0.95, 6, dtype=torch.float64),
    )

    def x0_hat(schedule, x_t, t):
        alpha, sigma = (c[:, None, None] for c in schedule(t))
        weights = torch.softmax(-((x_t[..., None] - alpha * centres) ** 2) / (2 * sigma**2), -1)
        return (weights * centres).sum(-1)

    x_t = torch.randn(6, 40, dtype=torch.float64)
    ve = VE(0.01, 500)
    same = ve.inverse_log_snr(VP().log_snr(u))
    assert torch.allclose(
        x0_hat(VP(), x_t, u), x0_hat(ve, x_t / VP()(u)[0][:, None], same), atol=1e-9
    )
    # and a network's: EDM's coefficients feed it the same input and make the same of its answer
    net = nn.Sequential(nn.Linear(40, 40), nn.Tanh()).double()
    for predict in ("edm", "x0", "v"):
        called = lambda x, c_noise: net(x)
        models = [Denoiser(nn.Identity(), law, Loss(predict)) for law in (VP(), ve)]
        for model in models:
            model.net.forward = called
        assert torch.allclose(
            models[0](x_t, u), models[1](x_t / VP()(u)[0][:, None], same), atol=1e-9
        )


class Affine(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(c, dtype=torch.float64)) for c in (0.3, -0.1))

    def forward(self, x, c_noise):
        return self.a * x + self.b * expand(c_noise, x) / 1000


class Rescaled(nn.Module):
    """The same network, saying what it knows of eps as a score: -eps_hat / sigma."""

    def __init__(self, net, schedule):
        super().__init__()
        self.net, self.schedule = net, schedule

    def forward(self, x, c_noise):
        return -self.net(x, c_noise) / expand(self.schedule(c_noise / 1000)[1], x)


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_denoising_score_matching_is_the_same_loss_before(schedule):
    """E || s - grad log q(x_t | x_0) ||^2, typed from Vincent 2011 with the gradient by autograd,
    is L_simple / sigma^2.

    Value and gradient in the network's parameters, sample by sample: the lecture's "same loss
    before!".
    """
    net = Affine()
    alpha, sigma, x_t = noisy(schedule)
    x = x_t.clone().requires_grad_()
    log_q = torch.distributions.Normal(alpha * x_0, sigma).log_prob(x).sum()
    target = torch.autograd.grad(log_q, x)[0]
    s = -net(x_t / (alpha**2 + sigma**2).sqrt(), 1000 * t) / sigma
    dsm = (s - target).square().flatten(1).mean(1)
    simple = Denoiser(net, schedule, Loss("eps")).loss(x_0, t, eps)
    ours = Denoiser(Rescaled(net, schedule), schedule, Loss("score")).loss(x_0, t, eps)
    for other in (ours, simple / schedule(t)[1] ** 2):
        assert torch.allclose(other, dsm, rtol=1e-9)
        for wanted, got in zip(
            *(
                torch.autograd.grad(c.mean(), net.parameters(), retain_graph=True)
                for c in (dsm, other)
            ),
            strict=True,
        ):
            assert torch.allclose(got, wanted, rtol=1e-9)


def test_denoising_score_matching_is_score_matching():
    """E || s - grad log p_t ||^2 has the gradient of the denoising loss (Vincent 2011): exactly, by
    Gauss-Hermite.

    x_0 is a mixture of N(+-1, 0.3^2), s = -theta x_t^3: the expectations are polynomials times
    smooth functions.
    """
    nodes, weights = (torch.tensor(a) for a in scipy.special.roots_hermitenorm(80))
    weights = weights / weights.sum()
    alpha, sigma = VP()(torch.tensor(0.5, dtype=torch.float64))
    theta = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    grid_0, grid_eps = torch.meshgrid(nodes, nodes, indexing="ij")
    both = weights[:, None] * weights
    std = (0.09 * alpha**2 + sigma**2).sqrt()
    explicit = denoising = 0
    for centre in (-1.0, 1.0):
        x_t = alpha * (centre + 0.3 * grid_0) + sigma * grid_eps
        x = x_t.clone().requires_grad_()
        parts = [torch.distributions.Normal(alpha * c, std).log_prob(x) for c in (-1.0, 1.0)]
        true = torch.autograd.grad(torch.logaddexp(*parts).sum(), x)[0]
        s = -theta * x_t**3
        explicit = explicit + (both * (s - true) ** 2).sum() / 2
        denoising = denoising + (both * (s + grid_eps / sigma) ** 2).sum() / 2
    (a,), (b,) = (
        torch.autograd.grad(explicit, theta, retain_graph=True),
        torch.autograd.grad(denoising, theta),
    )
    assert torch.allclose(a, b, rtol=1e-8) and abs(a) > 0.01 and denoising > explicit + 0.01


@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("schedule", [VP(), SubVP(), Cosine(), VE()], ids=str)
def test_likelihood_weight_is_the_divergence_of_the_models(schedule, predict):
    """d KL(p_t | q_t) / dt = -g^2 / 2 E || score_p - score_q ||^2 (Song et al. 2021b, theorem 1),
    between two Gaussians.

    p_0 = N(0, 1), q_0 = N(0, 0.6^2); the loss's excess over its smallest value is E (net_p -
    net_q)^2.
    """
    loss, low, high = Loss(predict, MaximumLikelihood()), *schedule.ends()
    nodes, weights = (torch.tensor(a) for a in scipy.special.roots_legendre(200))
    u = (
        low.log() + (high / low).log() * (nodes + 1) / 2
    ).exp()  # even in log t: the integrand is steep at the data
    alpha, sigma = schedule(u)
    slope = lambda s: alpha * s**2 / (alpha**2 * s**2 + sigma**2)  # of x0_hat in x_t
    c_out = loss.coefficients(schedule, u)[1]
    excess = ((slope(1.0) - slope(0.6)) / c_out).square() * (alpha**2 + sigma**2)
    rate = loss.weigh(schedule, u) * excess
    integral = 0.5 * (weights * u * rate).sum() * (high / low).log() / 2

    def kl(t):
        alpha, sigma = schedule(t)
        ratio = (alpha**2 + sigma**2) / (alpha**2 * 0.36 + sigma**2)
        return 0.5 * (ratio - 1 - ratio.log())

    assert torch.allclose(integral, kl(low) - kl(high), rtol=1e-6)


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_edm_weight_is_the_papers_whatever_is_predicted(predict):
    """An error of x_0 costs (sigma^2 + std^2) / (sigma std)^2 with the paper's sigma, which is 1 on
    EDM's own output.
    """
    alpha, sigma, x_t = noisy(VP())
    c_skip, c_out, _ = (expand(c, x_0) for c in Loss(predict).coefficients(VP(), t))
    loss = Denoiser(Oracle((x_0 + 0.1 - c_skip * x_t) / c_out), VP(), Loss(predict, EDM())).loss(
        x_0, t, eps
    )
    ratio = (sigma / alpha).flatten()
    assert torch.allclose(loss, (ratio**2 + 0.25) / (0.5 * ratio) ** 2 * 0.01, rtol=1e-6)
    assert torch.allclose(Loss("edm", EDM()).weigh(VP(), t), torch.ones_like(t))


U = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)


@pytest.mark.parametrize("schedule", [VP(), SubVP(), Cosine(), VE(), Linear()], ids=str)
def test_training_times_are_scipys_quantiles(schedule):
    high, low = schedule.log_snr(schedule.ends()).tolist()
    truncated = lambda mean, std, a, b: scipy.stats.truncnorm.ppf(
        U, (a - mean) / std, (b - mean) / std, mean, std
    )
    logit = LogitNormal(0.4, 1.3).quantile(schedule, U).logit()
    a = math.log(schedule.t_min / (1 - schedule.t_min))
    assert torch.allclose(logit, torch.tensor(truncated(0.4, 1.3, a, math.inf)), atol=1e-6)
    log_sigma = -schedule.log_snr(LogNormal(-1.2, 1.2).quantile(schedule, U))
    assert torch.allclose(log_sigma, torch.tensor(truncated(-1.2, 1.2, -high, -low)), atol=1e-6)
    lam = schedule.log_snr(Importance().quantile(schedule, U))
    assert torch.allclose(
        lam, torch.tensor(scipy.stats.uniform.ppf(1 - U, low, high - low)), atol=1e-6
    )


@pytest.mark.parametrize("times", [LogitNormal(), LogNormal(), Importance()], ids=str)
@pytest.mark.parametrize("schedule", [*ALL, Discrete(steps=10)], ids=str)
def test_training_times_stay_within_the_law(schedule, times):
    if isinstance(schedule, Discrete) and isinstance(times, Importance):
        with pytest.raises(ValueError, match="continuous"):
            times.quantile(schedule, U)
        return
    u = torch.tensor(
        [0.0, 1e-7, 0.3, 0.5, 0.9, 1 - 6e-8, 1.0]
    )  # stratified float32 numbers may round to 1
    drawn = Denoiser(nn.Identity(), schedule, Loss(times=times)).times(u)
    assert drawn.dtype == torch.float32 and (drawn.diff() >= 0).all()
    assert drawn[0] >= schedule.t_min - 1e-6 and drawn[-1] <= 1
    if isinstance(schedule, Discrete):
        assert torch.allclose(drawn * schedule.steps, (drawn * schedule.steps).round(), atol=1e-3)


@pytest.mark.parametrize("schedule", [VP(), SubVP(), Cosine(), VE()], ids=str)
def test_importance_is_the_density_of_the_likelihood_weight(schedule):
    """dt / du is proportional to sigma^2 / g^2, and the loss's expectation is the one of uniform
    times.
    """
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    drawn = Importance().quantile(schedule, u)
    g2, sigma = schedule.drift(drawn)[1], schedule(drawn)[1]
    density = 1 / (drawn.diff() * 20_000)
    shape = (g2 / sigma**2)[1:] / density
    assert torch.allclose(shape, shape.mean(), rtol=1e-2)
    # weight x loss of any profile, here cos^2: the mean over both kinds of times
    means = []
    for times in (Loss().times, Importance()):
        at = times.quantile(schedule, u)
        means.append(
            (
                Loss("eps", MaximumLikelihood(), times).weigh(schedule, at)
                * sigma_profile(schedule, at)
            ).mean()
        )
    assert torch.allclose(*means, rtol=1e-3)
    weights = Loss("eps", MaximumLikelihood(), Importance()).weigh(
        schedule, drawn
    )  # the constant times L_simple
    assert torch.allclose(weights, weights.mean(), rtol=1e-9)


def sigma_profile(schedule, t):
    return schedule(t)[1] ** 2 * (3 * t).cos() ** 2


def test_uniform_times_are_the_schedules_bit_for_bit():
    u = torch.rand(1000)
    for schedule in (VP(), Discrete()):
        assert torch.equal(Denoiser(nn.Identity(), schedule).times(u), schedule.times(u))


class Marked(nn.Module):
    """A network that would be upset by noise or garbage in the padding."""

    def forward(self, x, c_noise, mask, label):
        self.x, self.mask, self.label = x, mask, label
        return torch.where(mask[..., None], 2 * x, torch.nan)


@pytest.mark.parametrize("predict", ["eps", "v"])
def test_masked_loss_is_the_loss_of_the_real_constituents(predict):
    """Clouds of 1, 3 and 5 constituents, padded to 7: each loss is the cloud's own, whatever lies
    in the padding.
    """
    cloud, noise = (
        torch.randn(4, 7, 3, dtype=torch.float64),
        torch.randn(4, 7, 3, dtype=torch.float64),
    )
    lengths, label = torch.tensor([1, 3, 5, 0]), torch.arange(4)
    mask = torch.arange(7) < lengths[:, None]
    denoiser = Denoiser(Marked(), VP(), Loss(predict, MinSNR()))
    times = t[:4]
    losses = denoiser.loss(cloud, times, noise, mask, label=label)
    assert (
        (denoiser.net.x[~mask] == 0).all()
        and torch.equal(denoiser.net.mask, mask)
        and denoiser.net.label is label
    )
    garbage = cloud.masked_fill(~mask[..., None], 1e30)
    assert torch.equal(denoiser.loss(garbage, times, noise, mask, label=label), losses)
    for i, n in enumerate(lengths[:3]):
        rows = slice(i, i + 1), slice(0, int(n))
        alone = denoiser.loss(cloud[rows], times[i : i + 1], noise[rows], mask[rows], label=label)
        plain = denoiser.loss(
            cloud[rows], times[i : i + 1], noise[rows], torch.ones(1, int(n)), label=label
        )
        assert torch.allclose(alone, losses[i]) and torch.equal(alone, plain)
    assert losses[3] == 0
