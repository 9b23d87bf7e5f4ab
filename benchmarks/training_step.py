"""Our training step against a bare PyTorch loop, diffusers' training example and lucidrains'
trainer, at one network.

python -m benchmarks.training_step --data-root DIR --output runs/training_step.json

All train the U-Net of configs/fashion/pixel-cpu.yaml without classes on 28 x 28 clothes, batch 32,
AdamW (lucidrains: Adam), clipped gradients. Ours is `train.py`'s own path with its data loader,
callbacks, metrics file and average; the bare loop has no average, no log and its pictures in one
tensor. diffusers' is the inner loop of its example unconditional_image_generation (accelerate, its
schedulers and EMAModel, torchvision transforms), with the data set replaced by pictures in memory.
lucidrains' is the Trainer of denoising-diffusion-pytorch as installed, on a folder of PNGs (pip
install denoising-diffusion-pytorch accelerate). On a GPU ours runs with its defaults (bf16,
compiled, channels_last), and the bare loop in bf16, once compiled and once not.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from benchmarks import clock
from ldm import config
from ldm.pictures.images import FashionMNIST, Images
from ldm.training.data import RunData
from ldm.training.diffusion import DiffusionModule
from ldm.training.trainer import build_trainer

ROOT = Path(__file__).parent.parent
WARM = 3  # steps before the clock starts
Contestant = Callable[[int], float]  # steps -> seconds


def settings(args: Any, *more: str) -> config.DiffusionConfig:
    """pixel-cpu.yaml with nothing but steps in it: no panels, no validation, no saves before the
    end.
    """
    quiet = [
        "sample.every=0",
        "sample.trajectory=0",
        "trainer.validate=1000000",
        "trainer.save=1000000",
        "condition=none",
        "trainer.options.limit_val_batches=0",
    ]
    where = [f"data.root={args.data_root}", f"data.batch_size={args.batch}", "logger.mode=disabled"]
    accelerator = "cuda" if args.device.startswith("cuda") else "cpu"
    more = (*more, f"trainer.accelerator={accelerator}", "trainer.devices=1")
    return config.load(ROOT / "configs" / "fashion" / "pixel-cpu.yaml", [*quiet, *where, *more])


class Timer(pl.Callback):
    """The time between the ends of two steps."""

    def __init__(self, last: int, device: str):
        self.last, self.device = last, device

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == WARM:
            self.began = clock.now(self.device)
        elif trainer.global_step == self.last:
            self.seconds = clock.now(self.device) - self.began


def ours(args: Any, images: Images) -> Contestant:
    def run(steps: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            run = settings(args, f"output={folder}", f"trainer.max_steps={WARM + steps + 1}")
            module = DiffusionModule(run, images.shape, ())
            trainer, timer = (
                build_trainer(module, images, None),
                Timer(WARM + steps, args.device),
            )
            trainer.callbacks = [
                c for c in trainer.callbacks if type(c).__name__ != "SamplePanel"
            ] + [timer]
            trainer.fit(module, datamodule=RunData(run, images))
        return timer.seconds

    return run


def network(args: Any) -> nn.Module:
    torch.manual_seed(0)
    return settings(args).network.build((1, 28, 28), 0).to(args.device)


def stepping(step: Callable[[], object], device: str) -> Contestant:
    """Of a single step: warmed up, then timed."""

    def run(steps: int) -> float:
        for _ in range(WARM):
            step()
        return clock.clock(lambda: [step() for _ in range(steps)], device)

    return run


def bare(args: Any, images: Images, compiled: bool = False) -> Contestant:
    net, pictures = network(args), images.train.images.to(args.device)
    if compiled:
        net.compile()
    optimizer = torch.optim.AdamW(net.parameters(), 5e-4, fused=True)
    kind, half = torch.device(args.device).type, args.device.startswith("cuda")

    def step() -> None:
        x_0 = (
            pictures[torch.randint(len(pictures), (args.batch,), device=args.device)].float()
            / 127.5
            - 1
        )
        t = torch.rand(args.batch, device=args.device)
        alpha = torch.exp(-0.5 * (0.1 * t + 9.95 * t**2))[:, None, None, None]
        sigma = (1 - alpha**2).sqrt()
        eps = torch.randn_like(x_0)
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            out = net(alpha * x_0 + sigma * eps, 1000 * t)
        F.mse_loss(out.float(), alpha * eps - sigma * x_0).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return stepping(step, args.device)


class Pictures(torch.utils.data.Dataset):
    """PIL pictures through torchvision's transforms, as the example has them."""

    def __init__(self, images: torch.Tensor):
        from torchvision import transforms as T

        self.pictures = [Image.fromarray(image[0].numpy()) for image in images]
        size = T.Resize(28), T.CenterCrop(28), T.RandomHorizontalFlip(0.0)
        self.transform = T.Compose([*size, T.ToTensor(), T.Normalize([0.5], [0.5])])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input": self.transform(self.pictures[i])}


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def diffusers_example(args: Any, images: Images) -> Contestant:
    """The inner loop of train_unconditional.py, line by line; the loss is read every step, as
    there.
    """
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel
    from tqdm import tqdm

    accelerator = Accelerator(
        cpu=args.device == "cpu", mixed_precision="bf16" if args.device.startswith("cuda") else "no"
    )
    scheduler, net = DDPMScheduler(1000), network(args).unet
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    loader = torch.utils.data.DataLoader(
        Pictures(images.train.images[:5000]), args.batch, shuffle=True
    )
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=100_000)
    net, optimizer, loader, rate = accelerator.prepare(net, optimizer, loader, rate)
    average = EMAModel(
        net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75
    )
    average.to(accelerator.device)
    batches, bar = endless(loader), tqdm(disable=True)

    def step() -> None:
        clean = next(batches)["input"]
        noise = torch.randn(clean.shape, dtype=clean.dtype, device=clean.device)
        times = torch.randint(0, 1000, (len(clean),), device=clean.device).long()
        noisy = scheduler.add_noise(clean, noise, times)
        with accelerator.accumulate(net):
            loss = F.mse_loss(net(noisy, times).sample.float(), noise.float())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
        average.step(net.parameters())
        bar.set_postfix(loss=loss.detach().item(), lr=rate.get_last_lr()[0])

    return stepping(step, args.device)


