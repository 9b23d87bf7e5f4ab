"""The plan of a run: its stages, what each is made of, and all that can be known to be wrong before the first step.

Hours of stage 1 are not spent before a mistake of stage 2 is found: stage 2 is built on the meta device (shapes alone), its
captions, classes, solver, figures and Lightning's settings are tried, and then the first step is taken.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from ldm import config
from ldm.checkpoints import checkpoint
from ldm.config import AutoencoderConfig, Config, DiffusionConfig, schema
from ldm.errors import Refusal, printable, say
from ldm.networks import imported
from ldm.networks.autoencoder import Autoencoder
from ldm.pictures.space import Latents
from ldm.sampling.model import load_autoencoder, load_text
from ldm.system.data import DataSet
from ldm.system.randomness import permutation
from ldm.training.autoencoder import AutoencoderModule
from ldm.training.boards.loggers import where_shown
from ldm.training.diffusion import DiffusionModule
from ldm.training.estimate import work
from ldm.training.resume import (
    about_data,
    changed,
    expect_same_data,
    keep_global_batch,
    named,
    other_data,
    resume_point,
)
from ldm.training.stage import Stage
from ldm.training.trainer import check_trainer, precision, strategy, world_size

PROMPTS = 8  # captions of held-out pictures that training's panels, and samples without a prompt, are made of


Hold = Callable[[Path], object]


@dataclass
class Leg:
    """One stage of a plan: what is trained, from which checkpoint on, and the stage 1 under it where its config names it."""

    run: Config
    images: DataSet
    start: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)
    stage1: AutoencoderConfig | None = None
    text: dict[str, Any] = field(default_factory=dict)  # encoder and prompts, for captions
    refused: Refusal | None = None  # why it cannot begin in its folder, in a dry run
    module: Stage | None = None

    def ready(self) -> Stage:
        """The module to train, its stage 1 there; made now where it was a sketch."""
        if self.module is None or any(weight.is_meta for weight in self.module.parameters()):
            self.module = self.build()
        return self.module

    def build(self) -> Stage:
        """A new module, seeded."""
        pl.seed_everything(self.run.seed, verbose=False)
        made = self._resumed() if self.start else self._new()
        made.data, made.data_about = about_data(self.images), self.images.about()
        return made

    def sketch(self) -> Stage:
        """The same in shapes alone, while its stage 1 is still to be trained."""
        with torch.device("meta"):
            autoencoder = self.stage1.network.build(self.images.shape)
            return self._diffusion(autoencoder, self.stage1)

    def _resumed(self) -> Stage:
        """The module to load a checkpoint into: its stage 1 is the one inside it, whatever has become of the file since."""
        inside = self.state["ldm"]["autoencoder"]
        if inside is None:
            return self._new()
        trained_as = config.from_dict(inside["config"], str(self.start))
        autoencoder = trained_as.network.build(self.images.shape)
        found = checkpoint.under(self.state["state_dict"], "space.autoencoder.")
        checkpoint.load_strict(autoencoder, found, str(self.start))
        return self._diffusion(autoencoder, trained_as)

    def _new(self) -> Stage:
        run, images = self.run, self.images
        if isinstance(run, AutoencoderConfig):
            return AutoencoderModule(run, images.shape, images.classes)
        if not isinstance(run.space, Latents):
            return self._diffusion(None, None)
        if self.stage1 is None and (folder := imported.find(run.space.autoencoder)):
            autoencoder, network = imported.load(folder, images.shape)
            return self._diffusion(
                autoencoder,
                AutoencoderConfig(run.name, "autoencoder", data=run.data, network=network),
            )
        return self._diffusion(*_trained(run, images, self.stage1))

    def _diffusion(self, autoencoder: Any, trained_as: AutoencoderConfig | None) -> DiffusionModule:
        classes = classes_of(self.run, self.images)
        made = DiffusionModule(
            self.run, self.images.shape, classes, autoencoder, trained_as, **self.text
        )
        made.space.note(self.images.about())
        return made


def make_plan(
    run: Config, resume: bool, dry_run: bool, hold: Hold, images: DataSet | None = None
) -> list[Leg]:
    """The stages that a run trains, first things first, the first of them built. Refusal for what is wrong with any of them.

    `hold` takes a folder before it is looked into. In a dry run a folder that holds a run is only said. `images`: data that
    are there already, in place of the config's.
    """
    _check_output(run.folder)
    hold(run.folder)
    images = images or run.data.load()
    last = _leg(run, images, resume, dry_run)
    legs = [last]
    if last.start is None and (stage1 := config.stage1_of(run)):
        last.stage1 = _under_its_name(run, images, stage1, resume)
        if not _finished(last.stage1):
            _check_output(last.stage1.folder)
            hold(last.stage1.folder)
            legs = [_leg(last.stage1, images, resume, dry_run), last]
    for leg in reversed(legs):  # what stage 1 starts from is made last: nothing is drawn in between
        leg.module = leg.build() if leg is legs[0] else leg.sketch()
        _check(leg)
    return legs


def _leg(run: Config, images: DataSet, resume: bool, dry_run: bool) -> Leg:
    """A stage and the checkpoint that it goes on from, its data held against those it began with."""
    leg = Leg(run, images)
    try:
        leg.start, leg.state = resume_point(run, resume)
    except Refusal as refusal:
        if not dry_run:
            raise
        leg.refused = refusal
    classes = classes_of(run, images) if isinstance(run, DiffusionConfig) else None
    leg.text = text_of(run, images) if isinstance(run, DiffusionConfig) else {}
    if leg.start is not None:
        told = ["labels"] * bool(classes) + ["captions"] * bool(leg.text)
        expect_same_data(run, images, leg.start, leg.state, told, classes)
        keep_global_batch(run, leg.state)
    return leg


# -- stage 1 -----------------------------------------------------------------------------------------------------------------
OWN = (
    "data.batch_size",
    "data.flip",
)  # of stage 1's data; what else is said of them their identity tells


def _finished(stage1: AutoencoderConfig) -> bool:
    path = stage1.folder / "last.ckpt"
    return path.exists() and checkpoint.read(path)["global_step"] >= stage1.trainer.max_steps


def _stale(trained_as: AutoencoderConfig, stage1: AutoencoderConfig) -> list[str]:
    """Keys of stage 1's config that have changed since it was trained, and that made it what it is."""
    keys = changed(schema.to_dict(trained_as), schema.to_dict(stage1))
    return [key for key in keys if key != "name" and (key in OWN or not key.startswith("data."))]


