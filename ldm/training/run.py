"""A run: stage 1 if it is missing, then what the config asks for; where things go, and what may be resumed."""

import logging
import os
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only

from ldm import checkpoint, config, schema, threads
from ldm.config import AutoencoderConfig, Config, Data, DiffusionConfig, TrainerConfig
from ldm.data.images import Images
from ldm.errors import Refusal, command, ending
from ldm.model import load_autoencoder, load_text
from ldm.networks import imported
from ldm.randomness import permutation
from ldm.spaces import Latents
from ldm.stops import Stops, heard_stops
from ldm.training.autoencoder import AutoencoderModule
from ldm.training.data import RunData
from ldm.training.diffusion import DiffusionModule
from ldm.training.folder import taken, wandb_id
from ldm.training.loggers import check_loggers, close_loggers, discard_loggers, where_shown
from ldm.training.partners import lost_partner, partner_lost
from ldm.training.stage import Stage, say
from ldm.training.trainer import build_trainer, on_gpu, precision, strategy


def train(run: Config, resume: bool = False, dry_run: bool = False) -> Path:
    """Train a config to its end and return the run's folder; stage 1 comes first where it is named and missing."""
    with heard_stops() as stops:
        return _train(run, resume, dry_run, stops)


def _train(run: Config, resume: bool, dry_run: bool, stops: Stops) -> Path:
    _quiet()
    check_loggers(run)
    if run.trainer.threads:
        threads.fixed(run.trainer.threads)
    elif not on_gpu(run.trainer):
        threads.auto()
    stage1 = _stage1(run)
    if stage1 is not None and not dry_run:
        _train_first(stage1, run, resume)
        stops.check("between the stages", "go on with --resume")
    with nullcontext() if dry_run or rank_zero_only.rank else taken(run.folder):
        return _train_stage(run, stage1, resume, dry_run, stops)


def _train_stage(run: Config, stage1: AutoencoderConfig | None, resume: bool, dry_run: bool, stops: Stops) -> Path:
    start, state = (None, {}) if dry_run else _resume_point(run, resume)
    if start is not None:
        _keep_global_batch(run, state)
    images = run.data.load()
    pl.seed_everything(run.seed, verbose=False)
    if min(len(images.train), len(images.test)) < (world := _world(run.trainer)):
        raise Refusal(f"data: {len(images.train)} pictures and {len(images.test)} held out are too few for {world} processes")
    module = _resumed_module(run, images, start, state) if start else _module(run, images, stage1, dry_run)
    module.data_about = images.about()
    say(_plan(run, module, images))
    if dry_run:
        return run.folder
    module.run_id = wandb_id(run.folder, state["ldm"].get("wandb_id") if state else None)
    trainer = build_trainer(run, module, images, state.get("global_step"), stops)
    _fit(run, trainer, module, RunData(run, images), start, stops)
    done = trainer.global_step >= run.trainer.max_steps  # trainer.options.max_time may have ended it before
    say(_farewell(run) if done else f"stopped at step {trainer.global_step}; --resume goes on")
    return run.folder


