"""The averages' update: shadows of the network's own strides and a list made once, or neither.

python -m benchmarks.ema
python -m benchmarks.ema --device cuda

The U-Net of configs/fashion/pixel.yaml in channels_last. `listed each step` walks through its
modules at each update, as up to 2026-11-26; `other strides` has shadows that are contiguous where
the weights are not.
"""

import torch
from torch import nn

from benchmarks.clock import arguments, in_turn, line, ratio, start, write
from ldm.config import DiffusionConfig, load
from ldm.training.ema import EMA


class Walking(EMA):
    """An average whose shadows stay as they were made, and whose list is made at each update."""

    def _ready(self) -> None:
        self.live = self._listed()


def build(device: str) -> nn.Module:
    """The network of a real run."""
    config = load("configs/fashion/pixel.yaml", [])
    assert isinstance(config, DiffusionConfig)
    return config.network.build((1, 28, 28), 10).to(device, memory_format=torch.channels_last)


def contiguous(net: nn.Module) -> Walking:
    """An average made before the memory format was chosen."""
    ema = Walking(net, (0.999,))
    shadow = ema.shadow
    shadow.update({name: s.contiguous() for name, s in shadow.items()})
    return ema


def main() -> None:
    parser = arguments(__doc__, rounds=9, steps=20)
    args = start(parser)
    net = build(args.device)
    placed, walking, other = EMA(net, (0.999,)), Walking(net, (0.999,)), contiguous(net)
    kinds: dict[str, EMA] = {"placed": placed, "listed each step": walking, "as before": other}

    def steps(ema: EMA) -> None:
        for _ in range(args.steps):
            ema.update()

    works = {name: lambda ema=ema: steps(ema) for name, ema in kinds.items()}
    times = in_turn(works, args.rounds, args.device)
    unlike = sum(other.shadow[name].stride() != p.stride() for name, p in placed.live)
    print(f"{len(placed.live)} tensors, {unlike} contiguous where the weights are not")
    for name, seconds in times.items():
        print(f"{name:20} {1e3 * min(seconds) / args.steps:.3f} ms an update")
    for name in list(kinds)[1:]:
        line(f"{name} over placed", ratio(times[name], times["placed"]))
    write(args, times=times)


if __name__ == "__main__":
    main()
