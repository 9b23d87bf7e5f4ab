"""What both LightningModules share: randomness, learning rate, clipping, averaging, saving."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.checkpoints import checkpoint
from ldm.checkpoints.averaging import WIDTHS
from ldm.checkpoints.safe import malformed
from ldm.config import RunConfig, schema
from ldm.diffusion.space import Shape, Space
from ldm.networks.quick import eager
from ldm.pictures.space import ChannelStatistics
from ldm.system import randomness, threads
from ldm.system.batches import Batch
from ldm.system.device import Later
from ldm.training.counters import place_batches, take_back
from ldm.training.ema import EMA
from ldm.training.rate import learning_rate
from ldm.training.readings import Readings, Row, write_row
from ldm.training.unsettled import Noted, Unsettled, guard


class Stage(pl.LightningModule):
    """A stage of training. Its optimiser steps are Lightning's global_step, in both stages."""

    stage: str  # its name in config.STAGES
    trained: str  # the attribute path of the network that is trained and averaged
    monitor: tuple[str, str]  # the figure of validation that best.ckpt goes by, and min or max
    config: RunConfig
    space: Space  # knows what a batch holds

    def __init__(self, config: RunConfig, shape: Shape, classes: tuple[str, ...]):
        super().__init__()
        self.config, self.shape, self.classes = config, tuple(shape), tuple(classes)
        self.run_id: str | None = None
        self.data_about: dict[str, Any] = {}  # how the data's files were read
        self.data: dict[str, Any] = {}  # what a checkpoint keeps of the data (resume.py)
        self.ema: EMA | None = None
        self.images_seen = 0
        self.skipped = 0
        self.noted: list[Noted] = []
        self.norms: list[Tensor] = []  # of this step's gradients
        self.unsettled: Unsettled | None = None
        self.posteriors: ChannelStatistics | None = None  # of a validation's pictures
        self.readings, self.row = Readings(), Row()  # of the latest step; the last row written

    @property
    def net(self) -> nn.Module:
        """The network that is trained, averaged and saved under its own name."""
        return self.get_submodule(self.trained)

    @property
    def beside(self) -> list[nn.Module]:
        """Frozen networks of the loss that are no part of the module."""
        return []

    @cached_property
    def drops(self) -> bool:
        """Whether the network has dropout."""
        layers = (layer for layer in self.net.modules() if isinstance(layer, nn.Dropout))
        return any(layer.p > 0 for layer in layers)

    @property
    def worked(self) -> list[nn.Module]:
        """The networks that a training step runs."""
        return [self.net]

    @property
    def few(self) -> int:
        """Rows of a batch to try: one alone has no spread where a level has one pixel."""
        return min(2, self.config.data.batch_size)

    def once(self) -> list[Tensor]:
        """The answers of all networks to a `few` pictures of zeros: what a step asks of them."""
        raise NotImplementedError

    @property
    def panel(self) -> str:
        """Which of panels.PANELS shows how the run is doing."""
        raise NotImplementedError

    def describe(self) -> str:
        """What the plan shows of the stage beside its name."""
        return self.stage

    def farewell(self) -> str:
        """What a user does next with the finished run."""
        raise NotImplementedError

    def start_ema(self) -> None:
        """Called once the network is built."""
        optim = self.config.optim
        decays, widths = (optim.ema, *optim.ema_more), WIDTHS if optim.posthoc else ()
        self.ema = EMA(self.net, decays, widths) if optim.ema else None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network has its averaged weights (or its own, if none are kept)."""
        self.settle()
        with self.ema.applied() if self.ema else nullcontext():
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the averaged weights in evaluation mode, eager."""
        training = self.training
        self.eval()
        with eager(), self.averaged():
            yield
        self.train(training)

    # -- randomness -------------------------------------------------------------------------------
    def slot(self, batch_idx: int) -> tuple[int, int]:
        """This micro-batch's place in the step: slot j of n, j = micro-batch * processes + rank."""
        accumulate, world = self.config.trainer.accumulate, self.trainer.world_size
        return batch_idx % accumulate * world + self.global_rank, accumulate * world

    def generator(self, purpose: str, batch_idx: int) -> torch.Generator:
        """For one purpose in this step and slot: the same after a resume, on any devices."""
        key = (self.config.seed, purpose, self.global_step, self.slot(batch_idx)[0])
        return randomness.generator(*key, device=self.device)

    def randn(self, purpose: str, batch_idx: int) -> Callable[[Shape], Tensor]:
        """Standard normal draws from `generator(purpose, batch_idx)`."""
        generator = self.generator(purpose, batch_idx)
        return lambda shape: torch.randn(shape, generator=generator, device=self.device)

    def training_images(self, batch: Batch, batch_idx: int) -> Tensor:
        """Pictures in [-1, 1] or jets' constituents, half of them mirrored if data.flip is set."""
        data = self.space.read(batch)
        if not self.config.data.flip:
            return data
        return self.space.mirror(data, self.generator("flip", batch_idx))

    # -- optimisation -----------------------------------------------------------------------------
    def adamw(self, net: nn.Module, lr: float) -> torch.optim.Optimizer:
        """The optimiser of a network."""
        (beta1, beta2), decay = self.config.optim.betas, self.config.optim.weight_decay
        parameters = net.parameters()
        return torch.optim.AdamW(parameters, lr, (beta1, beta2), weight_decay=decay, fused=True)

    def stepped(self, step: int) -> list[bool]:
        """Of each optimiser, whether it has made a step by then."""
        return [step > 0]

    @property
    def learning_rate_now(self) -> float:
        return learning_rate(self.config.optim, self.global_step, self.config.trainer.max_steps)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        threads.tick()
        optimizers = self.optimizers(use_pl_optimizer=False)
        # a discriminator has a rate of its own
        first = optimizers[0] if isinstance(optimizers, list) else optimizers
        self.readings["train/lr"] = rate = self.learning_rate_now
        for group in first.param_groups:
            group["lr"] = rate
        if self.drops:  # layers draw from PyTorch's own generators
            place = self.global_step, self.slot(batch_idx)[0]
            torch.manual_seed(randomness.seed_of(self.config.seed, "dropout", *place))

    def ends_step(self, batch_idx: int) -> bool:
        """Whether a micro-batch is the last of its step."""
        return (batch_idx + 1) % self.config.trainer.accumulate == 0

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Write the step's row if it is one of every n, or the last: after all callbacks."""
        trainer = self.trainer
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it
        written = trainer.should_stop or (every and self.global_step % every == 0)
        if not (written and self.ends_step(batch_idx)):
            return
        self.settle()
        if trainer.is_global_zero:
            self.row = self.readings.row()
            write_row(trainer.loggers, self.row, self.global_step - 1)

    def on_validation_batch_start(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        threads.tick()

    def on_validation_epoch_start(self) -> None:
        self.posteriors = None

    def note_posterior(self, moments: Tensor) -> None:
        """Of a validation's batch, (B, 2 z, h, w)."""
        self.posteriors = self.posteriors or ChannelStatistics(moments.shape[1] // 2, self.device)
        self.posteriors.add(moments)

    def summed(self, sums: Tensor) -> Tensor:
        """Over all processes."""
        return self.trainer.strategy.reduce(sums, reduce_op="sum")

    def gathered(self, rows: Tensor) -> Tensor:
        """(n, ...) of this process -> (processes, n, ...)."""
        return cast(Tensor, self.all_gather(rows)).reshape(-1, *rows.shape)

    def on_validation_epoch_end(self) -> None:
        # Lightning's own axis counts micro-batches under manual optimisation
        self.log("step", float(self.global_step))
        if self.posteriors is not None:  # on every rank: each has a share of the pictures
            explained = self.posteriors.result(self.summed)[2]
            shares = enumerate(explained.tolist())
            self.log_dict({f"val/latent_explained/{i}": share for i, share in shares})
            self.report_explained(explained)

    def report_explained(self, explained: Tensor) -> None:
        """What to say of the share (z,) of latents' variance that held-out pictures explain."""

    def clip(self, optimizer: Optimizer, name: str) -> None:
        """Clip the norm of what an optimiser is to apply; its reading is as it was before.

        Processes have exchanged gradients by now: all see what is not finite in one of them.
        """
        limit = self.config.optim.clip or float("inf")
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, limit, foreach=True)
        self.norms.append(norm)
        self.readings[f"train/{name}"] = norm
        self.readings[f"train/{name}_clipped"] = lambda: norm > limit

    def note_loss(self, parts: dict[str, Tensor], batch: Batch) -> None:
        """Remember a micro-batch's losses and rows, to name them if the step is not finite."""
        self.noted.append(({k: v.detach() for k, v in parts.items()}, batch["index"]))

    def guard(self, optimizers: Sequence[Optimizer]) -> Tensor:
        """Between clipping and the step, which is left out on the device if this is 1, not 0."""
        norms, self.norms = torch.stack(self.norms), []
        noted, self.noted = self.noted, []
        self.settle()
        self.unsettled = Unsettled(self.global_step, Later(norms), noted)
        return guard(optimizers, norms)

    def settle(self) -> None:
        """Finish the last step, now that its gradient is known to be finite: count and average it.

        Before the next step, and before whoever looks at the state, on all processes alike. If it
        is not finite: NotFinite, with the state as before it, or on_nan=skip counts it.
        """
        step, self.unsettled = self.unsettled, None
        if step is None:
            return
        if (norm := step.bad()) is not None:
            self.refuse(step, norm)
        slots = self.config.trainer.accumulate * self.trainer.world_size
        self.images_seen += self.config.data.batch_size * slots
        if self.ema:
            self.ema.update()

    def refuse(self, step: Unsettled, norm: float) -> None:
        """Take Lightning's count back and stop; on_nan=skip counts the step as left out."""
        if self.config.trainer.on_nan == "skip":
            self.skipped += 1
            self.readings["train/skipped_steps"] = self.skipped
            return
        take_back(self.trainer, self.automatic_optimization, self.global_step - step.number)
        raise step.refusal(norm)

    # -- what is saved ----------------------------------------------------------------------------
    def about_autoencoder(self) -> dict[str, Any] | None:
        """Stage 1's config and hash, in stage 2's checkpoint."""
        return None

    def on_save_checkpoint(self, state: dict[str, Any]) -> None:
        self.settle()
        state["ldm"] = {
            "version": checkpoint.VERSION,
            "stage": self.stage,
            "config": schema.to_dict(self.config),
            "shape": list(self.shape),
            "classes": list(self.classes),
            "data": self.data,
            "trained": self.trained,
            "view": self.data_about,
            "ema": self.ema.state() if self.ema else None,
            "autoencoder": self.about_autoencoder(),
            "images_seen": self.images_seen,
            "skipped": self.skipped,
            "slots": self.config.trainer.accumulate * self.trainer.world_size,
            "wandb_id": self.run_id,
            "threads": torch.get_num_threads(),
        }

    def on_load_checkpoint(self, state: dict[str, Any]) -> None:
        meta = state["ldm"]
        threads.begin_with(meta.get("threads"))
        with malformed(self.config.folder):
            self.images_seen, self.skipped = meta["images_seen"], meta.get("skipped", 0)
            if self.ema and meta["ema"]:
                self.ema.restore(meta["ema"])
            place_batches(state, self.config.trainer.accumulate)
