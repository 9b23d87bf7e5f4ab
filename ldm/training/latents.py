"""Encode the training set once, all ranks together, and train on what was written."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from ldm.errors import Refusal
from ldm.pictures.latents import LatentCache, Writer, cache_folder, open_cache
from ldm.system import threads
from ldm.system.batches import Shard, as_floats, loader
from ldm.training.stage import say

if TYPE_CHECKING:
    from ldm.training.diffusion import DiffusionModule

ON_DEVICE = 0.25  # the share of a GPU's free memory that a cache may take


def use_cache(module: "DiffusionModule") -> None:
    """Give the run's data module the latents in place of the pictures, encoding them first where they are missing."""
    data, strategy = module.trainer.datamodule, module.trainer.strategy
    orientations = 1 + module.config.data.flip
    fingerprint = data.images.train.fingerprint()
    folder = cache_folder(
        Path(module.config.output), module.autoencoder_hash, fingerprint, orientations
    )
    found = open_cache(folder)
    if not strategy.reduce(
        torch.tensor(float(found is not None), device=module.device), reduce_op="min"
    ):
        strategy.barrier()
        fill(module, folder, orientations)
        found = open_cache(folder)
    if found is None:
        raise Refusal(
            f"latent cache: process {module.global_rank} does not see {folder}; put output on shared storage"
        )
    say(f"latents: {folder}, {found.size / 1e9:.2f} GB for {len(found)} pictures")
    if fits(found, module.device):
        module.space.table, found.read = found.table(module.device), False
    found.captions = getattr(data.images.train, "captions", None)
    data.train = found


def fits(cache: LatentCache, device: torch.device) -> bool:
    """Whether the cache goes to the device whole. On a CPU the mapped file is in memory already."""
    return device.type == "cuda" and cache.size < ON_DEVICE * torch.cuda.mem_get_info(device)[0]


@torch.no_grad()
def fill(module: "DiffusionModule", folder: Path, orientations: int) -> None:
    """Encode every training picture, each rank its share, and write the posteriors' moments."""
    trainer, space = module.trainer, module.space
    pictures, rank = trainer.datamodule.images.train, module.global_rank
    writer = Writer(folder, Path(trainer.strategy.broadcast(Writer.beside(folder))))
    shape = (orientations, 2 * space.shape[0], *space.shape[1:])
    refused = _try(lambda: writer.begin(len(pictures), shape)) if rank == 0 else None
    if refused := trainer.strategy.broadcast(refused):
        raise Refusal(refused)
    try:
        write(module, writer, orientations)
    except BaseException:  # refused, stopped or out of disk: nothing is left behind
        if rank == 0:
            writer.abandon()
        raise
    trainer.strategy.barrier()
    if rank == 0:
        writer.end()
    trainer.strategy.barrier()


def write(module: "DiffusionModule", writer: Writer, orientations: int) -> None:
    """This rank's share of the training pictures, encoded."""
    trainer, config, space = module.trainer, module.config.data, module.space
    pictures, rank = trainer.datamodule.images.train, module.global_rank
    writer.open()
    # whole batches of consecutive rows, the same on any number of processes: so are the bits that come out
    blocks = [*Shard(len(pictures), config.batch_size, 0, 1)][rank :: trainer.world_size]
    batches = zip(blocks, loader(pictures, blocks, config.workers, pin=False), strict=True)
    options = dict(
        desc="encoding",
        unit="batch",
        disable=rank > 0,
        mininterval=0.1 if sys.stderr.isatty() else 10,
    )
    for rows, batch in tqdm(batches, total=len(blocks), **options):
        threads.tick()
        moments = encode(
            space.autoencoder.encode,
            as_floats(batch["image"].to(module.device)),
            orientations,
        )
        writer.put(rows, moments, batch["label"], batch["index"])
    writer.close()


def encode(encoder: torch.nn.Module, image: Tensor, orientations: int) -> Tensor:
    """Moments of pictures (B, C, H, W) and, with two orientations, of their mirror images: (B, orientations, 2 z, h, w)."""
    return torch.stack(
        [encoder(image.flip(-1) if mirrored else image) for mirrored in range(orientations)], 1
    )


def _try(work: Callable[[], None]) -> str | None:
    """What a refusal says: every rank has to hear it."""
    try:
        return work()
    except Refusal as refusal:
        return str(refusal)