def _fit(run: Config, trainer: pl.Trainer, module: Stage, data: RunData, start: Path | None, stops: Stops) -> None:
    """Train, and end the run on every board with what ended it."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=start and str(start), weights_only=True)
    except BaseException as error:
        told, began = _explained(error, trainer, run, stops), stops.training
        stops.rest("at its end", "go on with --resume")
        close_loggers(trainer, run, told)
        if not began and ending(told)[0] != 1:
            discard_loggers(trainer)
        if told is error:
            raise
        raise told from None
    stops.rest("after the last step", "all is saved")
    close_loggers(trainer, run, None)


def _explained(error: BaseException, trainer: pl.Trainer, run: Config, stops: Stops) -> BaseException:
    """What a dead worker or process of the run raises in this one as the one line that it is; anything else as it came."""
    reset = isinstance(error, ConnectionResetError) and run.data.workers > 0  # it died while it was handing over a batch
    worker = reset or (isinstance(error, RuntimeError) and "DataLoader worker" in str(error))
    partner = not worker and lost_partner(error, trainer.world_size)
    if not (worker or partner):
        return error
    if stops.received:  # the signal went to all of them
        return stops.stopped(f"at step {trainer.global_step}", "go on from the last checkpoint with --resume")
    if partner:
        return partner_lost(trainer.global_step, trainer.world_size)
    # PyTorch raises it from a signal handler, in the middle of whatever was going on: the state is not to be trusted
    return Refusal(
        f"a data worker died at step {trainer.global_step} ({_first(error)}): out of memory, or killed; "
        "--resume goes on from the last checkpoint, with data.workers=0 or fewer if it was memory"
    )


# -- before training ----------------------------------------------------------------------------------------------------
def _stage1(run: Config) -> AutoencoderConfig | None:
    """Stage 1's config, where the run names it by config; its checkpoint may be missing."""
    if not (isinstance(run, DiffusionConfig) and isinstance(run.space, Latents)):
        return None
    if not run.space.autoencoder.endswith((".yaml", ".yml")):
        return None
    stage1 = config.load(run.space.autoencoder)
    if not isinstance(stage1, AutoencoderConfig):
        raise Refusal(f"space.autoencoder: {run.space.autoencoder} is a config of stage '{stage1.stage}', not autoencoder")
    stage1.output, stage1.data = run.output, _same_data(stage1, run)
    # shown where stage 2 is, in one group with it
    stage1.logger = replace(run.logger, group=run.logger.group or run.name, tags=stage1.logger.tags or run.logger.tags)
    for key in ("accelerator", "devices", "num_nodes", "threads"):
        setattr(stage1.trainer, key, getattr(run.trainer, key))
    return stage1


def _train_first(stage1: AutoencoderConfig, run: DiffusionConfig, resume: bool) -> None:
    """Stage 1, unless it is finished, or stage 2 has begun and so carries its own."""
    if (run.folder / "last.ckpt").exists() or _finished(stage1.folder, stage1.trainer.max_steps):
        return
    say(f"stage 1 comes first: {stage1.name}")
    train(stage1, resume=resume)


def _same_data(stage1: AutoencoderConfig, run: DiffusionConfig) -> Data:
    """Both stages see the same data, each in batches of its own."""
    if type(stage1.data) is not type(run.data):
        names = type(stage1.data).__name__, type(run.data).__name__
        raise Refusal(f"space.autoencoder: {run.space.autoencoder} is for {names[0]}, this run's data is {names[1]}")
    return replace(run.data, batch_size=stage1.data.batch_size, flip=stage1.data.flip)


def _finished(folder: Path, max_steps: int) -> bool:
    path = folder / "last.ckpt"
    return path.exists() and checkpoint.read(path)["global_step"] >= max_steps


PROMPTS = 8  # captions of held-out pictures that training's panels, and samples without a prompt, are made of
FREE = (
    "trainer",
    "sample",
    "evaluate",
    "logger",
    "output",
    "data.root",
    "data.workers",
    "data.download",
    "space.chunk",
    "space.cache",
)
FREE += ("optim.lr", "optim.clip", "space.autoencoder")


