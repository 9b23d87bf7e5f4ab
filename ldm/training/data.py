"""The data of a run for Lightning's Trainer: loaders that know rank, world and the step to start from."""

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from ldm.config import RunConfig
from ldm.system.batches import Shard, Slots, loader
from ldm.system.data import DataSet, Rows


class RunData(pl.LightningDataModule):
    """Training batches are a function of (seed, step, slot); validation covers every held-out picture or jet once."""

    def __init__(self, config: RunConfig, images: DataSet):
        super().__init__()
        self.config, self.images = config, images
        self.train: Rows = images.train  # or a latent cache of it

    def _pin(self) -> bool:
        return self.trainer.strategy.root_device.type == "cuda"

    def train_dataloader(self) -> DataLoader:
        data, run, trainer = self.config.data, self.config.trainer, self.trainer
        batches = Slots(
            n=len(self.images.train),
            size=data.batch_size,
            seed=self.config.seed,
            steps=run.max_steps,
            accumulate=run.accumulate,
            rank=trainer.global_rank,
            world=trainer.world_size,
            first_step=lambda: trainer.global_step,
        )
        return loader(self.train, batches, data.workers, self._pin())

    def whole_training_set(self) -> DataLoader:
        """This rank's share of every training picture or latent, once: what is measured over the data set."""
        shard = Shard(
            len(self.images.train),
            self.config.data.batch_size,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        return loader(self.train, shard, self.config.data.workers, self._pin())

    def val_dataloader(self) -> DataLoader:
        held_out = self.images.held_out
        shard = Shard(
            len(held_out),
            self.config.data.batch_size,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        return loader(held_out, shard, self.config.data.workers, self._pin())
