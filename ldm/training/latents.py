"""Encode the training set once, all ranks together, and train on what was written."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor

from ldm.errors import Refusal
from ldm.pictures.latent_writer import Writer, part_of
from ldm.pictures.latents import LatentCache, cache_folder, examine
from ldm.pictures.space import LatentSpace
from ldm.system import threads
from ldm.system.batches import Shard, as_floats, loader
from ldm.system.progress import Bar, file_size
from ldm.training.data import data_of
from ldm.training.ranks import announce

ON_DEVICE = 0.25  # the share of a GPU's free memory that a cache may take
UNSEEN = 90.0  # seconds that a new folder may be unseen on another machine


def use_cache(trainer: pl.Trainer, space: LatentSpace, autoencoder: str) -> None:
    """Give the run's data the latents in place of the pictures, encoded first if missing.

    `autoencoder`: the hash of its weights. Refusal of what is damaged as soon as it is written.
    """
    data = data_of(trainer)
    orientations = 1 + data.config.data.flip
    pictures = data.images.train
    output, fingerprint = Path(data.config.output), pictures.fingerprint()
    folder = cache_folder(output, autoencoder, fingerprint, orientations)
    for _ in range(2):
        found = _found(trainer, folder) or _made(trainer, space, folder, orientations)
        if _placed(trainer, space, found):
            break
    else:
        raise Refusal(
            f"latent cache: {folder} is damaged as soon as it is written; set output to another "
            "disk, or space.cache=false"
        )
    announce(f"latents: {folder}, {file_size(found.size)} for {len(found)} pictures")
    found.columns = pictures.columns
    data.train = found


def _found(trainer: pl.Trainer, folder: Path) -> LatentCache | None:
    """The cache where all processes find it whole, each by other rows; a line where one fails."""
    found = examine(folder, trainer.global_rank, trainer.world_size)
    if wrong := _said(trainer, found if isinstance(found, str) else None):
        announce(f"latent cache: {wrong}")
    whole = _everywhere(trainer, isinstance(found, LatentCache))
    return found if isinstance(found, LatentCache) and whole else None


def _made(trainer: pl.Trainer, space: LatentSpace, folder: Path, orientations: int) -> LatentCache:
    """A new cache."""
    trainer.strategy.barrier()
    fill(trainer, space, folder, orientations)
    _wait_for(folder)
    found = examine(folder, trainer.global_rank, trainer.world_size)
    if isinstance(found, LatentCache):
        return found
    raise Refusal(
        f"latent cache: process {trainer.global_rank} does not see {found or folder}; "
        "put output on shared storage"
    )


def _wait_for(folder: Path) -> None:
    """A machine may remember for a while that a folder on the network was not there."""
    end = time.monotonic() + UNSEEN
    while not (folder / "about.json").exists() and time.monotonic() < end:
        os.listdir(folder.parent)  # asks again
        time.sleep(0.2)


def _placed(trainer: pl.Trainer, space: LatentSpace, found: LatentCache) -> bool:
    """Put a cache that fits onto the device; False on every process if one finds it damaged."""
    device = trainer.strategy.root_device
    placing = fits(found, device)
    space.table = found.table(device) if placing else None
    found.read = space.table is None
    return _everywhere(trainer, not placing or space.table is not None)


def _everywhere(trainer: pl.Trainer, holds: bool) -> bool:
    """Whether it holds on every process."""
    here = torch.tensor(float(holds), device=trainer.strategy.root_device)
    return bool(trainer.strategy.reduce(here, reduce_op="min"))


def _said(trainer: pl.Trainer, text: str | None) -> str | None:
    """What one of the processes has to say, on all of them; None where none has."""
    strategy = trainer.strategy
    here = torch.tensor(float(trainer.global_rank + 1 if text else 0), device=strategy.root_device)
    who = int(strategy.reduce(here, reduce_op="max"))
    return strategy.broadcast(text, src=who - 1) if who else None


def fits(cache: LatentCache, device: torch.device) -> bool:
    """Whether the cache goes to the device whole. On a CPU the mapped file is in memory already."""
    return device.type == "cuda" and cache.size < ON_DEVICE * torch.cuda.mem_get_info(device)[0]


@torch.no_grad()
def fill(trainer: pl.Trainer, space: LatentSpace, folder: Path, orientations: int) -> None:
    """Encode every training picture, each rank its share, and write the posteriors' moments."""
    strategy, data = trainer.strategy, data_of(trainer)
    # whole batches of consecutive rows, alike on any number of processes: so are the bits
    blocks = [*Shard(len(data.images.train), data.config.data.batch_size, 0, 1)]
    partial = Path(strategy.broadcast(Writer.beside(folder)))
    writer = Writer(folder, partial, trainer.global_rank, min(trainer.world_size, len(blocks)))
    mine = [blocks[i] for i in part_of(len(blocks), writer.part, writer.parts)]
    shape = (orientations, 2 * space.shape[0], *space.shape[1:])
    first = trainer.global_rank == 0
    try:
        _together(trainer, writer.begin if first else None)
        _together(trainer, (lambda: writer.open(rows_in(mine), shape)) if mine else None)
        if mine:
            _fill_share(trainer, space, writer, mine, orientations)
        strategy.barrier()
    except BaseException:  # refused, stopped or out of disk: nothing is left behind
        if first:
            writer.abandon()
        raise
    _together(trainer, writer.end if first else None)


def rows_in(blocks: list[list[int]]) -> range:
    """The rows of consecutive blocks."""
    return range(blocks[0][0], blocks[-1][-1] + 1)


def _fill_share(
    trainer: pl.Trainer,
    space: LatentSpace,
    writer: Writer,
    blocks: list[list[int]],
    orientations: int,
) -> None:
    """This rank's share of the training pictures, encoded."""
    data, device = data_of(trainer), trainer.strategy.root_device
    pictures, settings = data.images.train, data.config.data
    batches = zip(blocks, loader(pictures, blocks, settings.workers, pin=False), strict=True)
    each, quiet = settings.batch_size * trainer.world_size, trainer.global_rank > 0
    with Bar("caching latents", len(blocks), "images", each=each, disable=quiet) as bar:
        for rows, batch in batches:
            threads.tick()
            x = as_floats(batch["image"].to(device))
            moments = encode_orientations(space.autoencoder.encode, x, orientations)
            writer.put(rows, moments, batch["label"], batch["index"])
            bar.update()
    writer.close()


def encode_orientations(
    encoder: Callable[[Tensor], Tensor], image: Tensor, orientations: int
) -> Tensor:
    """Moments (B, orientations, 2 z, h, w) of pictures (B, C, H, W) and their mirror images."""
    views = [image.flip(-1) if mirrored else image for mirrored in range(orientations)]
    return torch.stack([encoder(view) for view in views], 1)


def _together(trainer: pl.Trainer, work: Callable[[], None] | None) -> None:
    """Do a process' work; a Refusal of one is every process' own."""
    if refused := _said(trainer, _refusal(work) if work else None):
        raise Refusal(refused)


def _refusal(work: Callable[[], None]) -> str | None:
    """The text of a refusal, so that every rank can raise it."""
    try:
        work()
    except Refusal as refusal:
        return str(refusal)
    return None
