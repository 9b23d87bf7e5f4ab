"""What the tests of the solvers share: schedules that are not VP, exact denoisers, every solver."""

from dataclasses import dataclass

import torch

from ldm.diffusion.schedules import VP, Cosine, Discrete, Schedule
from ldm.diffusion.solvers import (
    DDIM,
    DDPM,
    AdaptiveODE,
    Diffusers,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp3M,
    EDMStochastic,
    Euler,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
)


@dataclass(frozen=True)
class Exploding(Schedule):
    """A VE law from sigma 0.01 to 20."""

    def __call__(self, t):
        return torch.ones_like(t), 0.01 * 2000**t


@dataclass(frozen=True)
class Straight(Schedule):
    """Flow matching: alpha = 1 - t, sigma = t; alpha_1 = 0 and sigma_0 = 0 exactly."""

    def __call__(self, t):
        return 1 - t, t


SCHEDULES = {
    "VP": VP(),
    "Cosine": Cosine(),
    "Discrete": Discrete(),
    "zero-snr": Discrete(zero_snr=True),
    "VE": Exploding(),
    "Linear": Straight(),
}
ODES = {"DDIM": DDIM(), "Euler": Euler(), "Heun": Heun(), "2M": DPMpp2M(), "3M": DPMpp3M(), "adaptive": AdaptiveODE()}
SDES = {
    "DDPM": DDPM(),
    "DDPM-large": DDPM("large"),
    "DDIM-eta": DDIM(0.5),
    "EulerMaruyama": EulerMaruyama(),
    "EulerMaruyama-half": EulerMaruyama(0.5),
    "PC": PredictorCorrector(),
    "EDM": EDMStochastic(),
    "2M-SDE": DPMpp2MSDE(),
}
FOREIGN = {
    f"diffusers-{name}": Diffusers(name)
    for name in ("DEIS", "DPMSolverMultistep", "DPMSolverMultistepSDE", "DPMSolverSinglestep", "Euler", "LMS", "UniPC")
}


class Gaussian:
    """The exact denoiser of x_0 ~ N(mean, std^2): E[x_0 | x_t]."""

    def __init__(self, schedule, mean=0.7, std=0.6):
        self.schedule, self.mean, self.std = schedule, mean, std

    def __call__(self, x_t, t):
        alpha, sigma = self.schedule(t)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)

    def flow(self, x, t, s):
        """The probability flow from t to s, exactly: it keeps (x - alpha mean) / std(x_t)."""
        (a_t, s_t), (a_s, s_s) = self.schedule(t), self.schedule(s)
        width = lambda a, sg: (a**2 * self.std**2 + sg**2).sqrt()
        return a_s * self.mean + (x - a_t * self.mean) * width(a_s, s_s) / width(a_t, s_t)


class Mixture:
    """The exact denoiser of a mixture of Gaussians with `means` (K, D), weights 1/K and one std."""

    def __init__(self, schedule, means=((-1.0, 0.3), (0.8, 0.8), (0.5, -0.9)), std=0.25):
        self.schedule, self.means, self.std = schedule, torch.tensor(means, dtype=torch.float64), std

    def __call__(self, x_t, t):
        alpha, sigma = self.schedule(t)
        means = self.means.to(x_t)
        variance = alpha**2 * self.std**2 + sigma**2
        from_mean = x_t[:, None] - alpha * means  # (B, K, D)
        share = (-from_mean.square().sum(-1) / (2 * variance)).softmax(1)[..., None]
        return (share * (means + (alpha * self.std**2 / variance) * from_mean)).sum(1)

    def draw(self, count, generator):
        pick = torch.randint(len(self.means), (count,), generator=generator)
        return self.means[pick] + self.std * torch.randn(count, 2, generator=generator, dtype=torch.float64)


def no_noise():
    raise AssertionError("a deterministic solver asked for noise")
