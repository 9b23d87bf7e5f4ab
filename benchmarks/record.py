"""The record: Fashion-MNIST from nothing on one core, by our recipe and by others' as shipped.

python -m benchmarks.record --fashion DIR --minutes 10 --seeds 0 1 2           # goes on where it stopped
python -m benchmarks.record --fashion DIR --minutes 10 --part 3                # three minutes of it
python -m benchmarks.record --fashion DIR --minutes 10 --recipes ours smalldiffusion
python -m benchmarks.record --fashion DIR --minutes 10 --try MY.yaml optim.lr=1e-3  # a recipe of yours

Unconditional pixels, one network for all (that of pixel-cpu.yaml, 2.7 M parameters), equal processor time of
training, each recipe with its own loss, schedule, batch, rates, averages and sampler:

- ours: configs/fashion/pixel-cpu.yaml without classes;
- diffusers: examples/unconditional_image_generation/train_unconditional.py with the flags of its
  README;
- lucidrains: denoising-diffusion-pytorch's Trainer and its README (pred_v, sigmoid, 250 steps);
- smalldiffusion: examples/fashion_mnist_unet.py;
- --try: any config of diffusion in pixels, by its loss, schedule, batch, optim and sample; its line
  has its name. The network and the data stay those of all.

Each run is a file in --output, and a finished one a line of record.jsonl there, the log of records:
Fréchet distance of the repo's features, processor seconds, steps, commit, date. Samples take their
own time, which is not counted: --count of them. 1,000 steps of DDPM are hours of it; --most-steps
bounds each sampler's.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.clock import ROOT, commit, now
from ldm import config
from ldm.diffusion import solvers
from ldm.diffusion.denoiser import Denoiser
from ldm.errors import Refusal, guard, say
from ldm.metrics.distances import Moments, frechet_distance
from ldm.metrics.features import choose
from ldm.metrics.reference import cached_reference
from ldm.pictures.images import FashionMNIST
from ldm.pictures.space import Pixels
from ldm.scripts.flags import Parser
from ldm.system.batches import as_bytes, as_floats
from ldm.system.files import atomic_write
from ldm.system.progress import Bar
from ldm.system.randomness import generator

SHAPE, SAVE = (1, 28, 28), 30.0  # seconds between two saves
OURS = config.load(ROOT / "configs/fashion/pixel-cpu.yaml")
assert isinstance(OURS, config.DiffusionConfig)
Net = Callable[[Tensor, Tensor], Tensor]  # x, time in 0 ... 1000


@dataclass
class Recipe:
    """How a network is trained and sampled from.

    loss(net, x_0, random) -> (); rate(step, share of the time) -> learning rate; decay(step) of the
    average, taken every so many steps; sample(net, n, steps, random) -> (n, 1, 28, 28) in [-1, 1]
    in so many steps, of which `steps` are shipped.
    """

    batch: int
    optimiser: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]
    rate: Callable[[int, float], float]
    decay: Callable[[int], float]
    loss: Callable[[Net, Tensor, torch.Generator], Tensor]
    sample: Callable[[Net, int, int, torch.Generator], Tensor]
    steps: int
    flip: bool = False
    clip: float = math.inf
    every: int = 1


def noised(x: Tensor, law: Tensor, random: torch.Generator) -> tuple[Tensor, ...]:
    """t uniform in the table alpha_bar, (B,); alpha, sigma (B, 1, 1, 1); eps; x_t."""
    t = torch.randint(len(law), (len(x),), generator=random)
    alpha, sigma = (part[:, None, None, None] for part in (law[t].sqrt(), (1 - law[t]).sqrt()))
    eps = torch.randn(x.shape, generator=random)
    return t, alpha, sigma, eps, alpha * x + sigma * eps


# -- ours ------------------------------------------------------------------------------------------
def ours(run: config.DiffusionConfig = OURS) -> Recipe:
    optim, sample = run.optim, run.sample
    denoiser = lambda net: Denoiser(_Called(net), run.schedule, run.loss)

    def loss(net: Net, x: Tensor, random: torch.Generator) -> Tensor:
        made = denoiser(net)
        t = made.times(torch.rand(len(x), generator=random))
        return made.loss(x, t, torch.randn(x.shape, generator=random)).mean()

    def draw(net: Net, n: int, steps: int, random: torch.Generator) -> Tensor:
        made, randn = denoiser(net), lambda: torch.randn(n, *SHAPE, generator=random)
        times = run.schedule.grid(steps, sample.grid)
        x_1 = solvers.start(run.schedule, times[0], randn())
        return solvers.sample(sample.solver, made, x_1, times, randn)

    return Recipe(
        run.data.batch_size,
        lambda p: torch.optim.AdamW(p, optim.lr, optim.betas, weight_decay=optim.weight_decay),
        lambda step, share: (
            optim.lr * min(1, (step + 1) / optim.warmup) * (1 + math.cos(math.pi * share)) / 2
        ),
        lambda step: min(optim.ema, (1 + step) / (10 + step)),
        loss,
        draw,
        sample.steps,
        clip=optim.clip,
    )


class _Called(nn.Module):
    """A function as a network."""

    def __init__(self, net: Net):
        super().__init__()
        self.call = net

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return self.call(x, c_noise)


# -- diffusers: train_unconditional.py -------------------------------------------------------------
def diffusers() -> Recipe:
    from diffusers import DDPMScheduler

    law = DDPMScheduler(num_train_timesteps=1000).alphas_cumprod

    def loss(net: Net, x: Tensor, random: torch.Generator) -> Tensor:
        t, _, _, eps, x_t = noised(x, law, random)
        return F.mse_loss(net(x_t, t.float()), eps)

    def draw(net: Net, n: int, steps: int, random: torch.Generator) -> Tensor:
        scheduler = DDPMScheduler(num_train_timesteps=1000)
        scheduler.set_timesteps(steps)
        x = torch.randn(n, *SHAPE, generator=random)
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t.float().expand(n)), t, x, generator=random).prev_sample
        return x

    return Recipe(
        16,
        lambda p: torch.optim.AdamW(p, 1e-4, (0.95, 0.999), 1e-8, 1e-6),
        lambda step, share: 1e-4 * min((step + 1) / 500, (1 + math.cos(math.pi * share)) / 2),
        lambda step: min(0.9999, max(0.0, 1 - (1 + step) ** (-3 / 4))),
        loss,
        draw,
        1000,
        flip=True,
        clip=1.0,
    )


# -- lucidrains: denoising-diffusion-pytorch -------------------------------------------------------
def sigmoid_law(steps: int = 1000, start: float = -3, end: float = 3) -> Tensor:
    """alpha_bar of its sigmoid_beta_schedule (Jabri et al. 2022, figure 8)."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    low, high = torch.tensor([start, end], dtype=torch.float64).sigmoid()
    law = (high - (t * (end - start) + start).sigmoid()) / (high - low)
    betas = (1 - law[1:] / law[:-1]).clamp(0, 0.999)
    return (1 - betas).cumprod(0).float()


