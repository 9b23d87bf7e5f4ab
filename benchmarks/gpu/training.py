"""Part b: a training step of three networks, ours and a bare loop: rate, share of the peak, memory."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.paths import fit, quiet_module
from benchmarks.gpu.place import ROOT, Place, failing_softly
from ldm import config
from ldm.diffusion.space import Shape
from ldm.pictures.images import Images, ImageTensor
from ldm.training.arithmetic import activations, work

Recipe = tuple[str, bool, bool]  # precision, compiled, channels_last


@dataclass(frozen=True)
class Case:
    """A shipped config's network on noise of its own shape, as costly as what it is made for."""

    name: str
    config: str
    shape: Shape
    batch: int
    more: tuple[str, ...] = ()


CASES = (
    Case("28 x 28 x 1, batch 256", "fashion/pixel", (1, 28, 28), 256),
    Case("16 x 16 x 4, batch 128", "folder/latent", (4, 16, 16), 128),
    Case("32 x 32 x 4, batch 64", "folder/latent-256", (4, 32, 32), 64),
)
TOY = "network={name: UNet, channels: [8, 16], layers: 1, attention: [-1]}"
REHEARSAL = Case("rehearsal, batch 4", "fashion/pixel-cpu", (1, 16, 16), 4, (TOY,))
RECIPES: tuple[Recipe, ...] = (
    ("bf16-mixed", True, True),
    ("bf16-mixed", False, True),
    ("bf16-mixed", False, False),
    ("32-true", False, False),
)


@dataclass
class Length:
    """Steps before the clock starts, of a round, and rounds."""

    warm: int
    steps: int
    rounds: int

    @staticmethod
    def of(place: Place) -> "Length":
        return Length(15, 40, 3) if place.gpu else Length(1, 1, 2)

    @property
    def whole(self) -> int:
        return self.warm + self.rounds * self.steps


def noise(case: Case) -> Images:
    """Pictures of noise in memory; of four channels they are in the place of latents."""
    made = torch.Generator().manual_seed(0)
    sizes = (2048, 64)
    parts = [
        torch.randint(0, 256, (n, *case.shape), generator=made, dtype=torch.uint8) for n in sizes
    ]
    train, test = (ImageTensor(x, torch.zeros(len(x), dtype=torch.long)) for x in parts)
    return Images(train, test, (), case.shape)


def settings(place: Place, case: Case, *more: str) -> config.DiffusionConfig:
    never = [f"trainer.{key}=1000000" for key in ("validate", "save")]
    quiet = ["sample.every=0", "sample.trajectory=0", "condition=none", *never]
    quiet += [
        "trainer.options.limit_val_batches=0",
        f"data={{name: Given, batch_size: {case.batch}}}",
    ]
    given = place.settings(*quiet, "space=Pixels", *case.more, *more)
    return config.load(ROOT / "configs" / f"{case.config}.yaml", given)


class Clock(pl.Callback):
    """The times between rounds of steps, with the device's work done."""

    def __init__(self, place: Place, length: Length):
        self.place, self.length, self.times = place, length, list[float]()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        done = trainer.global_step - self.length.warm
        if done >= 0 and done % self.length.steps == 0:
            self.place.sync()
            self.times.append(time.perf_counter())


def ours(place: Place, case: Case, recipe: Recipe, images: Images) -> list[float]:
    """Seconds of each round."""
    precision, compiled, last = recipe
    length = Length.of(place)
    how = [f"trainer.precision={precision}", f"trainer.compile={str(compiled).lower()}"]
    how += [f"trainer.channels_last={str(last).lower()}", f"trainer.max_steps={length.whole + 1}"]
    trainer, module = quiet_module(settings(place, case, *how), images)
    watch = Clock(place, length)
    trainer.callbacks.append(watch)
    fit(trainer, module, images)
    return [b - a for a, b in pairwise(watch.times)]