def _resume_point(run: Config, resume: bool) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint to resume from and its state, or None for a new run; never another run's folder."""
    newest, state, complaints = checkpoint.newest_whole(run.folder)
    if rank_zero_only.rank != 0:  # rank 0 has looked already, and may have written since
        return (newest, state) if resume else (None, {})
    if newest is None:
        if complaints:
            raise Refusal(f"{run.folder}: no checkpoint is whole ({complaints[0]}); name=OTHER starts another run")
        return None, {}  # a run that saved nothing has nothing to lose
    for complaint in complaints if resume else []:
        say(f"{complaint}; resuming from {newest} instead")
    step, goal = state["global_step"], run.trainer.max_steps
    if step >= goal:
        raise Refusal(
            f"{run.folder} is finished ({step} steps): sample from it, or train on with --resume trainer.max_steps=N, "
            "or start another with name=OTHER"
        )
    if not resume:
        raise Refusal(f"{run.folder} holds an unfinished run ({step} of {goal} steps); add --resume, or name=OTHER")
    before = config.from_dict(state["ldm"]["config"], str(newest))  # with the defaults of keys that are newer than it
    changed = schema.differences(schema.to_dict(before), schema.to_dict(run))
    if changed := [key for key in changed if not key.startswith(FREE)]:
        raise Refusal(f"--resume: {', '.join(changed)} changed since {newest}; undo that, or start another run with name=OTHER")
    return newest, state


def _keep_global_batch(run: Config, state: dict[str, Any]) -> None:
    """A resumed run takes as many micro-batches a step as before, over however many processes there are now."""
    slots = state["ldm"]["slots"]
    world, accumulate = _world(run.trainer), run.trainer.accumulate
    if world * accumulate == slots:
        return
    if slots % world:
        raise Refusal(f"--resume: a step was {slots} micro-batches of {run.data.batch_size}; {world} processes cannot share them")
    run.trainer.accumulate = slots // world
    say(
        f"resuming on {world} processes: accumulate {accumulate} -> {slots // world} "
        f"keeps the global batch of {slots * run.data.batch_size}"
    )


def _resumed_module(run: Config, images: Images, start: Path, state: dict[str, Any]) -> Stage:
    """The module to load a checkpoint into: its stage 1 is the one inside it, whatever has become of the file since."""
    inside = state["ldm"]["autoencoder"]
    if inside is None:
        return _module(run, images, None, False)
    trained_as = config.from_dict(inside["config"], str(start))
    autoencoder = trained_as.network.build(images.shape)
    found = checkpoint.under(state["state_dict"], "space.autoencoder.")
    checkpoint.load_strict(autoencoder, found, str(start))
    return DiffusionModule(run, images.shape, _classes(run, images), autoencoder, trained_as, **_text(run, images))


def _module(run: Config, images: Images, stage1: AutoencoderConfig | None, dry_run: bool) -> Stage:
    if isinstance(run, AutoencoderConfig):
        return AutoencoderModule(run, images.shape, images.classes)
    classes = _classes(run, images)
    if not isinstance(run.space, Latents):
        return DiffusionModule(run, images.shape, classes, **_text(run, images))
    if dry_run and stage1 is not None and not (stage1.folder / "last.ckpt").exists():
        return DiffusionModule(run, images.shape, classes, stage1.network.build(images.shape), stage1, **_text(run, images))
    if stage1 is None and (folder := imported.find(run.space.autoencoder)):
        autoencoder, network = imported.load(folder, images.shape)
        trained_as = AutoencoderConfig(name=run.name, stage="autoencoder", data=run.data, network=network)
        return DiffusionModule(run, images.shape, classes, autoencoder, trained_as, **_text(run, images))
    path = checkpoint.find(stage1.folder if stage1 else run.space.autoencoder, prefer="best")
    autoencoder, trained_as, about = load_autoencoder(path)
    if tuple(about["shape"]) != tuple(images.shape):
        raise Refusal(f"space.autoencoder: {path} is for pictures of {tuple(about['shape'])}, the data has {images.shape}")
    if stage1 is not None:
        changed = schema.differences(schema.to_dict(trained_as.network), schema.to_dict(stage1.network))
        if changed:
            raise Refusal(
                f"space.autoencoder: {path} is stale, network.{changed[0]} differs from {run.space.autoencoder}; "
                "give the config another name to train it anew, or undo the change"
            )
    return DiffusionModule(run, images.shape, classes, autoencoder, trained_as, **_text(run, images))