def lucidrains() -> Recipe:
    law = sigmoid_law()

    def loss(net: Net, x: Tensor, random: torch.Generator) -> Tensor:
        t, alpha, sigma, eps, x_t = noised(x, law, random)
        return F.mse_loss(net(x_t, t.float()), alpha * eps - sigma * x)

    def draw(net: Net, n: int, steps: int, random: torch.Generator) -> Tensor:
        times = [*reversed(torch.linspace(-1, 999, steps + 1).int().tolist())]
        x = torch.randn(n, *SHAPE, generator=random)
        for t, s in pairwise(times):
            alpha, sigma = law[t].sqrt(), (1 - law[t]).sqrt()
            x_0 = (alpha * x - sigma * net(x, torch.full((n,), float(t)))).clamp(-1, 1)
            if s < 0:
                return x_0
            x = law[s].sqrt() * x_0 + (1 - law[s]).sqrt() * (x - alpha * x_0) / sigma
        return x

    return Recipe(
        16,
        lambda p: torch.optim.Adam(p, 1e-4, (0.9, 0.99)),
        lambda step, share: 1e-4,
        lambda step: 0.995 if step > 100 else 0.0,  # ema-pytorch copies until update_after_step
        loss,
        draw,
        250,
        flip=True,
        clip=1.0,
        every=10,
    )


