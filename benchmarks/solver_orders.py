"""Every solver against exact answers, in float64 on the CPU: a table in markdown to stdout, the
numbers to --output.

python -m benchmarks.solver_orders --output runs/solver_orders.json

Orders: the slope of the largest error from 256 to 512 steps, times even in log-SNR from t = 0.95 to
0.05, on the flow of a Gaussian (closed form) and of a mixture of three in 2-D (AdaptiveODE at
1e-12). Stochastic solvers: mean and variance of what they make of Gaussian data, by propagation of
the affine steps. diffusers: the largest difference over whole loops.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from exact import (
    Exploding,
    Gaussian,
    Mixture,
    Straight,
    even_log_snr,
    flow_errors,
    law_errors,
    no_noise,
    slopes,
)
from torch import Tensor

from ldm.diffusion.schedules import VP, Cosine, Discrete, Schedule
from ldm.diffusion.solvers import (
    DDIM,
    DDPM,
    AdaptiveODE,
    Counted,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp3M,
    EDMStochastic,
    Euler,
    EulerMaruyama,
    Heun,
    Solver,
    sample,
)
from ldm.scripts.flags import Parser

SCHEDULES: dict[str, Schedule] = {
    "VP": VP(),
    "Cosine": Cosine(),
    "VE": Exploding(),
    "Linear": Straight(),
}
ODES: list[tuple[Solver, float]] = [
    (DDIM(), 0.95),
    (Euler(), 0.95),
    (Heun(), 1.9),
    (Heun("angle"), 1.9),
    (DPMpp2M(), 1.9),
    (DPMpp3M(), 2.7),
]
SDES: list[tuple[Solver, float]] = [
    (DDPM("small"), 0.95),
    (DDPM("large"), 0.95),
    (DDIM(0.5), 0.95),
    (EulerMaruyama(1.0), 0.95),
    (EulerMaruyama(0.5), 0.95),
    (EDMStochastic(3.0, 0.0, 1e9, 1.0), 1.9),
    (DPMpp2MSDE(1.0), 1.9),
]
COUNTS = (128, 256, 512)
TABLE = {
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "timestep_spacing": "trailing",
}


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines) + "\n"


def orders() -> tuple[str, list[dict]]:
    """Measured orders of the deterministic solvers."""
    rows, record = [], []
    for solver, target in ODES:
        cells = []
        for data in (Gaussian, Mixture):
            for name, schedule in SCHEDULES.items():
                errors = flow_errors(solver, data(schedule), COUNTS)
                cells.append(slopes(errors)[-1])
                record.append(
                    {
                        "solver": repr(solver),
                        "data": data.__name__,
                        "schedule": name,
                        "errors": errors,
                    }
                )
                record[-1] |= {"order": cells[-1], "target": target}
        rows.append([f"`{solver}`", f"{target}", *(f"{c:.3f}" for c in cells)])
    names = [f"{data}, {name}" for data in ("Gaussian", "mixture") for name in SCHEDULES]
    return markdown(["solver", "wanted", *names], rows), record


def laws() -> tuple[str, list[dict]]:
    """Errors of mean and variance of the stochastic solvers, and the order of the variance's."""
    rows, record = [], []
    for solver, target in SDES:
        cells = []
        for name, schedule in SCHEDULES.items():
            errors = law_errors(solver, Gaussian(schedule), COUNTS)
            (mean, variance), order = errors[-1], slopes([e[1] for e in errors])[-1]
            cells.append(f"{mean:.0e}, {variance:.1e}, {order:.2f}")
            record.append(
                {
                    "solver": repr(solver),
                    "schedule": name,
                    "errors": errors,
                    "order": order,
                    "target": target,
                }
            )
        rows.append([f"`{solver}`", f"{target}", *cells])
    return markdown(["solver", "wanted", *SCHEDULES], rows), record


def tolerances() -> tuple[str, list[dict]]:
    """AdaptiveODE: evaluations and error by tolerance, from t = 1 to sigma = 0."""
    rows, record, ends = [], [], torch.tensor([1, 0], dtype=torch.float64)
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        exact = Gaussian(VP())
        denoise = Counted(exact)
        x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        out = sample(AdaptiveODE(tolerance, tolerance), denoise, x, ends, no_noise)
        error = (out - exact.flow(x, *ends)).abs().max().item()
        rows.append([f"{tolerance:g}", str(denoise.calls), f"{error:.1e}"])
        record.append({"tolerance": tolerance, "evaluations": denoise.calls, "error": error})
    return markdown(["rtol = atol", "evaluations", "largest error"], rows), record


class Fake:
    """A smooth made-up network on the table's grid: eps_hat, and x0_hat from it."""

    schedule = Discrete()

    def eps(self, x: Tensor, timestep: Tensor) -> Tensor:
        return torch.tanh(x) * (0.5 + timestep.double() / 2000) + 0.1 * x

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule(t)
        return (x_t - sigma * self.eps(x_t, (t * 1000 - 1).round())) / alpha