def bare_step(place: Place, case: Case, recipe: Recipe, images: Images) -> Callable[[], None]:
    """The same mathematics with nothing around it: no loader, average, log or check."""
    precision, compiled, last = recipe
    net = settings(place, case).network.build(case.shape).to(place.device)
    net = net.to(memory_format=torch.channels_last) if last else net
    if compiled:
        net.compile()
    optimizer = torch.optim.AdamW(net.parameters(), 2e-4, fused=True)
    pictures, kind = images.train.images.to(place.device), torch.device(place.device).type

    def step() -> None:
        rows = torch.randint(len(pictures), (case.batch,), device=place.device)
        x_0, t = pictures[rows].float() / 127.5 - 1, torch.rand(case.batch, device=place.device)
        alpha = torch.exp(-0.5 * (0.1 * t + 9.95 * t**2))[:, None, None, None]
        sigma, eps = (1 - alpha**2).sqrt(), torch.randn_like(x_0)
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16-mixed"):
            out = net(alpha * x_0 + sigma * eps, 1000 * t)
        F.mse_loss(out.float(), alpha * eps - sigma * x_0).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def bare(place: Place, case: Case, recipe: Recipe, images: Images) -> list[float]:
    length, step = Length.of(place), bare_step(place, case, recipe, images)
    for _ in range(length.warm):
        step()
    times = []
    for _ in range(length.rounds + 1):
        place.sync()
        times.append(time.perf_counter())
        for _ in range(length.steps):
            step()
    return [b - a for a, b in pairwise(times)]


class Profiled(pl.Callback):
    """Launches, waits and the busy share of some steps."""

    def __init__(self, place: Place, first: int, steps: int):
        self.place, self.first, self.steps = place, first, steps

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == self.first:
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self.place.gpu
            self.place.sync()
            self.profile, self.began = profile(activities=kinds), time.perf_counter()
            self.profile.__enter__()
        elif trainer.global_step == self.first + self.steps:
            self.place.sync()
            self.span = time.perf_counter() - self.began
            self.profile.__exit__(None, None, None)

    def note(self, case: Case) -> None:
        events = self.profile.events()
        busy = sum(e.device_time_total for e in events if "CUDA" in str(e.device_type)) / 1e6
        count = lambda word: sum(word in e.name for e in events) / self.steps
        values = {"launches a step": count("LaunchKernel"), "waits a step": count("Synchronize")}
        self.place.note("profile", case.name, **values, **{"busy share": busy / self.span})


def train(place: Place, case: Case) -> None:
    """Every recipe, ours and bare in turn; then a profile of ours with its defaults."""
    images = noise(case)
    _, module = quiet_module(settings(place, case), images)
    step, held = work(module), activations(module) / 1e9
    count = sum(p.numel() for p in module.net.parameters()) / 1e6
    place.note("networks", case.name, **{"M parameters": count, "TFLOP a step": step / 1e12})
    place.note("networks", case.name + ", counted", **{"GB of activations, float32": held})
    del module
    for recipe in RECIPES if place.gpu else RECIPES[-1:]:
        precision, compiled, last = recipe
        name = f"{case.name}, {precision}" + ", compiled" * compiled + ", channels_last" * last
        with failing_softly(place, "training", name):
            rates = {}
            for who, contestant in (("ours", ours), ("bare", bare)):
                torch._dynamo.reset()
                place.memory(reset=True)
                each = statistics.median(contestant(place, case, recipe, images))
                each /= Length.of(place).steps
                rates[who] = case.batch / each
                values = {"images/s": rates[who], "ms a step": 1e3 * each}
                values |= {"share of peak": step / each / place.peak, "GB": place.memory()}
                place.note("training", f"{name}: {who}", **values)
            ratio = {"ours over bare": rates["ours"] / rates["bare"]}
            place.note("training", f"{name}: {who}", **values, **ratio)
    _profiled(place, case, images)


def _profiled(place: Place, case: Case, images: Images) -> None:
    first, steps = (30, 10) if place.gpu else (1, 1)
    with failing_softly(place, "profile", case.name):
        run = settings(place, case, f"trainer.max_steps={first + steps + 1}")
        trainer, module = quiet_module(run, images)
        watch = Profiled(place, first, steps)
        trainer.callbacks.append(watch)
        fit(trainer, module, images)
        watch.note(case)