# -- smalldiffusion: examples/fashion_mnist_unet.py ------------------------------------------------
def smalldiffusion() -> Recipe:
    sigmas = torch.logspace(math.log10(0.01), math.log10(20), 800)

    def eps_hat(net: Net, x: Tensor, sigma: Tensor) -> Tensor:
        """Scaled(Unet): the input over sqrt(sigma^2 + 1), the embedding that of log(sigma) / 4.

        Ours wants a time of 0 ... 1000: that of the place of sigma in the table.
        """
        place = (sigma.log() - sigmas[0].log()) / (sigmas[-1] / sigmas[0]).log()
        wide = sigma[:, None, None, None]
        return net(x / (wide.square() + 1).sqrt(), 1000 * place)

    def loss(net: Net, x: Tensor, random: torch.Generator) -> Tensor:
        sigma = sigmas[torch.randint(800, (len(x),), generator=random)]
        eps = torch.randn(x.shape, generator=random)
        return F.mse_loss(eps_hat(net, x + sigma[:, None, None, None] * eps, sigma), eps)

    def draw(net: Net, n: int, steps: int, random: torch.Generator) -> Tensor:
        places = [round(800 * (1 - i / steps)) - 1 for i in range(steps)] + [0]
        grid, past = sigmas[places], None
        x = grid[0] * torch.randn(n, *SHAPE, generator=random)
        for sigma, to in pairwise(grid):
            eps = eps_hat(net, x, sigma.expand(n))
            x = x - (sigma - to) * (eps if past is None else 1.6 * eps - 0.6 * past)
            past = eps
        return x

    return Recipe(
        1024,
        lambda p: torch.optim.Adam(p, 7e-4),
        lambda step, share: 7e-4,
        lambda step: min(0.999, (1 + step) / (10 + step)),
        loss,
        draw,
        20,
        flip=True,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "ours": ours,
    "diffusers": diffusers,
    "lucidrains": lucidrains,
    "smalldiffusion": smalldiffusion,
}


# -- a run -----------------------------------------------------------------------------------------
class Run:
    """One recipe and seed: the network, its average, and the processor time that it had."""

    def __init__(self, name: str, recipe: Recipe, seed: int, folder: Path):
        self.name, self.seed, self.recipe = name, seed, recipe
        self.path = folder / f"{name}-{seed}.pt"
        torch.manual_seed(seed)
        self.net = OURS.network.build(SHAPE)
        self.average = {key: value.clone() for key, value in self.net.state_dict().items()}
        self.optimiser = self.recipe.optimiser(self.net.parameters())
        self.step, self.spent = 0, 0.0
        if self.path.is_file():
            found = torch.load(self.path, weights_only=True)
            self.net.load_state_dict(found["net"])
            self.optimiser.load_state_dict(found["optimiser"])
            self.average, self.step, self.spent = (found[k] for k in ("average", "step", "spent"))

    def save(self) -> None:
        state = {key: getattr(self, key) for key in ("average", "step", "spent")}
        state |= {"net": self.net.state_dict(), "optimiser": self.optimiser.state_dict()}
        with atomic_write(self.path, "wb") as file:
            torch.save(state, file)

    def train(self, images: Tensor, budget: float, part: float) -> None:
        """Until `budget` processor seconds are spent in all, at most `part` of them now."""
        most = min(budget, self.spent + part)
        saved = self.spent
        with Bar(f"{self.name}, seed {self.seed}", round(most - self.spent), "s") as bar:
            while self.spent < most:
                began, before = now("cpu"), int(self.spent)
                self.update(images, self.spent / budget)
                self.spent += now("cpu") - began
                bar.update(int(self.spent) - before)
                if self.spent - saved > SAVE:
                    self.save()
                    saved = self.spent
        self.save()

    def update(self, images: Tensor, share: float) -> None:
        """One step. Its pictures and noise are functions of seed and step."""
        recipe, random = self.recipe, generator("record", self.seed, self.step)
        rows = torch.randint(len(images), (recipe.batch,), generator=random)
        x = as_floats(images[rows])
        if recipe.flip:
            turned = torch.rand(len(x), 1, 1, 1, generator=random) < 0.5
            x = torch.where(turned, x.flip(-1), x)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(self.step, share)
        loss = recipe.loss(self.net, x, random)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), recipe.clip)
        self.optimiser.step()
        self.step += 1
        if self.step % recipe.every == 0:
            self.follow(recipe.decay(self.step))

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """The average moves towards the weights."""
        for key, value in self.net.state_dict().items():
            self.average[key].lerp_(value, 1 - decay)

    @torch.inference_mode()
    def samples(self, count: int, steps: int, size: int = 100) -> Tensor:
        """By the averaged weights, as bytes."""
        net = OURS.network.build(SHAPE).eval()
        net.load_state_dict(self.average)
        sizes, made = [min(size, count - i) for i in range(0, count, size)], []
        with Bar(f"{self.name}: sampling", count, "images") as bar:
            for i, n in enumerate(sizes):
                random = generator("record", "samples", self.seed, i)
                made.append(as_bytes(self.recipe.sample(net, n, steps, random)))
                bar.update(n)
        return torch.cat(made)


