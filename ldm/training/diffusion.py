"""LightningModule 2: the denoiser, in latent space (stage 2) or on pixels (the baseline)."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from ldm.checkpoints import checkpoint
from ldm.config import AutoencoderConfig, DiffusionConfig, schema
from ldm.errors import Refusal
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.text import TextEncoder
from ldm.pictures.masks import Key
from ldm.sampling.conditions import without
from ldm.sampling.model import Model, build_denoiser
from ldm.system import randomness
from ldm.system.batches import Batch, places
from ldm.training.latents import use_cache
from ldm.training.stage import Stage, say


class DiffusionModule(Stage):
    """Algorithm 1 (Ho et al. 2020): x_t = alpha_t x_0 + sigma_t eps, and the denoiser's loss on it."""

    stage, trained = "diffusion", "denoiser.net"

    def __init__(
        self,
        config: DiffusionConfig,
        shape: tuple[int, ...],
        classes: tuple[str, ...],
        autoencoder: Autoencoder | None = None,
        autoencoder_config: AutoencoderConfig | None = None,
        text: TextEncoder | None = None,
        prompts: tuple[str, ...] = (),
    ):
        super().__init__(config, shape, classes)
        config.task.check(self.shape)
        self.text, self.prompts = text, prompts
        self.space = config.space.build(
            self.shape, autoencoder, len(classes), config.network.features
        )
        self.denoiser = build_denoiser(config, self.space.shape, len(classes), text)
        self.autoencoder_config = autoencoder_config
        self.autoencoder_hash = _hash(autoencoder)
        self.start_ema()

    def model(self) -> Model:
        """What sampling needs of this module, as it is now."""
        told = self.text, self.prompts, self.config.task
        return Model(
            self.denoiser, self.space, self.classes, self.config.sample, self.global_step, *told
        )

    def once(self) -> Tensor:
        x = next(self.net.parameters()).new_zeros(self.few, *self.space.shape)
        cond = (
            {"label": torch.zeros(self.few, dtype=torch.long, device=x.device)}
            if self.classes
            else {}
        )
        if self.text is not None:
            cond["text"] = x.new_zeros(self.few, self.text.length, self.text.dim)
        if channels := self.config.task.channels(len(x[0])):
            cond["concat"] = x.new_zeros(self.few, channels, *x.shape[2:])
        return self.denoiser.run(x, x.new_zeros(()), x.new_ones(()), **cond)

    # -- hand-off ---------------------------------------------------------------------------------------------------
    def on_fit_start(self) -> None:
        """Cache latents; measure the space and verify stage 1, unless both come from a checkpoint that is being resumed."""
        batch = next(
            iter(self.trainer.datamodule.whole_training_set())
        )  # of data, not of cached latents
        # a trained task needs the pictures
        if self.config.space.cached and self.config.task.use is None:
            use_cache(self)
        if self.space.measured and self.trainer.ckpt_path is None:
            self.measure()
            self.verify(batch)

    def measure(self) -> None:
        """The space's statistics (whitening; scales and numbers of clouds) over the training set, every rank its share."""
        batches = self.trainer.datamodule.whole_training_set()
        quiet, pause = not self.trainer.is_global_zero, 0.1 if sys.stderr.isatty() else 10
        bar = tqdm(
            batches, desc="measuring the data", disable=quiet, leave=False, mininterval=pause
        )
        say(
            self.space.measure(
                bar, lambda sums: self.trainer.strategy.reduce(sums, reduce_op="sum"), self.device
            )
        )

    def verify(self, batch: Batch) -> None:
        """A batch through the space and back: Refusal of a stage 1 in whose latents nothing can be learnt."""
        lines = self.space.verify(
            self.space.read(batch).to(self.device), self.trainer.strategy.reduce
        )
        for i, line in enumerate(lines):
            say(line if i else f"autoencoder {self.autoencoder_hash}: {line}")

    # -- training ---------------------------------------------------------------------------------------------------
    def condition(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The batch's labels, captions and what else may be dropped; with a generator, each row is, with probability `drop`."""
        cond = ({"label": batch["label"]} if self.classes else {}) | self.space.features(batch)
        if self.text is not None:
            cond |= self.text.condition(batch["text"], self.device)
        if generator is None or not cond:
            return cond
        dropped = (
            torch.rand(len(batch["index"]), generator=generator, device=self.device)
            < self.config.drop
        )
        return without(cond, dropped, len(self.classes))

    def left(self, data: Tensor, keys: Sequence[Key]) -> dict[str, Tensor]:
        """What a trained task tells of the batch's pictures, or nothing."""
        task = self.config.task
        return task.tell(self.space, *task.degrade(data, keys))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        told, data = self.space.told(batch), self.training_images(batch, batch_idx)
        x_0 = self.space.encode(data, self.randn("posterior", batch_idx), **told)
        rows = places(self.global_step, *self.slot(batch_idx), len(data))
        told |= self.left(data, [(self.config.seed, "hole", place) for place in rows])
        # times are one stratified set over all micro-batches and ranks of the step
        key = (self.config.seed, "times", self.global_step)
        u = randomness.stratified(len(x_0), *self.slot(batch_idx), *key).to(self.device)
        t = self.denoiser.times(u)
        eps = self.randn("noise", batch_idx)(x_0.shape)
        losses = self.denoiser.loss(
            x_0, t, eps, **told, **self.condition(batch, self.generator("drop", batch_idx))
        )
        loss = losses.mean()
        self.log_by_time(losses.detach(), u)
        self.note_loss({"loss": loss, "x_0": x_0}, batch)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def log_by_time(self, losses: Tensor, u: Tensor) -> None:
        """The loss in eight bins of time, 0 nearest the data: where a model is still learning."""
        bins = (u * 8).long()
        sums = losses.new_zeros(8).index_add(0, bins, losses)
        counts = losses.new_zeros(8).index_add(0, bins, torch.ones_like(losses))
        self.log_dict({f"loss_by_time/{i}": v for i, v in enumerate(sums / counts)})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss of the averaged weights with noise and times that are the same every time."""
        generator = randomness.generator(
            self.config.seed, "validation", batch_idx, self.global_rank
        )
        draw = lambda shape: torch.randn(shape, generator=generator).to(self.device)  # noqa: E731
        told, data = self.space.told(batch), self.space.read(batch)
        x_0 = self.space.encode(self.watch_posterior(data), draw, **told)
        told |= self.left(
            data, [(self.config.seed, "held-out hole", i) for i in batch["index"].tolist()]
        )
        u = randomness.stratified(
            len(x_0), 0, 1, self.config.seed, "validation times", batch_idx
        ).to(self.device)
        with self.averaged():
            loss = self.denoiser.loss(
                x_0, self.denoiser.times(u), draw(x_0.shape), **told, **self.condition(batch)
            )
        self.log("val/loss", loss.mean(), sync_dist=True, batch_size=len(x_0))
        for name, value in self.space.statistics(x_0).items():
            self.log(f"val/{name}", value, sync_dist=True, batch_size=len(x_0))

    def watch_posterior(self, data: Tensor) -> Tensor:
        """Latents' moments in place of pictures, taken note of for `val/latent_explained`; other data as they are."""
        moments = self.space.posterior(data)
        if moments is None:
            return data
        self.note_posterior(moments)
        return moments[:, None]

    def configure_optimizers(self) -> Optimizer:
        return self.adamw(self.denoiser.net, self.config.optim.lr)

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        self.clip(self.denoiser.net, "grad_norm")

    def about_autoencoder(self) -> dict[str, Any] | None:
        if self.autoencoder_config is None:
            return None
        return {"config": schema.to_dict(self.autoencoder_config), "hash": self.autoencoder_hash}

    def about_text(self) -> dict[str, Any] | None:
        """The text encoder's hash, and the prompts of samples that are given none."""
        return {"hash": self.text.hash, "prompts": list(self.prompts)} if self.text else None

    def on_save_checkpoint(self, state: dict[str, Any]) -> None:
        super().on_save_checkpoint(state)
        state["ldm"]["text"] = self.about_text()

    def on_load_checkpoint(self, state: dict[str, Any]) -> None:
        before = (state["ldm"].get("text") or {}).get("hash")
        if self.text is not None and before != self.text.hash:
            raise Refusal(
                f"--resume: the text encoder is {self.text.hash} here, the run began with {before}"
            )
        super().on_load_checkpoint(state)


def _hash(autoencoder: Autoencoder | None) -> str | None:
    """Of its weights; None where there are none, or no more than their shapes."""
    weights = autoencoder.state_dict() if autoencoder else {}
    known = weights and not any(weight.is_meta for weight in weights.values())
    return checkpoint.fingerprint(weights.items()) if known else None
