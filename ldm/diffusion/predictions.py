"""What a network predicts, as the coefficients of x0_hat = c_skip x_t + c_out net(c_in x_t).

Karras et al. 2022, eq. 7. Each is a function of the schedule's law at t. With the loss taken in the
network's output space, weight 1 is the loss of the paper that each comes from.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Coefficients = tuple[Tensor, Tensor, Tensor]  # c_skip, c_out, c_in


def _scale(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Standard deviation of x_t for data of unit variance; 1 for every VP law."""
    return (alpha.square() + sigma.square()).sqrt()


def predict_eps(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """net = eps_hat: x0_hat = (x_t - sigma eps_hat) / alpha (Ho et al. 2020, eq. 15)."""
    return 1 / alpha, -sigma / alpha, 1 / _scale(alpha, sigma)


def predict_score(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """net = grad log p_t(x_t): x0_hat = (x_t + sigma^2 score) / alpha.

    Weight 1 is score matching (Vincent 2011, eq. 9).
    """
    return 1 / alpha, sigma.square() / alpha, 1 / _scale(alpha, sigma)


def predict_x0(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """net = x0_hat."""
    return torch.zeros_like(alpha), torch.ones_like(alpha), 1 / _scale(alpha, sigma)


def predict_v(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """net = v = alpha eps - sigma x_0 for VP: x0_hat = alpha x_t - sigma v.

    Salimans & Ho 2022, appendix D.
    """
    scale = _scale(alpha, sigma)
    return alpha / scale.square(), -sigma / scale, 1 / scale


def predict_edm(alpha: Tensor, sigma: Tensor, std: float = 0.5) -> Coefficients:
    """Unit-variance inputs and targets for data of standard deviation `std`.

    Karras et al. 2022, table 1, of x_t / alpha and sigma / alpha; multiplied out it holds at
    alpha = 0 too.
    """
    scale = _scale(std * alpha, sigma)
    return std**2 * alpha / scale.square(), sigma * std / scale, 1 / scale


def predict_velocity(
    alpha: Tensor, sigma: Tensor, alpha_rate: Tensor, sigma_rate: Tensor
) -> Coefficients:
    """net = d x_t / dt = alpha' x_0 + sigma' eps, for `Linear` eps - x_0.

    x0_hat = (sigma' x_t - sigma velocity) / (alpha sigma' - alpha' sigma) (Lipman et al. 2023, eq.
    23).
    """
    determinant = alpha * sigma_rate - alpha_rate * sigma
    return sigma_rate / determinant, -sigma / determinant, 1 / _scale(alpha, sigma)


PREDICTIONS: dict[str, Callable[..., Coefficients]] = {
    "eps": predict_eps,
    "x0": predict_x0,
    "v": predict_v,
    "edm": predict_edm,
    "velocity": predict_velocity,
    "score": predict_score,
}
