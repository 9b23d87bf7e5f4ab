"""Tasks: functions from a denoiser to a denoiser, so that every solver serves every task.

guidance: cfg, autoguided. operators: what was measured, y = A x + n. inverse: project, guide,
guide_through; Repaint, which wraps a solver. starts: de-noising and editing, which start the loop
lower down than t = 1.
"""

from ldm.diffusion.tasks.guidance import Guided, autoguided, cfg
from ldm.diffusion.tasks.inverse import Repaint, guide, guide_through, project
from ldm.diffusion.tasks.operators import AveragePool, Identity, Mask, Operator
from ldm.diffusion.tasks.starts import (
    below,
    denoise_once,
    denoising_start,
    edit,
    noise_level,
    noise_time,
)

__all__ = [
    "AveragePool",
    "Guided",
    "Identity",
    "Mask",
    "Operator",
    "Repaint",
    "autoguided",
    "below",
    "cfg",
    "denoise_once",
    "denoising_start",
    "edit",
    "guide",
    "guide_through",
    "noise_level",
    "noise_time",
    "project",
]
