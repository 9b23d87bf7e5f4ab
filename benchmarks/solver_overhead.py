"""What the sampling loop costs over the bare calls of the network: a U-Net as in configs/fashion/pixel-cpu.yaml, batch 64.

python benchmarks/solver_overhead.py --output runs/solver_overhead.json

In each round and for each solver, the loop and as many bare calls are timed in turn (which goes first alternates), on
the CPU in this process's own time; `loop / bare` is the median of the rounds' ratios. `floor` is the same of bare calls
against bare calls: what the machine's noise alone does to it. Where that is no less than the overhead, `added` resolves
it: the same loop around a network that costs nothing, over the bare calls, again the median of the rounds.
The noise that a stochastic solver draws, one generator a sample, is in both.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.schedules import VP
from ldm.diffusion.solvers import DDIM, DDPM, Counted, DPMpp2M, DPMpp3M, Euler, EulerMaruyama, Heun, sample
from ldm.diffusion.tasks import cfg
from ldm.networks.unet import UNet
from ldm.randomness import SampleNoise

SOLVERS = [DDIM(), DDPM(), Euler(), EulerMaruyama(), Heun(), DPMpp2M(), DPMpp3M()]


class Free(torch.nn.Module):
    """A network that costs nothing."""

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, metavar="JSON")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape = (1, 28, 28)
    net = UNet(channels=(32, 64, 128), layers=1, attention=(7,)).build(shape, 10).to(args.device).eval()
    label = torch.arange(args.batch, device=args.device) % 10
    bound, free = (cfg(Denoiser(n, VP()), {"label": label}) for n in (net, Free()))
    x = torch.randn(args.batch, *shape, device=args.device)
    c_noise, grid = torch.full((args.batch,), 500.0, device=args.device), VP().grid(args.steps)

    def clock(work: Callable[[], object]) -> float:
        if x.is_cuda:
            torch.cuda.synchronize()
        now = time.perf_counter if x.is_cuda else time.process_time
        began = now()
        work()
        if x.is_cuda:
            torch.cuda.synchronize()
        return now() - began

    def bare(calls: int) -> Callable[[], object]:
        return lambda: [net(x, c_noise, label=label) for _ in range(calls)]

    found = {}
    with torch.inference_mode():
        bare(2)()
        noise = SampleNoise(range(args.batch), shape, args.device)
        for solver in [None, *SOLVERS]:
            counted = Counted(bound)
            loop = bare(args.steps) if solver is None else lambda s=solver, d=counted: sample(s, d, x, grid, noise)
            loop()
            calls = counted.calls or args.steps
            ratios, added = [], []
            empty = lambda s=solver: sample(s, free, x, grid, noise) if s else None
            for i in range(args.rounds):
                works = [bare(calls), loop]
                times = [clock(work) for work in (works if i % 2 else works[::-1])]
                ratios.append(times[1] / times[0] if i % 2 else times[0] / times[1])
                added.append(clock(empty) / min(times))
            name = repr(solver) if solver else "floor"
            found[name] = {"evaluations": calls, "ratios": ratios, "added": added}
            found[name] |= {"loop_over_bare": statistics.median(ratios), "median_added": statistics.median(added)}
            medians = f"loop / bare {statistics.median(ratios):.4f}  added {statistics.median(added):.4%}"
            print(f"{name:24} {calls:3} evaluations  {medians}", flush=True)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(vars(args) | {"output": str(args.output), "solvers": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
