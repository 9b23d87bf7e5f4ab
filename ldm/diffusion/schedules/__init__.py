"""Noise schedules: the laws alpha_t, sigma_t of x_t = alpha_t x_0 + sigma_t eps.

| law | alpha_t | sigma_t | paper |
|---|---|---|---|
| `VP` | exp(-1/2 int beta) | sqrt(1 - alpha^2) | the lecture's; Song et al. 2021, eq. 33 |
| `SubVP` | the same | 1 - alpha^2 | Song et al. 2021, eq. 29 |
| `Cosine` | cos | sin | Nichol & Dhariwal 2021 |
| `VE` | 1 | geometric | Song et al. 2021, eq. 31 |
| `Linear` | 1 - t | t | flow matching, Lipman et al. 2023 |
| `Discrete` | a table of T | sqrt(1 - alpha^2) | Ho et al. 2020 |
"""

from ldm.diffusion.schedules.base import Schedule, Spacing, VariancePreserving, expand
from ldm.diffusion.schedules.continuous import VE, VP, Cosine, Linear, SubVP
from ldm.diffusion.schedules.discrete import Discrete

__all__ = [
    "VE",
    "VP",
    "Cosine",
    "Discrete",
    "Linear",
    "Schedule",
    "Spacing",
    "SubVP",
    "VariancePreserving",
    "expand",
]
