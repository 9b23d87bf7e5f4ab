"""Every solver, law and option value with few steps, exactly, in float64: what spread is left of
N(0.4, 0.6^2).

python -m benchmarks.solver_limits --output runs/solver_limits.json

Mean and variance are propagated, no Monte Carlo: each step is affine in x and the noise
(`ldm.diffusion.exact.law`). The start is the law at t = 1, the grid the schedule's own. A cell is
(std of the samples) / 0.6 for 10, 25 and 50 steps, or "refused".
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.solver_orders import markdown
from ldm.diffusion.exact import Gaussian, law
from ldm.diffusion.schedules import VE, VP, Cosine, Discrete, Linear, Schedule, SubVP
from ldm.diffusion.solvers import (
    DDIM,
    DDPM,
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
)
from ldm.scripts.flags import Parser

LAWS: dict[str, Schedule] = {
    "VP": VP(),
    "sub-VP": SubVP(),
    "VE": VE(),
    "Cosine": Cosine(),
    "Linear": Linear(),
    "Discrete": Discrete(),
    "Discrete, cosine": Discrete("cosine"),
    "Discrete, zero SNR": Discrete(zero_snr=True),
    "Discrete, cosine, zero SNR": Discrete("cosine", zero_snr=True),
}
# ends and middle of every option that a stochastic solver accepts
STOCHASTIC: list[Solver] = [
    DDPM("large"),
    *(EulerMaruyama(churn) for churn in (0.0, 1e-3, 0.1, 0.5, 1.0, 2.0, 100.0)),
    *(
        PredictorCorrector(steps, snr)
        for steps, snr in ((0, 0.16), (1, 1e-3), (1, 0.16), (1, 0.5), (20, 0.5))
    ),
    *(EDMStochastic(churn) for churn in (0.0, 3.0, 40.0, 1e6)),
    *(EDMStochastic(40.0, 0.0, float("inf"), noise) for noise in (0.98, 1.0, 1.05)),
    EDMStochastic(40.0, 1.0, 1.0),
    *(DPMpp2MSDE(eta) for eta in (0.0, 0.5, 1.0, 2.0)),
    *(Diffusers("DPMSolverMultistepSDE", order) for order in (2, 3)),
]
# published steps of first order, equal to diffusers' to the last bits: with few steps they keep too
# little, and must
FIRST_ORDER: list[Solver] = [DDPM("small"), *(DDIM(eta) for eta in (0.0, 0.2, 0.5, 1.0))]
DETERMINISTIC: list[Solver] = [
    Euler(),
    Heun(),
    Heun("angle"),
    DPMpp2M(),
    DPMpp3M(),
    *(
        Diffusers(name)
        for name in ("DEIS", "DPMSolverMultistep", "DPMSolverSinglestep", "Euler", "LMS")
    ),
]
GROUPS = {"stochastic": STOCHASTIC, "of first order": FIRST_ORDER, "deterministic": DETERMINISTIC}
STEPS = (10, 25, 50)
MEAN, STD = 0.4, 0.6


def spread(solver: Solver, schedule: Schedule, steps: int) -> tuple[float, float] | None:
    """Mean of the samples, and their standard deviation over the data's; None where the solver
    refuses the law.
    """
    try:
        mean, variance = law(solver, Gaussian(schedule, MEAN, STD), schedule.grid(steps))
    except ValueError:
        return None
    return mean, variance**0.5 / STD


def table(group: list[Solver]) -> tuple[str, list[dict]]:
    """A row for each solver, and the record."""
    rows, record = [], []
    for solver in group:
        cells = []
        for name, schedule in LAWS.items():
            found = [spread(solver, schedule, steps) for steps in STEPS]
            refused = None in found
            cells.append("refused" if refused else " ".join(f"{std:.2f}" for _, std in found))
            record.append(
                {"solver": repr(solver), "law": name, "mean and spread": found, "steps": STEPS}
            )
        rows.append([f"`{solver}`", *cells])
    return markdown(["solver", *LAWS], rows), record


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, metavar="JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    record = {}
    for title, group in GROUPS.items():
        text, record[title] = table(group)
        print(f"### Solvers near the limits: {title}\n\n{text}", flush=True)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"torch": torch.__version__} | record, indent=1) + "\n")


if __name__ == "__main__":
    main()