def theirs(
    scheduler: diffusers.SchedulerMixin, steps: int, x: Tensor, exact_table: bool, **step: object
) -> Tensor:
    """Their loop; exact_table puts our float64 table in place of their float32 one."""
    if exact_table:
        scheduler.alphas_cumprod = Discrete().alphas[1:] ** 2
        scheduler.one = scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(Fake().eps(x, t), t, x, **step).prev_sample
    return x


def differences() -> tuple[str, list[dict]]:
    """Our loops against diffusers', n dividing T."""
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small = {"clip_sample": False, "variance_type": "fixed_small"}
    multi = lambda order: DPMSolverMultistepScheduler(
        1000, solver_order=order, final_sigmas_type="zero", **TABLE
    )
    noise = lambda: torch.Generator().manual_seed(3)
    rows, record = [], []
    for steps in (10, 50, 250, 1000):
        randn = lambda g=noise(): torch.randn(16, 2, generator=g, dtype=torch.float64)
        grid = Discrete().grid(steps)
        ddim = DDIMScheduler(1000, clip_sample=False, **TABLE)
        ddpm = sample(DDPM(), Fake(), x, grid, randn) + (
            1e-10 * randn() if steps < 1000 else 0
        )  # their clamp
        pairs = {
            "DDIM": (
                sample(DDIM(), Fake(), x, grid, randn),
                theirs(ddim, steps, x, True),
            ),
            "DDPM": (
                ddpm,
                theirs(DDPMScheduler(1000, **small, **TABLE), steps, x, True, generator=noise()),
            ),
            "DPMpp2M": (
                sample(DPMpp2M(), Fake(), x, grid, randn),
                theirs(multi(2), steps, x, False),
            ),
            "DPMpp3M": (
                sample(DPMpp3M(), Fake(), x, grid, randn),
                theirs(multi(3), steps, x, False),
            ),
        }
        found = {name: (a - b).abs().max().item() for name, (a, b) in pairs.items()}
        rows.append([str(steps), *(f"{d:.1e}" for d in found.values())])
        record.append({"steps": steps} | found)
    return markdown(["steps", *pairs], rows), record


def third_order() -> tuple[str, list[dict]]:
    """The third-order multistep formula with and without the factor 2, started on the exact flow,
    in float64.
    """
    rows, record = [], []
    for factor, whose in ((2, "ours"), (1, "as in diffusers")):
        errors = [one_formula(factor, count) for count in COUNTS]
        rows.append(
            [
                whose,
                f"{factor} phi_3 d2",
                *(f"{e:.1e}" for e in errors),
                f"{slopes(errors)[-1]:.2f}",
            ]
        )
        record.append({"factor": factor, "errors": errors, "order": slopes(errors)[-1]})
    return markdown(["whose", "last term", *(f"{c} steps" for c in COUNTS), "order"], rows), record


def one_formula(factor: int, count: int) -> float:
    """Error of the bare formula: lines 1110-1117 of diffusers' scheduling_dpmsolver_multistep.py
    (0.42.1), in float64.
    """
    denoise = Gaussian(VP())
    times = even_log_snr(denoise.schedule, count)
    lam, x = denoise.schedule.log_snr(times), torch.linspace(-2, 2, 9, dtype=torch.float64)
    seen = [denoise(denoise.flow(x, times[0], t), t) for t in times[:2]]
    x = denoise.flow(x, times[0], times[2])
    for i in range(2, count):
        seen.append(denoise(x, times[i]))
        h, h0, h1 = lam[i + 1] - lam[i], lam[i] - lam[i - 1], lam[i - 1] - lam[i - 2]
        r0, r1 = h0 / h, h1 / h
        d0, d1 = (seen[-1] - seen[-2]) / r0, (seen[-2] - seen[-3]) / r1
        first, second = d0 + r0 / (r0 + r1) * (d0 - d1), (d0 - d1) / (r0 + r1)
        (_, sigma_t), (alpha, sigma) = denoise.schedule(times[i]), denoise.schedule(times[i + 1])
        e = torch.expm1(-h)
        x = sigma / sigma_t * x - alpha * e * seen[-1] + alpha * (e / h + 1) * first
        x = x - factor * alpha * ((e + h) / h**2 - 0.5) * second
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)
    return (x - denoise.flow(start, times[0], times[-1])).abs().max().item()


PARTS = {
    "Order of the deterministic solvers": orders,
    "Stochastic solvers: error of the mean, of the variance, order of the latter": laws,
    "AdaptiveODE on the Gaussian, VP": tolerances,
    "Largest difference to diffusers (DDIM, DDPM: float64 tables; DPM++: their float32)": differences,
    "The third-order multistep formula": third_order,
}


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, metavar="JSON")
    args = parser.parse_args()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    began, found = time.time(), {}
    for title, measure in PARTS.items():
        text, found[measure.__name__] = measure()
        print(f"### {title}\n\n{text}", flush=True)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "seconds": round(time.time() - began, 1),
        }
        args.output.write_text(json.dumps(about | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
