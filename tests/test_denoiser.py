"""Predictions are four coefficients: their identities, and the losses of the papers."""

import pytest
import torch
from torch import nn

from ldm.diffusion.denoiser import PRECONDITIONS, Denoiser, Loss, eps_hat, score
from ldm.diffusion.schedules import VP, Cosine, Discrete, expand

torch.manual_seed(0)
x_0, eps = torch.randn(6, 3, 4, 4, dtype=torch.float64), torch.randn(6, 3, 4, 4, dtype=torch.float64)
t = torch.linspace(0.1, 0.95, 6, dtype=torch.float64)


class Oracle(nn.Module):
    """A network that answers with what it is told to, and remembers its input."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, c_noise):
        self.x, self.c_noise = x, c_noise
        return self.answer


def noisy(schedule):
    alpha, sigma = (expand(c, x_0) for c in schedule(t))
    return alpha, sigma, alpha * x_0 + sigma * eps


@pytest.mark.parametrize("schedule", [VP(), Cosine(), Discrete()], ids=str)
@pytest.mark.parametrize("predict", PRECONDITIONS)
def test_a_perfect_network_gives_back_x_0(schedule, predict):
    alpha, sigma, x_t = noisy(schedule)
    c_skip, c_out, c_in = (expand(c, x_0) for c in PRECONDITIONS[predict](*schedule(t)))
    perfect = {"eps": eps, "x0": x_0, "v": alpha * eps - sigma * x_0, "edm": (x_0 - c_skip * x_t) / c_out}[predict]
    net = Oracle(perfect)
    denoiser = Denoiser(net, schedule, Loss(predict))
    assert torch.allclose(denoiser(x_t, t), x_0, atol=1e-10)
    assert denoiser.loss(x_0, t, eps).max() < 1e-12
    assert torch.allclose(net.c_noise, 1000 * t) and torch.allclose(net.x, c_in * x_t)


def test_loss_is_l_simple_and_the_v_loss():
    """Algorithm 1 typed from the lecture with betas: || eps - eps_theta(sqrt(abar) x_0 + sqrt(1 - abar) eps, t) ||^2."""
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    step = torch.tensor([1, 10, 100, 500, 900, 1000])
    answer = torch.randn_like(x_0)
    abar = expand(alpha_bar[step - 1], x_0)
    net = Oracle(answer)
    loss = Denoiser(net, Discrete(), Loss("eps")).loss(x_0, step.double() / 1000, eps)
    assert torch.allclose(net.x, abar.sqrt() * x_0 + (1 - abar).sqrt() * eps, atol=1e-9)
    assert torch.allclose(loss, (eps - answer.float()).square().flatten(1).mean(1), atol=1e-6)
    alpha, sigma, _ = noisy(VP())
    loss = Denoiser(net, VP(), Loss("v")).loss(x_0, t, eps)
    assert torch.allclose(loss, (alpha * eps - sigma * x_0 - answer).square().flatten(1).mean(1), atol=1e-5)


def test_edm_target_and_input_have_unit_variance():
    alpha, sigma = VP()(t)
    c_skip, c_out, c_in = PRECONDITIONS["edm"](alpha, sigma)
    std = 0.5
    assert torch.allclose(c_in**2 * (alpha**2 * std**2 + sigma**2), torch.ones_like(t))
    target = ((1 - c_skip * alpha) ** 2 * std**2 + c_skip**2 * sigma**2) / c_out**2
    assert torch.allclose(target, torch.ones_like(t))


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_min_snr_is_the_same_loss_whatever_is_predicted(predict):
    """A given error of x_0 costs min(SNR, 5) times its square, in every parametrisation."""
    alpha, sigma, x_t = noisy(VP())
    wrong = x_0 + 0.1
    c_skip, c_out, _ = (expand(c, x_0) for c in PRECONDITIONS[predict](*VP()(t)))
    loss = Denoiser(Oracle((wrong - c_skip * x_t) / c_out), VP(), Loss(predict, "min_snr")).loss(x_0, t, eps)
    expected = (alpha / sigma).square().flatten().clamp(max=5) * 0.01
    assert torch.allclose(loss.double(), expected, rtol=1e-4)


def test_score_of_a_gaussian():
    """x_0 ~ N(0, 4): x_t ~ N(0, 4 alpha^2 + sigma^2), and the score is - x_t over that variance."""
    alpha, sigma, x_t = noisy(VP())
    variance = 4 * alpha**2 + sigma**2
    x0_hat = 4 * alpha / variance * x_t
    assert torch.allclose(score(x_t, x0_hat, *VP()(t)), -x_t / variance)
    assert torch.allclose(alpha * x0_hat + sigma * eps_hat(x_t, x0_hat, *VP()(t)), x_t)
