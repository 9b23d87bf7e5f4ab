"""What both LightningModules share: keyed randomness, the learning rate, clipping, averaging, what is saved."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from ldm import errors
from ldm.checkpoints import checkpoint
from ldm.checkpoints.averaging import WIDTHS
from ldm.config import Optim, RunConfig, schema
from ldm.errors import NotFinite
from ldm.pictures.space import ChannelStatistics
from ldm.sampling.model import Space
from ldm.system import randomness, threads
from ldm.system.batches import Batch
from ldm.training.ema import EMA


@rank_zero_only
def say(text: str) -> None:
    """A line for the person who watches, once and not once a rank."""
    errors.say(text)


def learning_rate(optim: Optim, step: int, max_steps: int) -> float:
    """Linear warm-up, then constant, cosine or linear to 0 at max_steps: a pure function of the step."""
    warm = min(1.0, (step + 1) / max(1, optim.warmup))
    left = min(1.0, max(0.0, (max_steps - step) / max(1, max_steps - optim.warmup)))
    shape = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[
        optim.decay
    ]
    return optim.lr * warm * shape


class Stage(pl.LightningModule):
    """A stage of training. Its optimiser steps are Lightning's global_step, in both stages."""

    stage: str  # its name in config.STAGES
    trained: str  # the attribute path of the network that is trained and averaged
    space: Space  # knows what a batch holds

    def __init__(self, config: RunConfig, shape: tuple[int, int, int], classes: tuple[str, ...]):
        super().__init__()
        self.config, self.shape, self.classes = config, tuple(shape), tuple(classes)
        self.run_id: str | None = None
        self.data_about: dict[str, Any] = {}  # how the data's files were read
        self.data: dict[str, Any] = {}  # what a checkpoint keeps of the data (resume.py)
        self.ema: EMA | None = None
        self.images_seen = 0
        self.skipped = 0
        self.noted: list[tuple[dict[str, Tensor], Tensor]] = []
        self.posteriors: ChannelStatistics | None = None  # of a validation's pictures

    @property
    def net(self) -> nn.Module:
        """The network that is trained, averaged and saved under its own name."""
        return self.get_submodule(self.trained)

    @property
    def few(self) -> int:
        """Rows of a batch to try: one alone has no spread where a level has one pixel."""
        return min(2, self.config.data.batch_size)

    def once(self) -> Tensor:
        """The answer of all networks to a `few` pictures of zeros: what a step asks of them."""
        raise NotImplementedError

    def start_ema(self) -> None:
        """Called once the network is built."""
        optim = self.config.optim
        decays, widths = (optim.ema, *optim.ema_more), WIDTHS if optim.posthoc else ()
        self.ema = EMA(self.net, decays, widths) if optim.ema else None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network has its averaged weights (or its own, if none are kept)."""
        with self.ema.applied() if self.ema else nullcontext():
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the averaged weights in evaluation mode."""
        training = self.training
        self.eval()
        with self.averaged():
            yield
        self.train(training)

    # -- randomness -------------------------------------------------------------------------------------------------
    def slot(self, batch_idx: int) -> tuple[int, int]:
        """This micro-batch's place among the step's: slot j of n, j = micro-batch * processes + rank."""
        accumulate, world = self.config.trainer.accumulate, self.trainer.world_size
        return batch_idx % accumulate * world + self.global_rank, accumulate * world

    def generator(self, purpose: str, batch_idx: int) -> torch.Generator:
        """A generator for one purpose in this step and slot, the same after a resume and for any device count."""
        key = (self.config.seed, purpose, self.global_step, self.slot(batch_idx)[0])
        return randomness.generator(*key, device=self.device)

    def randn(self, purpose: str, batch_idx: int) -> Callable[[tuple[int, ...]], Tensor]:
        """Standard normal draws from `generator(purpose, batch_idx)`."""
        generator = self.generator(purpose, batch_idx)
        return lambda shape: torch.randn(shape, generator=generator, device=self.device)

    def training_images(self, batch: Batch, batch_idx: int) -> Tensor:
        """What the batch holds, half of it mirrored if the data says so: pictures in [-1, 1], or jets' constituents."""
        data = self.space.read(batch)
        return (
            self.space.mirror(data, self.generator("flip", batch_idx))
            if self.config.data.flip
            else data
        )

    # -- optimisation -----------------------------------------------------------------------------------------------
    def adamw(self, net: nn.Module, lr: float) -> torch.optim.Optimizer:
        optim = self.config.optim
        return torch.optim.AdamW(
            net.parameters(), lr, tuple(optim.betas), weight_decay=optim.weight_decay, fused=True
        )

    @property
    def learning_rate_now(self) -> float:
        return learning_rate(self.config.optim, self.global_step, self.config.trainer.max_steps)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        threads.tick()
        optimizers = self.optimizers(use_pl_optimizer=False)
        first = (
            optimizers[0] if isinstance(optimizers, list) else optimizers
        )  # a discriminator has a rate of its own
        for group in first.param_groups:
            group["lr"] = self.learning_rate_now
        self.place_log(batch_idx)
        self.log_dict({"train/lr": self.learning_rate_now, "step": float(self.global_step)})

    def on_validation_batch_start(self, batch: Batch, batch_idx: int) -> None:
        threads.tick()

    def on_validation_epoch_start(self) -> None:
        self.posteriors = None

    def note_posterior(self, moments: Tensor) -> None:
        """Of a validation's batch, (B, 2 z, h, w)."""
        self.posteriors = self.posteriors or ChannelStatistics(moments.shape[1] // 2, self.device)
        self.posteriors.add(moments)

    def on_validation_epoch_end(self) -> None:
        # Lightning's own axis counts micro-batches under manual optimisation
        self.log("step", float(self.global_step))
        if self.posteriors is not None:  # on every rank: each has a share of the pictures
            explained = self.posteriors.result(
                lambda sums: self.trainer.strategy.reduce(sums, reduce_op="sum")
            )[2]
            self.log_dict(
                {f"val/latent_explained/{i}": share for i, share in enumerate(explained.tolist())}
            )
            self.posteriors_told(explained)

    def posteriors_told(self, explained: Tensor) -> None:
        """What a stage says of the share (z,) of latents' variance that the held-out pictures explain."""

    def clip(self, net: nn.Module, name: str) -> None:
        """Clip the gradient's norm, log it as it was before, and check it.

        Processes have exchanged gradients by now, so a number that is not finite in one of them is seen by all.
        """
        limit = self.config.optim.clip or float("inf")
        norm = nn.utils.clip_grad_norm_(net.parameters(), limit, foreach=True)
        self.log_dict({f"train/{name}": norm, f"train/{name}_clipped": (norm > limit).float()})
        if not torch.isfinite(norm):
            self.refuse_step(norm)

    def note_loss(self, parts: dict[str, Tensor], batch: Batch) -> None:
        """Remember a micro-batch's losses and rows, to name them if the step turns out not to be finite."""
        self.noted.append(({k: v.detach() for k, v in parts.items()}, batch["index"]))

    def refuse_step(self, norm: Tensor) -> None:
        """Stop before the step (or leave it out and count, with trainer.on_nan=skip), saying what was in it."""
        if self.config.trainer.on_nan == "skip":
            self.skipped += 1
            self.log("train/skipped_steps", float(self.skipped))
            for parameter in self.parameters():
                parameter.grad = None
            return
        bad = [
            x for x in self.noted if not all(torch.isfinite(v).all() for v in x[0].values())
        ] or self.noted
        said = "; ".join(
            f"{', '.join(f'{k} {v.mean():.4g}' for k, v in p.items())}, rows {i[:8].tolist()}"
            for p, i in bad
        )
        raise NotFinite(
            f"the gradient is not finite ({norm:.4g}) at step {self.global_step}: {said}; "
            + (
                "the state before this step is saved: lower optim.lr and --resume"
                if self.global_step
                else "lower optim.lr"
            )
            + ", or set trainer.on_nan=skip"
        )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's, then the average: here and not at the batch's end, where callbacks have already saved."""
        super().optimizer_step(*args, **kwargs)
        self.step_done()

    def step_done(self) -> None:
        """After each optimiser step of either stage."""
        trainer = self.config.trainer
        self.images_seen += (
            self.config.data.batch_size * trainer.accumulate * self.trainer.world_size
        )
        self.noted.clear()
        if self.ema:
            self.ema.update()

    # -- what is saved ----------------------------------------------------------------------------------------------
    def about_autoencoder(self) -> dict[str, Any] | None:
        """Stage 1's config and hash, in stage 2's checkpoint."""
        return None

    def on_save_checkpoint(self, state: dict[str, Any]) -> None:
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
        threads.begin_with(state["ldm"].get("threads"))
        with checkpoint.malformed(self.config.folder):
            self.images_seen, self.skipped = (
                state["ldm"]["images_seen"],
                state["ldm"].get("skipped", 0),
            )
            if self.ema and state["ldm"]["ema"]:
                self.ema.restore(state["ldm"]["ema"])
            self.place_loop(state)

    def place_loop(self, state: dict[str, Any]) -> None:
        """Put Lightning's counters at the first micro-batch of the step to come.

        Its own are one behind when training was stopped between a step and the batch's last hook, and count other
        micro-batches when the run goes on with another `accumulate`.
        """
        micro = state["global_step"] * self.config.trainer.accumulate
        loop = state["loops"]["fit_loop"]
        for counters in (
            loop["epoch_loop.batch_progress"]["current"],
            loop["epoch_loop.batch_progress"]["total"],
        ):
            counters.update(dict.fromkeys(("ready", "started", "processed", "completed"), micro))

    def place_log(self, batch_idx: int) -> None:
        """The step, or micro-batch, by which Lightning decides what row is logged and which it is.

        Its own count is one ahead after a resume at a step that was validated: it goes through the end of that step twice.
        """
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = (
            self.global_step if self.automatic_optimization else batch_idx
        )