def _under_its_name(
    run: DiffusionConfig, images: DataSet, stage1: AutoencoderConfig, resume: bool
) -> AutoencoderConfig:
    """Stage 1 under the name in its own config, where what lies there is what the run would train: settings and data.

    So runs on the same data share the hours of one stage 1, and a run on other data trains its own.
    """
    if "name" in run.stage1 or (stage1.folder / "last.ckpt").exists():
        return stage1
    try:
        own = replace(stage1, name=str(config.stage1_file(run).get("name", stage1.name)))
        if not (own.folder / "last.ckpt").exists() or not (resume or _finished(own)):
            return stage1
        meta = checkpoint.read(own.folder / "last.ckpt")["ldm"]
        trained_as = config.from_dict(meta["config"], str(own.folder))
    except (
        Refusal,
        ValueError,
    ):  # no plain name, or a damaged file: what lies there is not to be used, and no concern of ours
        return stage1
    same = isinstance(trained_as, AutoencoderConfig) and not _stale(trained_as, own)
    return own if same and meta.get("data") and not other_data(meta, images) else stage1


def _trained(
    run: DiffusionConfig, images: DataSet, stage1: AutoencoderConfig | None
) -> tuple[Autoencoder, AutoencoderConfig]:
    """Stage 1's network and config from its checkpoint; Refusal if it is of another shape, other settings or other data.

    A checkpoint that the user named, and not its config, may be of other data: that is said.
    """
    path = checkpoint.find(stage1.folder if stage1 else run.space.autoencoder, prefer="best")
    autoencoder, trained_as, about = load_autoencoder(path)
    if tuple(about["shape"]) != tuple(images.shape):
        raise Refusal(
            f"space.autoencoder: {path} is for pictures of {tuple(about['shape'])}, the data has {images.shape}"
        )
    why = other_data(about, images)
    if stage1 is None:
        if why:
            say(
                f"stage 1    {path} is of other data than {named(run)}: {why}; used, as space.autoencoder names it"
            )
        return autoencoder, trained_as
    if keys := _stale(trained_as, stage1):
        why = f"is stale, {keys[0]} differs from {run.space.autoencoder}"
    elif why:
        why = f"is of other data than {named(run)}: {why}"
    if why:
        take = f"space.autoencoder={stage1.folder} takes it as it is"
        raise Refusal(f"space.autoencoder: {path} {why}; name=OTHER trains another, {take}")
    return autoencoder, trained_as


# -- what a run is told of its data ----------------------------------------------------------------------------------------
def classes_of(run: DiffusionConfig, images: DataSet) -> tuple[str, ...]:
    """The classes that the model is told, or none; Refusal where it is to be told of classes that the data has not."""
    if run.condition in ("label", "both") and not images.classes:
        raise Refusal(
            f"condition: {run.condition} is asked for, but the data has no classes; set condition=none"
        )
    return () if run.condition in ("none", "text") else images.classes


