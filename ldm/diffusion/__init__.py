"""The lecture: schedules, denoisers, solvers, likelihood and tasks, on torch alone.

from ldm.diffusion import DPMpp2M, Denoiser, Loss, VP, sample, start

denoiser = Denoiser(net, VP(), Loss("v"))
loss = denoiser.loss(x_0, denoiser.times(torch.rand(len(x_0))), torch.randn_like(x_0)).mean()
times = denoiser.schedule.grid(25)
x_1 = start(denoiser.schedule, times[0], torch.randn(16, 1, 28, 28))
x_0 = sample(DPMpp2M(), denoiser, x_1, times, lambda: torch.randn_like(x_1))
"""

from ldm.diffusion.denoiser import Denoiser, Loss, eps_hat, score, velocity
from ldm.diffusion.flow import Ode, from_noise, slerp, to_noise
from ldm.diffusion.likelihood import Likelihood, bits_per_dim, dequantise, log_likelihood
from ldm.diffusion.schedules import VE, VP, Cosine, Discrete, Linear, Schedule, SubVP
from ldm.diffusion.simulate import noising, simulate
from ldm.diffusion.solvers import (
    DDIM,
    DDPM,
    AdaptiveODE,
    Counted,
    Denoise,
    Diffusers,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp3M,
    EDMStochastic,
    Euler,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    Solver,
    Unreached,
    sample,
    start,
)
from ldm.diffusion.space import Space
from ldm.diffusion.tasks import (
    AveragePool,
    Guided,
    Identity,
    Mask,
    Repaint,
    cfg,
    denoise_once,
    denoising_start,
    edit,
    guide,
    guide_through,
    project,
)
from ldm.diffusion.times import Importance, LogitNormal, LogNormal, Uniform
from ldm.diffusion.weights import EDM, MaximumLikelihood, MinSNR, One

__all__ = [
    "DDIM",
    "DDPM",
    "EDM",
    "VE",
    "VP",
    "AdaptiveODE",
    "AveragePool",
    "Cosine",
    "Counted",
    "DPMpp2M",
    "DPMpp2MSDE",
    "DPMpp3M",
    "Denoise",
    "Denoiser",
    "Diffusers",
    "Discrete",
    "EDMStochastic",
    "Euler",
    "EulerMaruyama",
    "Guided",
    "Heun",
    "Identity",
    "Importance",
    "Likelihood",
    "Linear",
    "LogNormal",
    "LogitNormal",
    "Loss",
    "Mask",
    "MaximumLikelihood",
    "MinSNR",
    "Ode",
    "One",
    "PredictorCorrector",
    "Repaint",
    "Schedule",
    "Solver",
    "Space",
    "SubVP",
    "Uniform",
    "Unreached",
    "bits_per_dim",
    "cfg",
    "denoise_once",
    "denoising_start",
    "dequantise",
    "edit",
    "eps_hat",
    "from_noise",
    "guide",
    "guide_through",
    "log_likelihood",
    "noising",
    "project",
    "sample",
    "score",
    "simulate",
    "slerp",
    "start",
    "to_noise",
    "velocity",
]