def measure(run: Run, data: FashionMNIST, count: int, most: int) -> dict[str, object]:
    """The line of a run in the log of records."""
    features, train = choose("fashion"), data.load().train
    real = cached_reference(train, features, "FashionMNIST train", quiet=True)
    assert real is not None  # of one process
    began, steps = now("cpu"), min(run.recipe.steps, most)
    images = run.samples(count, steps)
    value = frechet_distance(Moments.of(features(images)), real.moments)
    return {
        "recipe": run.name,
        "seed": run.seed,
        f"fd_fashion_{count}": round(value, 3),
        "train_s": round(run.spent),
        "sample_s": round(now("cpu") - began),
        "sample_steps": steps,
        "steps": run.step,
        "batch": run.recipe.batch,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def table(rows: list[dict]) -> str:
    """Each recipe's mean over seeds, and the ratio of ours to the best of the others'."""
    key = next(k for k in rows[0] if k.startswith("fd_"))
    names = dict.fromkeys([*RECIPES, *(row["recipe"] for row in rows)])
    found = {name: [r[key] for r in rows if r["recipe"] == name] for name in names}
    lines = ["| recipe | Fréchet distance | seeds |", "|---|---|---|"]
    lines += [
        f"| {name} | {mean(values):.2f} ({min(values):.2f} to {max(values):.2f}) | {len(values)} |"
        for name, values in found.items()
        if values
    ]
    peers = [mean(found[name]) for name in RECIPES if found[name] and name != "ours"]
    for name in names if peers else ():
        if found[name] and (name == "ours" or name not in RECIPES):
            lines.append(f"{name} over the best peer's: {mean(found[name]) / min(peers):.2f}")
    return "\n".join(lines)


def tried(path: str, *overrides: str) -> dict[str, Callable[[], Recipe]]:
    """The recipe of a config, by its name."""
    run = config.load(path, overrides)
    if not isinstance(run, config.DiffusionConfig) or run.space != Pixels():
        raise Refusal(f"--try: '{path}' is not of diffusion in pixels")
    if run.loss.few or run.optim.decay != OURS.optim.decay:
        raise Refusal(
            f"--try: '{path}' has a student's loss, or a decay that is not {OURS.optim.decay}: "
            "neither is tried here"
        )
    if run.name in RECIPES:
        raise Refusal(f"--try: '{run.name}' is the name of a recipe; add name=NAME")
    return {run.name: partial(ours, run)}


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=10.0, help="processor time of each run")
    parser.add_argument("--part", type=float, default=math.inf, help="minutes of a run at most now")
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES], default=[*RECIPES])
    parser.add_argument(
        "--try", dest="own", nargs="+", metavar="CONFIG [KEY=VALUE]", help="this recipe alone"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--count", type=int, default=1000, help="samples that are judged")
    parser.add_argument("--most-steps", type=int, default=1000, help="of a sampler")
    parser.add_argument("--output", type=Path, default=Path("runs/record"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = tried(*args.own) if args.own else {name: RECIPES[name] for name in args.recipes}
    folder = args.output / f"{args.minutes:g}-minutes"
    folder.mkdir(parents=True, exist_ok=True)
    data, log = FashionMNIST(root=args.fashion, download=False), folder / "record.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    images = data.load().train.images
    for seed in args.seeds:
        for name, recipe in chosen.items():
            if any((row["recipe"], row["seed"]) == (name, seed) for row in rows):
                continue
            run = Run(name, recipe(), seed, folder)
            run.train(images, 60 * args.minutes, 60 * args.part)
            if run.spent < 60 * args.minutes:
                say(f"{name}, seed {seed}: {run.spent:.0f} s so far, {run.step} steps")
                continue
            rows.append(measure(run, data, args.count, args.most_steps))
            with open(log, "a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            say(json.dumps(rows[-1]))
    if rows:
        say(table(rows))


if __name__ == "__main__":
    guard(main)