class Wrapped(nn.Module):
    """Our network as lucidrains' GaussianDiffusion calls it."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.channels, self.out_dim, self.self_condition = net, 1, 1, False

    def forward(self, x: torch.Tensor, t: torch.Tensor, *_: Any) -> torch.Tensor:
        return self.net(x, t.float())


def lucidrains(args: Any, images: Images, folder: Path) -> Contestant:
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer

    for i, image in enumerate(images.train.images[:5000]):
        Image.fromarray(image[0].numpy()).save(folder / f"{i}.png")
    model = GaussianDiffusion(Wrapped(network(args)), image_size=28, timesteps=1000)
    options = dict(amp=True, mixed_precision_type="bf16") if args.device.startswith("cuda") else {}
    options |= dict(train_batch_size=args.batch, calculate_fid=False, save_and_sample_every=10**9)
    trainer = Trainer(
        model, str(folder), results_folder=str(folder / "results"), train_num_steps=0, **options
    )

    def advance(steps: int) -> None:
        trainer.train_num_steps += steps
        trainer.train()

    def run(steps: int) -> float:
        advance(WARM)
        return clock.clock(lambda: advance(steps), args.device)

    return run


def main() -> None:
    parser = clock.arguments(__doc__, rounds=5, steps=10)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--batch", type=int, default=32)
    args = clock.start(parser)
    images = FashionMNIST(root=args.data_root).load()
    images = SimpleNamespace(
        train=images.train, test=images.test, held_out=images.test, shape=images.shape, classes=()
    )
    with tempfile.TemporaryDirectory() as folder:
        contestants = {"ours": ours(args, images), "bare loop": bare(args, images)}
        if args.device.startswith("cuda"):
            contestants["bare loop, compiled"] = bare(args, images, compiled=True)
        contestants["diffusers' example"] = diffusers_example(args, images)
        contestants["lucidrains' trainer"] = lucidrains(args, images, Path(folder))
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for i in range(args.rounds):
            for name in list(contestants)[:: 1 if i % 2 else -1]:
                times[name].append(contestants[name](args.steps))
                print(
                    f"round {i}  {name:24} {args.batch * args.steps / times[name][-1]:8.1f} images/s",
                    flush=True,
                )
    asked = {"bare loop": "0.97, a GPU 0.95"}
    found = {name: clock.ratio(v, times["ours"]) for name, v in times.items() if name != "ours"}
    for name, ratio in found.items():
        clock.line(f"images/s of ours over {name}", ratio, asked.get(name, "1.0, a GPU 1.5"))
    clock.write(args, seconds=times, ratios=found)


if __name__ == "__main__":
    main()
