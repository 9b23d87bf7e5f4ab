"""Latent diffusion against the pixel baseline for equal time: quality over training seconds, and
over sampling seconds.

python -m benchmarks.latent_vs_pixel --data-root DIR --minutes 15 --output runs/latent_vs_pixel

Both sides get the same time, stage 1 and the encoding of the data counted in for the latent one;
measuring is not counted. On a CPU time is this process's own on one thread, which others on the
machine do not lengthen; on a GPU wall clock. Quality is the Fréchet distance in the features of the
data's classifier to all training pictures, truth-vs-truth beside it.
--side pixel and --side latent may run at once, each on a core; the second to end draws the picture,
or --side none.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from PIL.Image import Image as Picture

from benchmarks import clock
from ldm import config
from ldm.config import Config, SampleConfig
from ldm.diffusion.solvers import DPMpp2M
from ldm.evaluation.pictures import Judge, evaluate
from ldm.metrics.features import choose
from ldm.metrics.records import thousands
from ldm.metrics.reference import cached_reference
from ldm.metrics.words import for_axis
from ldm.pictures.images import Images
from ldm.sampling.model import Model, load_autoencoder
from ldm.system.plots import floor_line, picture, plain_ticks, say, sheet, styled
from ldm.training.autoencoder import AutoencoderModule
from ldm.training.data import RunData
from ldm.training.diffusion import DiffusionModule
from ldm.training.stage import Stage
from ldm.training.stage1 import Stage1
from ldm.training.trainer import build_trainer

SIDES = ("pixel", "latent")
QUIET = ("sample.every=0", "sample.trajectory=0")


class Budget(pl.Callback):
    """Stops training when its time is over; at the marks on the way `look` is called, outside of
    the time.
    """

    def __init__(self, seconds: float, device: str, marks: list[float] = [], look: Any = None):  # noqa: B006
        self.seconds, self.device, self.marks, self.look = seconds, device, sorted(marks), look
        self.began, self.paused = clock.now(device), 0.0

    @property
    def spent(self) -> float:
        return clock.now(self.device) - self.began - self.paused

    def on_train_batch_end(self, trainer: pl.Trainer, module: Stage, *_: Any) -> None:
        while self.marks and self.spent >= self.marks[0]:
            spent, before = self.spent, clock.now(self.device)
            self.marks.pop(0)
            self.look(module, spent)
            self.paused += clock.now(self.device) - before
        trainer.should_stop = trainer.should_stop or self.spent >= self.seconds


class Side:
    """One of the two runs: its time, its figures."""

    def __init__(self, name: str, args: argparse.Namespace):
        self.name, self.args, self.file = name, args, args.output / f"{name}.json"
        self.record: dict[str, Any] = {"side": name, "curve": [], "sampling": [], "steps": {}}

    def load(self, file: str, *more: str) -> Config:
        where = [
            f"output={self.args.output / self.name}",
            f"data.root={self.args.data_root}",
            "logger.mode=disabled",
        ]
        kind = "cuda" if self.args.device.startswith("cuda") else "cpu"
        long = [
            "trainer.max_steps=10000000",
            "trainer.save=10000000",
            "trainer.validate=10000000",
            "optim.decay=constant",
        ]
        long += [
            "trainer.options.limit_val_batches=0",
            f"trainer.accelerator={kind}",
            "trainer.devices=1",
        ]
        return config.load(
            clock.ROOT / "configs" / self.args.family / f"{file}{self.args.suffix}.yaml",
            [*where, *long, *more],
        )

    def fit(self, run: Config, module: Stage, images: Images, budget: Budget) -> None:
        trainer = build_trainer(module, images, None)
        panels = ("SamplePanel", "ReconstructionPanel")
        trainer.callbacks = [c for c in trainer.callbacks if type(c).__name__ not in panels] + [
            budget
        ]
        trainer.fit(module, datamodule=RunData(run, images), weights_only=True)
        self.record["steps"][run.name] = module.global_step

    def judge(self, model: Model, count: int, steps: int) -> dict[str, float]:
        """Distance, its floor, and the time to make the samples."""
        settings = SampleConfig(solver=DPMpp2M(), steps=steps, batch_size=self.args.sample_batch)
        before = clock.now(self.args.device)
        figures = evaluate(
            model, settings, range(count), Judge(self.features, self.real), quiet=True
        )
        seconds, (name, figure) = clock.now(self.args.device) - before, next(iter(figures.items()))
        share = {k: f.value for k, f in figures.items() if k.startswith("class_share")}
        return {
            "metric": name,
            "value": figure.value,
            "floor": figure.floor,
            "count": count,
            "steps": steps,
            "seconds": seconds,
        } | share

    def look(self, module: DiffusionModule, spent: float) -> None:
        with module.evaluating():
            found = self.judge(module.model(), self.args.count, self.args.sample_steps)
        self.record["curve"].append({"spent": spent} | found)
        self.save()
        print(
            f"{self.name}: after {spent:.0f} s {found['metric']} {found['value']:.3f}", flush=True
        )

    def save(self) -> None:
        self.file.write_text(json.dumps(self.record, indent=1) + "\n")

    def run(self) -> None:
        """Train for the budget, measure on the way, then the final figure and those over sampling
        time.
        """
        args, total = self.args, 60 * self.args.minutes
        pixel = self.load("pixel", *QUIET)
        images = pixel.data.load()
        self.features = choose("auto", type(pixel.data).__name__).to(args.device)
        self.real = cached_reference(
            images.train, self.features, f"{type(pixel.data).__name__} train"
        )
        spent = 0.0
        if self.name == "latent":
            first = self.load("autoencoder", "optim.warmup=100")
            budget = Budget(args.stage1 * total, args.device)
            self.fit(first, AutoencoderModule(first, images.shape, images.classes), images, budget)
            spent = budget.spent
            run = self.load("latent", *QUIET, f"space.autoencoder={first.folder}")
            budget = Budget(
                total - spent, args.device, [m * total - spent for m in args.marks], None
            )
            under = Stage1(*load_autoencoder(first.folder / "last.ckpt")[:2])
            module = DiffusionModule(run, images.shape, images.classes, under)
        else:
            run, budget = pixel, Budget(total, args.device, [m * total for m in args.marks], None)
            module = DiffusionModule(run, images.shape, images.classes)
        budget.look = lambda module, seconds: self.look(module, spent + seconds)
        self.fit(run, module, images, budget)
        module.eval().to(args.device)
        with module.averaged():
            model = module.model()
            for steps in args.over_steps:
                self.record["sampling"].append(self.judge(model, args.count, steps))
                self.save()
            self.record["final"] = self.judge(model, args.final, args.sample_steps)
        self.record |= {
            "machine": clock.machine(args.device),
            "minutes": args.minutes,
            "checkpoint": str(run.folder / "last.ckpt"),
        }
        self.save()
        print(f"{self.name}: {self.record['final']}", flush=True)


@styled()
def draw(sides: dict[str, dict[str, Any]]) -> Picture:
    """Quality over training time, left; over the time of a sample, right."""
    title = "Latent diffusion against pixels, in equal time"
    figure, axes = sheet(title, 1, 2, (9, 4), sharey=True)
    left, right = axes[0]
    for side, record in sides.items():
        curve, sampling = record["curve"], record["sampling"]
        left.plot([p["spent"] / 60 for p in curve], [p["value"] for p in curve], "o-", label=side)
        each = [1000 * p["seconds"] / p["count"] for p in sampling]
        right.plot(each, [p["value"] for p in sampling], "o-")
        for ms, p in zip(each, sampling, strict=True):
            how = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
            right.annotate(f"{p['steps']} steps", (ms, p["value"]), fontsize=9, **how)
    right.margins(x=0.15)
    first = sides[next(iter(sides))]["curve"][0]
    for ax in (left, right):
        floor_line(ax, first["floor"])
    metric = for_axis(first["metric"])
    say(left, "minutes of training, stage 1 included", metric, yscale="log")
    say(right, "ms for a sample", "", xscale="log", yscale="log")
    plain_ticks(left.yaxis, right.xaxis)
    left.legend()
    return picture(figure)


def table(sides: dict[str, dict[str, Any]]) -> str:
    rows = ["| | latent | pixel | ratio |", "|---|---|---|---|"]
    latent, pixel = (sides[name]["final"] for name in ("latent", "pixel"))
    rows.append(
        f"| {pixel['metric']} | {latent['value']:.3f} | {pixel['value']:.3f} | {latent['value'] / pixel['value']:.3f} |"
    )
    rates = [final["count"] / final["seconds"] for final in (latent, pixel)]
    rows.append(
        f"| samples/s, {pixel['steps']} steps | {rates[0]:.1f} | {rates[1]:.1f} | {rates[0] / rates[1]:.2f} |"
    )
    key = f"class_share_{thousands(pixel['count'])}"
    return "\n".join(
        [
            *rows,
            f"| {key} | {latent[key]:.3f} | {pixel[key]:.3f} | |",
            f"| truth-vs-truth | {pixel['floor']:.3f} | | |",
        ]
    )


def log_to_wandb(sides: dict[str, dict[str, Any]], file: Path, mode: str) -> None:
    """Both curves and the picture as one run."""
    import wandb

    with wandb.init(project="ldm", name="latent-vs-pixel", dir=file.parent, mode=mode) as run:
        run.define_metric("*", step_metric="training_seconds")
        for side, record in sides.items():
            for point in record["curve"]:
                run.log(
                    {
                        "training_seconds": point["spent"],
                        f"{side}/{point['metric']}": point["value"],
                    }
                )
        run.log({"latent-vs-pixel": wandb.Image(str(file))})


def main() -> None:
    parser = clock.arguments(__doc__, rounds=1, steps=0)
    parser.set_defaults(output=Path("runs/latent_vs_pixel"))
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--family", default="fashion", help="a folder of configs/")
    parser.add_argument("--suffix", default="-cpu", help="of its configs: '' for those of a GPU")
    parser.add_argument("--side", default="both", choices=["both", "none", *SIDES])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument(
        "--stage1", type=float, default=0.4, help="share of the time that stage 1 gets"
    )
    parser.add_argument(
        "--marks",
        type=float,
        nargs="+",
        default=[0.55, 0.7, 0.85, 0.999],
        help="shares at which to measure",
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--final", type=int, default=10_000)
    parser.add_argument("--sample-steps", type=int, default=10)
    parser.add_argument("--over-steps", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--sample-batch", type=int, default=250)
    parser.add_argument("--wandb", default="offline", help="online, offline or disabled")
    args = clock.start(parser)
    args.output.mkdir(parents=True, exist_ok=True)
    for name in SIDES if args.side == "both" else [s for s in SIDES if s == args.side]:
        Side(name, args).run()
    files = {name: args.output / f"{name}.json" for name in SIDES}
    sides = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    if all("final" in sides.get(name, {}) for name in SIDES):
        file = args.output / "latent_vs_pixel.png"
        draw(sides).save(file, optimize=True)
        (args.output / "latent_vs_pixel.md").write_text(table(sides) + "\n")
        log_to_wandb(sides, file, args.wandb)
        print(table(sides))


if __name__ == "__main__":
    main()
