"""What the tests of the solvers share: every schedule and every solver."""

from exact import Exploding, Straight

from ldm.diffusion.schedules import VP, Cosine, Discrete
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
from ldm.diffusion.solvers.foreign import SCHEDULERS

SCHEDULES = {
    "VP": VP(),
    "Cosine": Cosine(),
    "Discrete": Discrete(),
    "zero-snr": Discrete(zero_snr=True),  # alpha_1 = 0
    "VE": Exploding(),
    "Linear": Straight(),
}
ODES = {
    "DDIM": DDIM(),
    "Euler": Euler(),
    "Heun": Heun(),
    "Heun-angle": Heun("angle"),
    "DPMpp2M": DPMpp2M(),
    "DPMpp3M": DPMpp3M(),
    "AdaptiveODE": AdaptiveODE(),
}
SDES = {
    "DDPM": DDPM(),
    "DDPM-large": DDPM("large"),
    "DDIM-eta": DDIM(0.5),
    "EulerMaruyama": EulerMaruyama(),
    "EulerMaruyama-half": EulerMaruyama(0.5),
    "PredictorCorrector": PredictorCorrector(),
    "EDMStochastic": EDMStochastic(),
    "DPMpp2MSDE": DPMpp2MSDE(),
}
FOREIGN = {f"diffusers-{name}": Diffusers(name) for name in SCHEDULERS}
OURS = ODES | SDES
ALL = OURS | FOREIGN
