"""Diffusers' schedulers on our denoisers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ldm.diffusion.denoiser import eps_hat
from ldm.diffusion.schedules import Schedule
from ldm.diffusion.solvers.base import Denoise, Past, Randn, Solver, Step

T = 1000  # entries of the table of betas that stands in for our schedule

# name -> diffusers' class and settings. Not here: those that draw their noise themselves
# (EulerAncestral, KDPM2Ancestral, SA, DPMSolverSDE), by which a sample would not be a function of
# its seed alone, those with more or fewer timesteps than steps (PNDM, Heun, KDPM2), and those that
# we have (DDPM, DDIM).
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DEIS": ("DEISMultistepScheduler", {}),
    "DPMSolverMultistep": ("DPMSolverMultistepScheduler", {}),
    "DPMSolverMultistepSDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPMSolverSinglestep": ("DPMSolverSinglestepScheduler", {"lower_order_final": True}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
}


@dataclass(frozen=True)
class Diffusers(Solver):
    """A scheduler of diffusers by name, fed with eps_hat, on a float32 table of our law.

    The table is beta_i = 1 - (alpha_i / alpha_{i-1})^2 with alpha_i = alpha(i / 1000); diffusers'
    timestep i - 1 is our t = i / 1000. It keeps its own times, "trailing", which are ours rounded
    to the table. `order` is that of the multistep and single-step methods. DEIS ends at the table's
    first entry, not at t = 0. ValueError for a schedule that is not variance preserving or has
    alpha_1 = 0, and for a grid of other times.
    """

    scheduler: Literal[
        "DEIS",
        "DPMSolverMultistep",
        "DPMSolverMultistepSDE",
        "DPMSolverSinglestep",
        "Euler",
        "LMS",
        "UniPC",
    ] = "UniPC"
    order: int = 2

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise ValueError(f"Diffusers knows {', '.join(SCHEDULERS)}, got '{self.scheduler}'")
        if not 1 <= self.order <= 3:
            raise ValueError(f"Diffusers needs order 1, 2 or 3, got {self.order}")
        if self.scheduler == "DPMSolverMultistepSDE" and self.order == 1:
            raise ValueError("DPMSolverMultistepSDE of order 1 is solver DDPM; order 2 or 3")

    def bind(self, schedule: Schedule, times: Tensor) -> Solver:
        steps = len(times) - 1
        if steps > T:
            table = f"Diffusers' schedulers have a table of {T}"
            raise ValueError(f"{table}: at most {T} steps, got {steps}")
        scheduler = self.build(schedule)
        if self.scheduler == "DPMSolverSinglestep":  # knows no trailing spacing
            scheduler.set_timesteps(timesteps=((times[:-1] * T).round().long() - 1).tolist())
        else:
            scheduler.set_timesteps(steps)
        theirs = (torch.as_tensor(scheduler.timesteps).double() + 1) / T
        same = len(theirs) == steps and (theirs - times[:-1].cpu()).abs().max() <= 0.51 / T
        if not same or times[-1] != 0:
            raise ValueError(
                "Diffusers' schedulers run on even times from t = 1 to 0 alone "
                "(grid uniform or trailing)"
            )
        extra = {"order": self.order} if self.scheduler == "LMS" else {}
        return _Stepper(scheduler, iter(scheduler.timesteps), self.scheduler.endswith("SDE"), extra)

    def build(self, schedule: Schedule) -> Any:
        """The scheduler, with our law as its table of betas."""
        import diffusers

        alpha, sigma = schedule(torch.linspace(0, 1, T + 1, dtype=torch.float64))
        if (alpha**2 + sigma**2 - 1).abs().max() > 1e-6 or alpha[-1] == 0:
            raise ValueError(
                "Diffusers' schedulers need a variance-preserving schedule with alpha > 0 at t = 1"
            )
        name, settings = SCHEDULERS[self.scheduler]
        cls = getattr(diffusers, name)
        if self.scheduler not in ("Euler", "LMS"):
            settings = settings | {"solver_order": self.order}
        if self.scheduler.startswith(("DPM", "UniPC")):
            settings = settings | {"final_sigmas_type": "zero"}
        if self.scheduler != "DPMSolverSinglestep":
            settings = settings | {"timestep_spacing": "trailing"}
        betas = (1 - (alpha[1:] / alpha[:-1]) ** 2).numpy()
        return cls(T, trained_betas=betas, prediction_type="epsilon", **settings)


@dataclass
class _Stepper(Solver):
    """One loop's scheduler with its state."""

    scheduler: Any
    timesteps: Iterator[Tensor]
    noisy: bool
    extra: dict[str, Any]

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, randn: Randn, past: Past
    ) -> Step:
        timestep = next(self.timesteps)
        t = (timestep.double() + 1) / T
        alpha_t, sigma_t = denoise.schedule(t)
        x0_hat = denoise(x_t, t)
        extra = self.extra | ({"variance_noise": randn()} if self.noisy else {})
        eps = eps_hat(x_t, x0_hat, alpha_t, sigma_t)
        scaled = hasattr(self.scheduler, "is_scale_input_called")  # Euler and LMS: x / alpha
        x = x_t / alpha_t if scaled else x_t
        self.scheduler.scale_model_input(x, timestep)
        x_s = self.scheduler.step(eps, timestep, x, **extra).prev_sample
        if not scaled:
            return x_s, x0_hat
        return x_s / (1 + self.scheduler.sigmas[self.scheduler.step_index] ** 2).sqrt(), x0_hat
