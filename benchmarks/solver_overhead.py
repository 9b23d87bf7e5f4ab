"""What the sampling loop costs over the bare calls of the network: a U-Net as in
configs/fashion/pixel-cpu.yaml, batch 64.

python -m benchmarks.solver_overhead --output runs/solver_overhead.json

In each round and for each solver, the loop and as many bare calls are timed in turn (which goes
first alternates), on the CPU in this process's own time; `loop / bare` is the median of the rounds'
ratios. `floor` is the same of bare calls against bare calls: what the machine's noise alone does to
it. Where that is no less than the overhead, `added` resolves it: the same loop around a network
that costs nothing, over the bare calls, again the median of the rounds. The noise that a stochastic
solver draws, one generator a sample, is in both.
"""

from collections.abc import Callable

import torch

from benchmarks.clock import arguments, in_turn, line, ratio, start, write
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.schedules import VP
from ldm.diffusion.solvers import (
    DDIM,
    DDPM,
    Counted,
    DPMpp2M,
    DPMpp3M,
    Euler,
    EulerMaruyama,
    Heun,
    sample,
)
from ldm.diffusion.tasks import cfg
from ldm.networks.unet import UNet
from ldm.system.randomness import SampleNoise

SOLVERS = [DDIM(), DDPM(), Euler(), EulerMaruyama(), Heun(), DPMpp2M(), DPMpp3M()]


class Free(torch.nn.Module):
    """A network that costs nothing."""

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return x


def main() -> None:
    parser = arguments(__doc__, rounds=7, steps=3)
    parser.add_argument("--batch", type=int, default=64)
    args = start(parser)
    shape = (1, 28, 28)
    net = (
        UNet(channels=(32, 64, 128), layers=1, attention=(7,))
        .build(shape, 10)
        .to(args.device)
        .eval()
    )
    label = torch.arange(args.batch, device=args.device) % 10
    bound, free = (cfg(Denoiser(n, VP()), {"label": label}) for n in (net, Free()))
    x = torch.randn(args.batch, *shape, device=args.device)
    c_noise, grid = torch.full((args.batch,), 500.0, device=args.device), VP().grid(args.steps)

    def bare(calls: int) -> Callable[[], object]:
        return lambda: [net(x, c_noise, label=label) for _ in range(calls)]

    found = {}
    with torch.inference_mode():
        bare(2)()
        noise = SampleNoise(range(args.batch), shape, args.device)
        for solver in [None, *SOLVERS]:
            counted = Counted(bound)
            loop = (
                bare(args.steps)
                if solver is None
                else lambda s=solver, d=counted: sample(s, d, x, grid, noise)
            )
            loop()
            calls = counted.calls or args.steps
            times = in_turn({"bare": bare(calls), "loop": loop}, args.rounds, args.device)
            empty = in_turn(
                {"loop": lambda s=solver: sample(s, free, x, grid, noise) if s else None},
                args.rounds,
                args.device,
            )
            found[name := repr(solver) if solver else "floor"] = {
                "evaluations": calls,
                "loop_over_bare": ratio(times["loop"], times["bare"]),
                "added": ratio(empty["loop"], times["bare"]),
            }
            line(f"{name}, {calls} evaluations: loop / bare", found[name]["loop_over_bare"])
            line(f"{name}: added", found[name]["added"], digits=5)
    write(args, solvers=found)


if __name__ == "__main__":
    main()
