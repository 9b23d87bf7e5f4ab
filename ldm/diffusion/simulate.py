"""The forward SDE as it runs, step by step: paths from data to noise."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ldm.diffusion.schedules import Schedule


def simulate(schedule: Schedule, x_0: Tensor, times: Tensor, randn: Callable[[], Tensor]) -> Tensor:
    """Euler-Maruyama paths of dx = f x dt + g dw from x_0 at times[0]: (len(times), *x_0.shape).

    x_(t+h) = a x_t + g sqrt((1 - a^2) / (-2 f)) z (Song et al. 2021, eq. 5), a = alpha_(t+h) /
    alpha_t: the drift f x, linear, is solved exactly, so that no step is too long where f is large
    (Cosine's at t = 1 is 600, Linear's infinite); for small steps that is x_t + f x_t h + g sqrt(h)
    z. As h -> 0 the law at t is the closed form's N(alpha_t x_0, sigma_t^2), with an error of order
    h or none; that jump needs no path, a picture of one does.
    """
    if not (times.diff() > 0).all():
        raise ValueError("simulate runs forwards: times must increase")
    path = [x_0]
    for t, s in pairwise(times.double()):
        (f, g2), a = schedule.drift(t), schedule(s)[0] / schedule(t)[0]
        length = torch.where(f == 0, s - t, (1 - a.square()) / (-2 * f))
        path.append(a * path[-1] + (g2 * length).sqrt() * randn())
    return torch.stack(path)


def noising(schedule: Schedule, x_0: Tensor, times: Tensor, randn: Callable[[], Tensor]) -> Tensor:
    """The Markov chain q(x_s | x_t), t < s, from x_0 at times[0]: (len(times), *x_0.shape).

    x_s = a x_t + b z with a = alpha_s / alpha_t, b^2 = sigma_s^2 - a^2 sigma_t^2 (Ho et al. 2020,
    eq. 2, for any step): at every time the law is exactly the jump's, N(alpha_s x_0, sigma_s^2). At
    times[0] x_0 has been noised that far already.
    """
    if not (times.diff() > 0).all():
        raise ValueError("noising runs forwards: times must increase")
    path = [x_0]
    for t, s in pairwise(times.double()):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        a = alpha_s / alpha_t
        path.append(
            a * path[-1] + (sigma_s.square() - (a * sigma_t).square()).clamp(min=0).sqrt() * randn()
        )
    return torch.stack(path)
