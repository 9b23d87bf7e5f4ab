"""Solvers: from noise to data along decreasing times, each a frozen dataclass with one `step`.

base: the loop `sample` and what a solver is. ddpm: DDPM, DDIM. ode: Euler, Heun, AdaptiveODE.
multistep: the DPM-Solver++ family. sde: EulerMaruyama, PredictorCorrector, EDMStochastic. few:
Consistency, for models trained by the loss of that name. foreign: Diffusers, the adapter to
diffusers' schedulers. All but Diffusers need no more of a schedule than its alpha_t and sigma_t.
"""

from ldm.diffusion.solvers.angle import Unreached
from ldm.diffusion.solvers.base import (
    Counted,
    Denoise,
    Past,
    Randn,
    Solver,
    Step,
    Watch,
    sample,
    start,
)
from ldm.diffusion.solvers.ddpm import DDIM, DDPM
from ldm.diffusion.solvers.few import Consistency
from ldm.diffusion.solvers.foreign import Diffusers
from ldm.diffusion.solvers.multistep import DPMpp2M, DPMpp2MSDE, DPMpp3M
from ldm.diffusion.solvers.ode import AdaptiveODE, Euler, Heun
from ldm.diffusion.solvers.sde import EDMStochastic, EulerMaruyama, PredictorCorrector

__all__ = [
    "DDIM",
    "DDPM",
    "AdaptiveODE",
    "Consistency",
    "Counted",
    "DPMpp2M",
    "DPMpp2MSDE",
    "DPMpp3M",
    "Denoise",
    "Diffusers",
    "EDMStochastic",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Past",
    "PredictorCorrector",
    "Randn",
    "Solver",
    "Step",
    "Unreached",
    "Watch",
    "sample",
    "start",
]
