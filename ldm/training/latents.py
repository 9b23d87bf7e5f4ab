"""Encode the training set once, all ranks together, and train on what was written."""

import sys
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor
from tqdm import tqdm

from ldm.errors import Refusal
from ldm.pictures.latents import LatentCache, Writer, cache_folder, open_cache
from ldm.pictures.space import LatentSpace
from ldm.system import threads
from ldm.system.batches import Shard, as_floats, loader
from ldm.training.data import data_of
from ldm.training.ranks import announce

ON_DEVICE = 0.25  # the share of a GPU's free memory that a cache may take


def use_cache(trainer: pl.Trainer, space: LatentSpace, autoencoder: str) -> None:
    """Give the run's data the latents in place of the pictures, encoded first if missing.

    `autoencoder`: the hash of its weights.
    """
    data, strategy, device = data_of(trainer), trainer.strategy, trainer.strategy.root_device
    orientations = 1 + data.config.data.flip
    pictures = data.images.train
    output, fingerprint = Path(data.config.output), pictures.fingerprint()
    folder = cache_folder(output, autoencoder, fingerprint, orientations)
    found = open_cache(folder)
    here = torch.tensor(float(found is not None), device=device)
    if not strategy.reduce(here, reduce_op="min"):
        strategy.barrier()
        fill(trainer, space, folder, orientations)
        found = open_cache(folder)
    if found is None:
        raise Refusal(
            f"latent cache: process {trainer.global_rank} does not see {folder}; "
            "put output on shared storage"
        )
    announce(f"latents: {folder}, {found.size / 1e9:.2f} GB for {len(found)} pictures")
    if fits(found, device):
        space.table, found.read = found.table(device), False
    found.columns = pictures.columns
    data.train = found


def fits(cache: LatentCache, device: torch.device) -> bool:
    """Whether the cache goes to the device whole. On a CPU the mapped file is in memory already."""
    return device.type == "cuda" and cache.size < ON_DEVICE * torch.cuda.mem_get_info(device)[0]


@torch.no_grad()
def fill(trainer: pl.Trainer, space: LatentSpace, folder: Path, orientations: int) -> None:
    """Encode every training picture, each rank its share, and write the posteriors' moments."""
    strategy, count = trainer.strategy, len(data_of(trainer).images.train)
    writer = Writer(folder, Path(strategy.broadcast(Writer.beside(folder))))
    shape = (orientations, 2 * space.shape[0], *space.shape[1:])
    first = trainer.global_rank == 0
    refused = _refusal(lambda: writer.begin(count, shape)) if first else None
    if refused := strategy.broadcast(refused):
        raise Refusal(refused)
    try:
        _fill_share(trainer, space, writer, orientations)
    except BaseException:  # refused, stopped or out of disk: nothing is left behind
        if first:
            writer.abandon()
        raise
    strategy.barrier()
    if first:
        writer.end()
    strategy.barrier()


def _fill_share(trainer: pl.Trainer, space: LatentSpace, writer: Writer, orientations: int) -> None:
    """This rank's share of the training pictures, encoded."""
    data, device, rank = data_of(trainer), trainer.strategy.root_device, trainer.global_rank
    pictures, settings = data.images.train, data.config.data
    writer.open()
    # whole batches of consecutive rows, alike on any number of processes: so are the bits
    blocks = [*Shard(len(pictures), settings.batch_size, 0, 1)][rank :: trainer.world_size]
    batches = zip(blocks, loader(pictures, blocks, settings.workers, pin=False), strict=True)
    pause = 0.1 if sys.stderr.isatty() else 10
    for rows, batch in tqdm(
        batches, "encoding", len(blocks), disable=rank > 0, unit="batch", mininterval=pause
    ):
        threads.tick()
        x = as_floats(batch["image"].to(device))
        moments = encode_orientations(space.autoencoder.encode, x, orientations)
        writer.put(rows, moments, batch["label"], batch["index"])
    writer.close()


def encode_orientations(
    encoder: Callable[[Tensor], Tensor], image: Tensor, orientations: int
) -> Tensor:
    """Moments (B, orientations, 2 z, h, w) of pictures (B, C, H, W) and their mirror images."""
    views = [image.flip(-1) if mirrored else image for mirrored in range(orientations)]
    return torch.stack([encoder(view) for view in views], 1)


def _refusal(work: Callable[[], None]) -> str | None:
    """The text of a refusal, so that every rank can raise it."""
    try:
        work()
    except Refusal as refusal:
        return str(refusal)
    return None
