"""The data of a run for Lightning's Trainer: loaders that know rank, world and the step."""

from collections.abc import Iterable
from typing import cast

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from ldm.config import RunConfig
from ldm.system.batches import RowSet, Shard, Slots, loader
from ldm.system.data import DataSet


class RunData(pl.LightningDataModule):
    """Training batches are a function of (seed, step, slot); validation covers each row once."""

    trainer: pl.Trainer  # there before a loader is asked for

    def __init__(self, config: RunConfig, images: DataSet):
        super().__init__()
        self.config, self.images = config, images
        self.train: RowSet = images.train  # or a latent cache of it

    def _loader(self, rows: RowSet, batches: Iterable[list[int]]) -> DataLoader:
        pin = self.trainer.strategy.root_device.type == "cuda"
        return loader(rows, batches, self.config.data.workers, pin)

    def _once(self, rows: RowSet) -> DataLoader:
        size, trainer = self.config.data.batch_size, self.trainer
        return self._loader(rows, Shard(len(rows), size, trainer.global_rank, trainer.world_size))

    def train_dataloader(self) -> DataLoader:
        run, trainer = self.config.trainer, self.trainer
        batches = Slots(
            n=len(self.train),
            size=self.config.data.batch_size,
            seed=self.config.seed,
            steps=run.max_steps,
            accumulate=run.accumulate,
            rank=trainer.global_rank,
            world=trainer.world_size,
            first_step=lambda: trainer.global_step,
        )
        return self._loader(self.train, batches)

    def whole_training_set(self) -> DataLoader:
        """This rank's share of every training row, once: what is measured over the data set."""
        return self._once(self.train)

    def val_dataloader(self) -> DataLoader:
        return self._once(self.images.held_out)


def data_of(trainer: pl.Trainer) -> RunData:
    """What a Trainer trains on."""
    return cast(RunData, trainer.datamodule)  # type: ignore[attr-defined]  # Lightning sets it
