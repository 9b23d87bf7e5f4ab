"""What a training step costs beside its network: processor time that no GPU can hide.

python -m benchmarks.overhead --output runs/overhead.json

The network is one 1 x 1 convolution, the pictures are four digits of 8 x 8, so that what is left is
the loop. Ours is `train.py`'s own path with its loader, callbacks, average, checks and metrics
file, a row every 50 steps; against it a plain PyTorch loop of the same mathematics (a batch, noise,
the v-loss, backward, clip, a fused AdamW), and the same in a LightningModule in Lightning's Trainer
without logger, bar or callbacks. Milliseconds of this process' own time a step, on one thread, in
turn, the median of the rounds; every run has 50 steps that are not timed.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import clock
from ldm import config
from ldm.networks.unet import UNet
from ldm.pictures.images import Digits
from ldm.training.data import RunData
from ldm.training.diffusion import DiffusionModule
from ldm.training.trainer import build_trainer

ROOT = Path(__file__).parent.parent
WARM, BATCH = 50, 4
Contestant = Callable[[int], float]  # steps -> milliseconds a step


class Nothing(nn.Module):
    """A network that costs next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor, c_noise: Tensor, **_: Tensor) -> Tensor:
        return self.convolution(x)


@dataclass
class Free(UNet):
    """A U-Net by its name alone."""

    def build(self, *_: Any, **__: Any) -> nn.Module:
        return Nothing()


class Clock(pl.Callback):
    """This process' time between the ends of two steps."""

    def __init__(self, last: int):
        self.last = last

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == WARM:
            self.began = time.process_time()
        elif trainer.global_step == self.last:
            self.took = time.process_time() - self.began


def loss_of(net: nn.Module, pictures: Tensor) -> Tensor:
    """The v-loss of VP, as short as it can be written."""
    x_0, t = pictures.float() / 127.5 - 1, torch.rand(len(pictures))
    alpha = torch.exp(-0.5 * (0.1 * t + 9.95 * t**2))[:, None, None, None]
    sigma, eps = (1 - alpha**2).sqrt(), torch.randn_like(x_0)
    return (net(alpha * x_0 + sigma * eps, 1000 * t) - (alpha * eps - sigma * x_0)).square().mean()


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), 1e-3, fused=True)


def bare(steps: int) -> float:
    pictures, net = Digits().load().train.images, Nothing()
    optimizer = adamw(net)

    def step() -> None:
        loss_of(net, pictures[torch.randint(len(pictures), (BATCH,))]).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(WARM):
        step()
    return 1e3 * clock.clock(lambda: [step() for _ in range(steps)], "cpu") / steps


class Batches(Dataset):
    """So many batches of digits."""

    def __init__(self, count: int):
        self.pictures, self.count = Digits().load().train.images, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Tensor:
        return self.pictures[torch.randint(len(self.pictures), (BATCH,))]


class BareModule(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = Nothing()

    def training_step(self, pictures: Tensor, batch_idx: int) -> Tensor:
        return loss_of(self.net, pictures)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw(self.net)


@dataclass
class Quiet:
    """A Trainer that shows and writes nothing."""

    quiet: dict[str, Any] = field(
        default_factory=lambda: dict.fromkeys(
            ("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False
        )
    )

    def __call__(self, steps: int) -> float:
        watch = Clock(WARM + steps)
        more = dict(accelerator="cpu", devices=1, gradient_clip_val=1.0, max_epochs=-1)
        trainer = pl.Trainer(max_steps=watch.last, callbacks=[watch], **more, **self.quiet)
        trainer.fit(BareModule(), DataLoader(Batches(watch.last + 1), batch_size=None))
        return 1e3 * watch.took / steps


def ours(steps: int, *more: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        never = [f"{key}=1000000" for key in ("trainer.validate", "trainer.save")]
        settings = [f"output={folder}", "logger.mode=disabled", "sample.every=0", *never]
        settings += ["sample.trajectory=0", "trainer.options.limit_val_batches=0"]
        settings += [f"data.batch_size={BATCH}", "trainer.log=50", "trainer.devices=1"]
        settings += [f"trainer.max_steps={WARM + steps + 1}", "trainer.accelerator=cpu", *more]
        run = config.load(ROOT / "tests" / "configs" / "pixel.yaml", settings)
        run.network = Free()
        images = run.data.load()
        module = DiffusionModule(run, images.shape, images.classes)
        trainer, watch = build_trainer(module, images, None), Clock(WARM + steps)
        kept = [c for c in trainer.callbacks if type(c).__name__ != "SamplePanel"]
        trainer.callbacks = [*kept, watch]
        trainer.fit(module, datamodule=RunData(run, images))
        return 1e3 * watch.took / steps


def main() -> None:
    args = clock.start(clock.arguments(__doc__, rounds=5, steps=500))
    contestants = {"bare loop": bare, "bare module in Lightning": Quiet(), "ours": ours}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(args.rounds):
        for name in list(contestants)[:: 1 if i % 2 else -1]:
            times[name].append(contestants[name](args.steps))
    for name, found in times.items():
        each = " ".join(f"{ms:.2f}" for ms in found)
        print(f"{name:30} {statistics.median(found):.2f} ms a step  ({each})", flush=True)
    beyond: dict[str, float] = {}
    for name, asked in (("bare module in Lightning", 0.5), ("bare loop", 2.5)):
        gaps = [a - b for a, b in zip(times["ours"], times[name], strict=True)]
        beyond[name] = statistics.median(gaps)
        print(f"ours beyond {name:25} {beyond[name]:.2f} ms  asked: at most {asked}", flush=True)
    clock.write(args, milliseconds=times, beyond=beyond)


if __name__ == "__main__":
    main()
