"""LightningModule 2: the denoiser, in latent space (stage 2) or on pixels (the baseline)."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.checkpoints.weights import hash_of_weights, load_strict, under
from ldm.config import DiffusionConfig, schema
from ldm.diffusion.denoiser import Denoiser, Draw, Teacher
from ldm.diffusion.space import Shape
from ldm.diffusion.tasks import cfg
from ldm.errors import Refusal, command
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.quick import eagerly
from ldm.pictures.masks import Key
from ldm.pictures.space import LatentSpace, PictureSpace
from ldm.sampling.conditions import KEPT, without
from ldm.sampling.guides import guide_of
from ldm.sampling.model import Model, build_denoiser
from ldm.sampling.worse import Worse
from ldm.system import randomness
from ldm.system.batches import Batch, stream_places
from ldm.system.device import send
from ldm.system.progress import shown
from ldm.training.captions import store_captions
from ldm.training.data import data_of
from ldm.training.given import Captions
from ldm.training.latents import use_cache
from ldm.training.origin import Origin
from ldm.training.ranks import announce
from ldm.training.stage import Stage
from ldm.training.stage1 import Stage1


class DiffusionModule(Stage):
    """Algorithm 1 (Ho et al. 2020): x_t = alpha_t x_0 + sigma_t eps, and the loss on it."""

    stage, trained = "diffusion", "denoiser.net"
    monitor = "val/loss", "min"
    config: DiffusionConfig

    def __init__(
        self,
        config: DiffusionConfig,
        shape: Shape,
        classes: tuple[str, ...],
        stage1: Stage1 | None = None,
        captions: Captions | None = None,
        origin: Origin | None = None,
    ):
        super().__init__(config, shape, classes)
        config.task.check(self.shape)
        self.text = captions.encoder if captions else None
        self.prompts = captions.prompts if captions else ()
        autoencoder, features = stage1.autoencoder if stage1 else None, config.network.features
        self.space = config.space.build(self.shape, autoencoder, len(classes), features)
        self.denoiser = build_denoiser(config, self.space.shape, len(classes), self.text)
        self.autoencoder_config = stage1.config if stage1 else None
        self.autoencoder_hash = _hash(autoencoder)
        self.origin = origin
        self.guide: Worse | None = None  # what panels' samples are guided away from; see `lead`
        if origin:
            self.space.load_state_dict(origin.model.space.state_dict())
            load_strict(self.net, origin.model.denoiser.net.state_dict(), "init")
        self.start_ema()

    def model(self) -> Model:
        """What sampling needs of this module, as it is now."""
        config, step = self.config, self.global_step
        rest = self.text, self.prompts, config.task
        features, sample = config.network.features, config.sample
        model = Model(self.denoiser, self.space, self.classes, sample, step, *rest)
        guide = self.guide or self.averaged_guide()
        guides = {} if guide is None else {sample.guide: guide}
        return replace(model, features=features, guides=guides)

    def averaged_guide(self) -> Worse | None:
        """Another average of this run as it is now: `sample.guide.weights`, if it is one."""
        which = self.config.sample.guide
        if which.run is not None or which.weights is None or self.ema is None:
            return None
        net = copy.deepcopy(self.net)
        net.load_state_dict(net.state_dict() | self.ema.decays[which.decay])
        frozen = Denoiser(net, self.denoiser.schedule, self.denoiser.loss_config)
        return Worse(frozen.eval().requires_grad_(False), "of this run")

    def once(self) -> list[Tensor]:
        x = next(self.net.parameters()).new_zeros(self.few, *self.space.shape)
        cond = {name: part.to(x.device) for name, part in self.space.rows(self.few).items()}
        if self.classes:
            cond["label"] = torch.zeros(self.few, dtype=torch.long, device=x.device)
        if self.text is not None:
            cond["text"] = x.new_zeros(self.few, self.text.length, self.text.dim)
        if channels := self.config.task.channels(len(x[0])):
            cond["concat"] = x.new_zeros(self.few, channels, *x.shape[2:])
        return [self.denoiser.run(x, x.new_zeros(()), x.new_ones(()), **cond)]

    @property
    def panel(self) -> str:
        return "task" if self.config.task.use else self.config.data.modality

    def describe(self) -> str:
        space = f"{type(self.config.space).__name__} {tuple(self.space.shape)}"
        use = self.config.task.use
        return f"{self.stage}, space {space}" + (f", trained for {use}" if use else "")

    def farewell(self) -> str:
        run = self.config
        sample = f"{command('sample')} --checkpoint {run.folder} --output samples/{run.name}"
        return f"finished. To sample: {sample}"

    # -- hand-off ---------------------------------------------------------------------------------
    @property
    def worked(self) -> list[nn.Module]:
        """With stage 1 where it encodes pictures at each step, and a student's teacher."""
        encodes = not self.config.space.cached or self.config.task.use is not None
        first = self.space.first_stage if encodes else None
        teaches = self.origin and self.config.loss.teachers_guidance is not None
        teacher = self.origin.model.denoiser.net if self.origin and teaches else None
        return [self.net, *filter(None, [first, teacher])]

    @eagerly
    def on_fit_start(self) -> None:
        """Cache latents; measure the space and verify stage 1, unless a checkpoint has both."""
        if self.text is not None:
            store_captions(self.trainer, self.text)
        # of data, not of cached latents
        batch = next(iter(data_of(self.trainer).whole_training_set()))
        # a trained task needs the pictures
        if self.config.space.cached and self.config.task.use is None:
            use_cache(self.trainer, cast(LatentSpace, self.space), str(self.autoencoder_hash))
        if self.origin is not None:
            self.origin.model.denoiser.to(self.device)
        if self.space.measured and self.trainer.ckpt_path is None:
            if self.origin is None:  # else the statistics are those that its network knows
                self.measure()
            self.verify(batch)
        self.lead()

    def lead(self) -> None:
        """Load the guide of panels' samples, once what its x means is known. Refusal if it is odd.

        The checkpoint holds it from then on: it is sampled from without another file.
        """
        which = self.config.sample.guide
        if which.run is not None:
            self.guide = guide_of(replace(self.model(), guides={}), which)

    def measure(self) -> None:
        """Measure the space's statistics over the training set, every rank its share."""
        batches = data_of(self.trainer).whole_training_set()
        quiet = not self.trainer.is_global_zero
        bar = shown(batches, "measuring the data", quiet, "batches")
        announce(self.space.measure(bar, self.summed, self.device))

    def verify(self, batch: Batch) -> None:
        """A batch through the space and back: Refusal where nothing can be learnt there."""
        data = self.space.read(batch).to(self.device)
        for i, line in enumerate(self.space.verify(data, self.trainer.strategy.reduce)):
            announce(line if i else f"autoencoder {self.autoencoder_hash}: {line}")

    # -- training ---------------------------------------------------------------------------------
    def condition(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Labels, captions etc.; with a `generator` each row is dropped with probability `drop`."""
        cond = ({"label": batch["label"]} if self.classes else {}) | self.space.features(batch)
        if self.text is not None:
            cond |= self.text.condition(batch["text"], self.device)
        if generator is None or not cond:
            return cond
        u = torch.rand(len(batch["index"]), generator=generator, device=self.device)
        return without(cond, u < self.config.drop, len(self.classes))

    def left(self, data: Tensor, keys: Sequence[Key]) -> dict[str, Tensor]:
        """What the denoiser of a trained task is given of the batch's pictures, or nothing."""
        task = self.config.task
        return task.extras(cast(PictureSpace, self.space), *task.degrade(data, keys))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        extras, data = self.space.extras(batch), self.training_images(batch, batch_idx)
        x_0 = self.space.encode(data, self.randn("posterior", batch_idx), **extras)
        rows = stream_places(self.global_step, *self.slot(batch_idx), len(data))
        extras |= self.left(data, [(self.config.seed, "hole", place) for place in rows])
        # times are one stratified set over all micro-batches and ranks of the step
        key = (self.config.seed, "times", self.global_step)
        u = send(randomness.stratified(len(x_0), *self.slot(batch_idx), *key), self.device)
        eps = self.randn("noise", batch_idx)(x_0.shape)
        cond = extras | self.condition(batch, self.generator("drop", batch_idx))
        done = self.global_step / self.config.trainer.max_steps
        losses = self.losses(Draw(x_0, u, eps, done), cond)
        loss = losses.mean()
        of_each, times = losses.detach(), u
        self.readings["loss_by_time"] = lambda: by_time(of_each, times)
        self.note_loss({"loss": loss, "x_0": x_0}, batch)
        self.readings["train/loss"] = loss.detach()
        return loss

    def losses(self, draw: Draw, cond: dict[str, Tensor]) -> Tensor:
        """The loss of each sample, (B,)."""
        teacher = self.teacher(cond, len(draw.x_0))
        draw = replace(draw, teacher=teacher, averaged=self.averaged)
        return self.config.loss.measure(self.denoiser, draw, **cond)

    def teacher(self, cond: dict[str, Tensor], count: int) -> Teacher | None:
        """The guided model of `init`, bound to the condition, where the loss asks for it."""
        guidance = self.config.loss.teachers_guidance
        if guidance is None or self.origin is None:
            return None
        rows = torch.ones(count, dtype=torch.bool, device=self.device)
        null = without(cond, rows, len(self.classes)) if cond.keys() - KEPT else None
        return cfg(self.origin.model.denoiser, cond, null, guidance)

    @eagerly
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The averaged weights' loss, with noise and times that are the same every time."""
        seed, rank = self.config.seed, self.global_rank
        generator = randomness.generator(seed, "validation", batch_idx, rank)
        draw = lambda shape: send(torch.randn(shape, generator=generator), self.device)  # noqa: E731
        extras, data = self.space.extras(batch), self.space.read(batch)
        x_0 = self.space.encode(self.watch_posterior(data), draw, **extras)
        extras |= self.left(data, [(seed, "held-out hole", i) for i in batch["index"].tolist()])
        u = randomness.stratified(len(x_0), 0, 1, seed, "validation times", batch_idx)
        u = send(u, self.device)
        with self.averaged():
            cond = extras | self.condition(batch)
            loss = self.losses(Draw(x_0, u, draw(x_0.shape), 1.0), cond)
        self.log("val/loss", loss.mean(), sync_dist=True, batch_size=len(x_0))
        for name, value in self.space.statistics(x_0).items():
            self.log(f"val/{name}", value, sync_dist=True, batch_size=len(x_0))

    def watch_posterior(self, data: Tensor) -> Tensor:
        """Latent moments of pictures, noted for `val/latent_explained`; other data as they are."""
        moments = self.space.posterior(data)
        if moments is None:
            return data
        self.note_posterior(moments)
        return moments[:, None]

    def configure_optimizers(self) -> Optimizer:
        return self.adamw(self.denoiser.net, self.config.optim.lr)

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        self.clip(optimizer, "grad_norm")
        self.guard([optimizer])

    # -- what is saved ----------------------------------------------------------------------------
    def about_autoencoder(self) -> dict[str, Any] | None:
        if self.autoencoder_config is None:
            return None
        return {"config": schema.to_dict(self.autoencoder_config), "hash": self.autoencoder_hash}

    def on_save_checkpoint(self, state: dict[str, Any]) -> None:
        """With the text encoder's hash, and the prompts of samples that are given none."""
        super().on_save_checkpoint(state)
        about = {"hash": self.text.hash, "prompts": list(self.prompts)} if self.text else None
        state["ldm"]["text"] = about
        state["ldm"]["init"] = self.origin.hash if self.origin else None
        if self.guide is not None:
            state["ldm"]["guide"] = self.guide.about
            state["state_dict"] |= self.guide.state()

    def on_load_checkpoint(self, state: dict[str, Any]) -> None:
        before = (state["ldm"].get("text") or {}).get("hash")
        if self.text is not None and before != self.text.hash:
            here = f"the text encoder is {self.text.hash} here"
            raise Refusal(f"--resume: {here}, the run began with {before}")
        for key in under(state["state_dict"], "guide."):  # no part of the module
            del state["state_dict"][f"guide.{key}"]
        super().on_load_checkpoint(state)


def by_time(losses: Tensor, u: Tensor) -> Tensor:
    """The loss in eight bins of time, 0 nearest the data: where a model is still learning."""
    bins = (u * 8).long()
    sums = losses.new_zeros(8).index_add(0, bins, losses)
    counts = losses.new_zeros(8).index_add(0, bins, torch.ones_like(losses))
    return sums / counts


def _hash(autoencoder: Autoencoder | None) -> str | None:
    """Of its weights; None where there are none, or no more than their shapes."""
    weights = autoencoder.state_dict() if autoencoder else {}
    known = weights and not any(weight.is_meta for weight in weights.values())
    return hash_of_weights(weights.items()) if known else None