def _classes(run: DiffusionConfig, images: Images) -> tuple[str, ...]:
    if run.condition in ("label", "both") and not images.classes:
        raise Refusal(f"condition: {run.condition} is asked for, but the data has no classes; set condition=none")
    return () if run.condition in ("none", "text") else images.classes


def _text(run: DiffusionConfig, images: Images) -> dict[str, Any]:
    """The text encoder and the prompts of samples, for a run of captions; Refusal where the data has none."""
    if run.condition not in ("text", "both"):
        return {}
    captions = getattr(images.train, "captions", [])
    if not any(captions):
        raise Refusal(
            f"condition: {run.condition} is asked for, but the data has no captions; ImageFolder reads them from the column "
            "text of metadata.jsonl or metadata.csv"
        )
    encoder = load_text(run)
    held = sorted({text for text in images.held_out.captions if text}) or sorted(set(captions) - {""})
    if cut := [text for text in sorted(set(captions)) if encoder.cut(text)]:
        say(f"text: {len(cut)} captions are longer than {encoder.length} tokens; cut of '{cut[0]}': '{encoder.cut(cut[0])}'")
    return {"text": encoder, "prompts": tuple(held[i] for i in permutation(len(held), "prompts")[:PROMPTS].tolist())}


# -- what the user reads ------------------------------------------------------------------------------------------------
def _plan(run: Config, module: Stage, images: Images) -> str:
    settings = run.trainer
    count = sum(p.numel() for p in module.net.parameters())
    held = count * 4 * (4 + bool(module.ema))  # weights, gradients, two moments, the average
    device = "GPU" if torch.cuda.is_available() and settings.accelerator != "cpu" else "CPU"
    world = _world(settings)
    batch = run.data.batch_size * settings.accumulate * world
    space = f", space {type(run.space).__name__} {tuple(module.space.shape)}" if isinstance(run, DiffusionConfig) else ""
    space += f", trained for {run.task.use}" if isinstance(run, DiffusionConfig) and run.task.use else ""
    return "\n".join(
        [
            f"run        {run.name} ({run.stage}{space})",
            f"data       {type(run.data).__name__}: {len(images.train)} training, {len(images.test)} held out, "
            f"{tuple(images.shape)}, {len(images.classes)} classes",
            f"network    {count / 1e6:.2f} M parameters; {held / 1e9:.2f} GB for weights, gradients, optimiser and average",
            f"batch      {batch} = {run.data.batch_size} a device x {world} devices x {settings.accumulate} accumulated; "
            f"lr {run.optim.lr:g}",
            f"length     {settings.max_steps} steps = {settings.max_steps * batch / len(images.train):.1f} epochs",
            f"device     {world} x {device}, {precision(settings)}, strategy {strategy(run)}",
            f"output     {run.folder}/",
            *where_shown(run),
        ]
    )


def _world(settings: TrainerConfig) -> int:
    devices = settings.devices
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if devices in ("auto", -1, "-1"):
        count = max(1, torch.cuda.device_count()) if settings.accelerator != "cpu" else 1
    else:
        count = (
            len(devices) if isinstance(devices, list) else len(str(devices).split(",")) if "," in str(devices) else int(devices)
        )
    return count * settings.num_nodes


def _first(error: BaseException) -> str:
    return str(error).splitlines()[0].strip()


def _farewell(run: Config) -> str:
    if isinstance(run, AutoencoderConfig):
        return f"finished: {run.folder}/last.ckpt; a latent config names it as space.autoencoder={run.folder}"
    return f"finished. To sample: {command('sample')} --checkpoint {run.folder} --output samples/{run.name}"


def _quiet() -> None:
    """Lightning's tips and warnings about choices that were made on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        ".*Checkpoint directory.*",
        ".*litlogger.*",
        ".*tensorboardX.*",
        ".*in eval mode.*",
        ".*LeafSpec.*",
        ".*logs directory.*",
    ):
        warnings.filterwarnings("ignore", text)
