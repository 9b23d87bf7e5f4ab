"""Tasks that start the loop lower down than t = 1: de-noising and SDEdit."""

import math

import torch
from torch import Tensor

from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers import Denoise


def noise_time(schedule: Schedule, noise_std: float) -> Tensor:
    """The t with sigma_t / alpha_t = noise_std, 0-dim float64.

    ValueError where the schedule has none above 0.
    """
    if not (math.isfinite(noise_std) and noise_std > 0):
        raise ValueError(f"a noise of standard deviation {noise_std:g} is not above 0")
    t = schedule.inverse_log_snr(-torch.tensor(noise_std, dtype=torch.float64).log())
    if not 0 < t <= 1:
        raise ValueError(
            f"a noise of standard deviation {noise_std:g} is beyond the schedule's own"
        )
    return t


def denoising_start(schedule: Schedule, y: Tensor, noise_std: float) -> tuple[Tensor, Tensor]:
    """Where the loop starts to de-noise y = x_0 + n, n ~ N(0, noise_std^2): t, x_t = alpha_t y.

    alpha_t y = alpha_t x_0 + sigma_t eps is a draw of the forward process at the t with sigma_t /
    alpha_t = noise_std, so a stochastic solver from there samples p(x_0 | y), and `denoise_once`
    is its mean.
    """
    t = noise_time(schedule, noise_std)
    return t, schedule(t)[0] * y


def denoise_once(denoise: Denoise, y: Tensor, noise_std: float) -> Tensor:
    """E[x_0 | y] for y = x_0 + n: one call of the denoiser, the least squared error there is."""
    t, x_t = denoising_start(denoise.schedule, y, noise_std)
    return denoise(x_t, t)


def edit(schedule: Schedule, x_0: Tensor, strength: float, noise: Tensor) -> tuple[Tensor, Tensor]:
    """SDEdit's start: t = strength and x_t = alpha_t x_0 + sigma_t eps.

    Meng et al. 2022, algorithm 1. A strength of 1 keeps least.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"a strength is above 0 and at most 1, got {strength:g}")
    t = torch.tensor(strength, dtype=torch.float64)
    alpha, sigma = schedule(t)
    return t, alpha * x_0 + sigma * noise


def below(times: Tensor, t: Tensor) -> Tensor:
    """A grid from 1 to 0 shrunk to go from t to 0, with as many steps."""
    return times * (t / times[0])


def noise_level(y: Tensor) -> float:
    """Standard deviation of white noise in pictures (B, C, H, W) of range [-1, 1].

    Median |d| / 0.6745 of the finest diagonal Haar details d = (a - b - c + e) / 2 (Donoho &
    Johnstone 1994), which smooth surfaces and straight edges hardly touch. A file clips its noise
    at black and white, so squares of four whose mean is within two standard deviations of either
    are left out, unless almost none remain.
    """
    height, width = (side // 2 * 2 for side in y.shape[2:])
    a, b, c, e = (y[..., i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
    details, mean = ((a - b - c + e) / 2).abs(), (a + b + c + e) / 4
    std = details.median().item() / 0.6745
    for _ in range(3):
        grey = mean.abs() < 1 - 2 * std
        if grey.sum() < 32:
            break
        std = details[grey].median().item() / 0.6745
    return std