def text_of(run: DiffusionConfig, images: DataSet) -> dict[str, Any]:
    """The text encoder and the prompts of samples, for a run of captions; Refusal where the data has none."""
    if run.condition not in ("text", "both"):
        return {}
    captions = images.train.captions
    if not any(captions):
        raise Refusal(
            f"condition: {run.condition} is asked for, but the data has no captions; ImageFolder reads them from the column "
            "text or caption (data.caption) of metadata.jsonl or metadata.csv, or from NAME.txt beside NAME.png"
        )
    encoder = load_text(run)
    held = sorted({text for text in images.held_out.captions if text}) or sorted(
        set(captions) - {""}
    )
    if cut := [text for text in sorted(set(captions)) if encoder.cut(text)]:
        say(
            f"text: {len(cut)} captions are longer than {encoder.length} tokens; cut of '{cut[0]}': '{encoder.cut(cut[0])}'"
        )
    return {
        "text": encoder,
        "prompts": tuple(held[i] for i in permutation(len(held), "prompts")[:PROMPTS].tolist()),
    }


# -- what can be known to be wrong -----------------------------------------------------------------------------------------
def _check(leg: Leg) -> None:
    """Refusal for what would fail once the stage trains."""
    run, images = leg.run, leg.images
    few = min(len(images.train), len(images.test))
    if few < (world := world_size(run.trainer)):
        raise Refusal(
            f"data: {len(images.train)} pictures and {len(images.test)} held out are too few for {world} processes"
        )
    if isinstance(run, DiffusionConfig):
        _check_sampling(run)
    if run.data.modality == "pictures":
        _try_once(leg)
    if run.evaluate.every:
        from ldm.training.panels.evaluation import Evaluation  # slow to import

        Evaluation(run, images, quiet=True)
    check_trainer(run)


@torch.no_grad()
def _try_once(leg: Leg) -> None:
    """The networks' answer to one picture: of a sketch, its shape."""
    try:
        leg.module.once()
    except (RuntimeError, ValueError) as error:
        why = printable(str(error).splitlines()[0])
        raise Refusal(
            f"network: {leg.run.name} does not take pictures of {tuple(leg.images.shape)}: {why}"
        ) from None


def _check_output(folder: Path) -> None:
    """Refusal where the run's folder cannot be made or written to."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise Refusal(f"output: '{there}' is a file, where {folder}/ is to be; set output or name")
    if not os.access(there, os.W_OK | os.X_OK):
        raise Refusal(f"output: '{there}' cannot be written to; set output")


def _check_sampling(run: DiffusionConfig) -> None:
    """The times and the solver that panels will ask for."""
    try:
        run.sample.solver.bind(run.schedule, run.schedule.grid(run.sample.steps, run.sample.grid))
    except ValueError as error:
        raise Refusal(f"sample: {error}") from None


def worth(leg: Leg, later: Sequence[Leg]) -> dict[str, float]:
    """How many steps of this stage the work of each later one is worth, by name."""
    if not later:
        return {}
    step = work(leg.module)
    return {
        other.run.name: other.run.trainer.max_steps * work(other.module) / step for other in later
    }


# -- what the user reads ---------------------------------------------------------------------------------------------------
def in_words(legs: Sequence[Leg]) -> str:
    """The plan in words, of every stage that it trains."""
    parts = []
    for number, leg in enumerate(legs, 1):
        head = [f"stage      {number} of {len(legs)}"] if len(legs) > 1 else []
        parts.append("\n".join([*head, *_lines(leg)]))
    return "\n\n".join(parts)


def _lines(leg: Leg) -> list[str]:
    run, images, module, settings = leg.run, leg.images, leg.module, leg.run.trainer
    count = sum(p.numel() for p in module.net.parameters())
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    held = (
        count * 4 * (4 + bool(module.ema)) + 4 * frozen
    )  # weights, gradients, two moments, the average
    device = "GPU" if torch.cuda.is_available() and settings.accelerator != "cpu" else "CPU"
    world = world_size(settings)
    batch = run.data.batch_size * settings.accumulate * world
    space = (
        f", space {type(run.space).__name__} {tuple(module.space.shape)}"
        if isinstance(run, DiffusionConfig)
        else ""
    )
    space += (
        f", trained for {run.task.use}" if isinstance(run, DiffusionConfig) and run.task.use else ""
    )
    return [
        f"run        {run.name} ({run.stage}{space})",
        *(
            [f"stage 1    {leg.stage1.folder}/, finished"]
            if leg.stage1 and _finished(leg.stage1)
            else []
        ),
        f"data       {type(run.data).__name__}: {len(images.train)} training, {len(images.test)} held out, "
        f"{tuple(images.shape)}, {len(images.classes)} classes",
        f"network    {count / 1e6:.2f} M parameters; {held / 1e9:.2f} GB for weights, gradients, optimiser and average",
        f"batch      {batch} = {run.data.batch_size} a device x {world} devices x {settings.accumulate} accumulated; "
        f"lr {run.optim.lr:g}",
        f"length     {settings.max_steps} steps = {settings.max_steps * batch / len(images.train):.1f} epochs",
        f"device     {world} x {device}, {precision(settings)}, strategy {strategy(run)}",
        f"output     {run.folder}/",
        *where_shown(run),
        *([f"note       as it stands: {leg.refused}"] if leg.refused else []),
    ]
