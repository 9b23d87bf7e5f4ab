"""Encode a run's captions once, all ranks together, and keep them on the disk."""

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor

from ldm.errors import say
from ldm.networks.captions import CaptionStore, blocks_of, write_block
from ldm.networks.text import TextEncoder
from ldm.system import threads
from ldm.system.progress import Bar
from ldm.training.data import data_of
from ldm.training.ranks import announce

BATCH = 64  # captions at once


def store_captions(trainer: pl.Trainer, text: TextEncoder) -> None:
    """Give the encoder the states of the run's captions, encoded first where they are missing.

    In OUTPUT/captions/HASH of the encoder: other runs of the same encoder read them too.
    """
    data, strategy = data_of(trainer), trainer.strategy
    folder = Path(data.config.output) / "captions" / text.hash
    captions = {*data.images.train.captions, *data.images.held_out.captions}
    text.store = store = CaptionStore(folder, text.dim)
    blocks = blocks_of(captions, store)
    strategy.barrier()  # all have looked before one writes
    _write(blocks[trainer.global_rank :: trainer.world_size], folder, text, trainer)
    strategy.barrier()
    store.look()
    if blocks and not blocks_of(captions, store):
        announce(f"text: {sum(map(len, blocks))} captions encoded into {folder}")
    elif blocks:
        rank = trainer.global_rank
        say(f"text: process {rank} does not see all captions in {folder}: it encodes as it goes")


def _write(
    blocks: Sequence[Sequence[str]], folder: Path, text: TextEncoder, trainer: pl.Trainer
) -> None:
    """This rank's share; where the disk is full, captions are encoded as they come."""
    hidden = trainer.global_rank > 0 or not blocks
    total = sum(map(len, blocks))
    with Bar("captions", total, "captions", disable=hidden) as bar:
        for block in blocks:
            states = encoded(text, block, trainer.strategy.root_device, bar)
            try:
                write_block(folder, block, states)
            except OSError as error:
                return say(f"text: captions are not kept in {folder} ({error.strerror or error})")


def encoded(
    text: TextEncoder, captions: Sequence[str], device: torch.device, bar: Bar
) -> list[Tensor]:
    """Each caption's states; in batches of equal length, as near as can be."""
    order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), BATCH):
        threads.tick()
        rows = order[start : start + BATCH]
        found |= zip(rows, text.encode([captions[i] for i in rows], device), strict=True)
        bar.update(len(rows))
    return [found[i] for i in range(len(captions))]
