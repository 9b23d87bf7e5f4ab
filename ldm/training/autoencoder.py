"""LightningModule 1: the autoencoder of stage 1, with an optional perceptual loss and an optional discriminator.

Manual optimisation, with or without the discriminator, so there is one path. Only the generator's step goes through
Lightning: its global_step then counts generator steps, and max_steps, checkpoints and panels mean what they say.
"""

import contextlib
from collections.abc import Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ldm.config import AutoencoderConfig, Discriminator, Perceptual
from ldm.errors import Refusal
from ldm.metrics.images import psnr, ssim
from ldm.networks.autoencoder import VQAutoencoder, kl_divergence, sample_posterior
from ldm.networks.discriminator import PatchGAN, hinge_loss
from ldm.pictures.space import PixelSpace, lost_channels, percent
from ldm.system import randomness
from ldm.system.batches import Batch, as_images
from ldm.training.stage import Stage, say


def build_perceptual(config: Perceptual) -> nn.Module:
    """LPIPS (Zhang et al. 2018), frozen. Refusal where its backbone cannot be downloaded."""
    import lpips

    try:
        net = lpips.LPIPS(net=config.net, verbose=False)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise Refusal(
            f"perceptual: the weights of LPIPS' {config.net} cannot be had ({error}); "
            "put torchvision's file into $TORCH_HOME/hub/checkpoints, or turn it off with perceptual.weight=0"
        ) from None
    return net.eval().requires_grad_(False)


def perceptual_distance(net: nn.Module, x: Tensor, x_hat: Tensor) -> Tensor:
    """LPIPS of each pair, (B,); a grey picture is shown to all three channels."""
    if x.shape[1] == 1:
        x, x_hat = x.expand(-1, 3, -1, -1), x_hat.expand(-1, 3, -1, -1)
    return net(x_hat.float(), x.float()).flatten()


def generator_share(config: Discriminator, step: int) -> float:
    """Share of the discriminator's weight that reaches the decoder at a step: 0 while it learns alone, then growing to 1."""
    alone = config.start + config.warmup
    return min(1.0, max(0.0, (step - alone) / max(1, config.warmup))) if step > alone else 0.0


class AutoencoderModule(Stage):
    """Reconstruction + KL or codebook loss + perceptual + adversarial (Esser et al. 2021, Rombach et al. 2022)."""

    stage, trained = "autoencoder", "autoencoder"

    def __init__(
        self, config: AutoencoderConfig, shape: tuple[int, int, int], classes: tuple[str, ...]
    ):
        super().__init__(config, shape, classes)
        self.automatic_optimization = False
        self.space = PixelSpace(self.shape)
        self.autoencoder = config.network.build(self.shape)
        gan = config.discriminator
        self.discriminator = (
            PatchGAN(self.shape[0], gan.channels, gan.layers) if gan.weight else None
        )
        # in a list: a frozen backbone is no part of the model, and must not be in its checkpoints
        self.perceptual = [build_perceptual(config.perceptual)] if config.perceptual.weight else []
        self.lost: Set[int] = (
            set()
        )  # latent channels that carried next to nothing at the last validation
        self.codes_used: Tensor | float = 0.0  # shares of the codebook in this step's micro-batches
        self.start_ema()

    def on_fit_start(self) -> None:
        self.perceptual = [net.to(self.device) for net in self.perceptual]

    def once(self) -> Tensor:
        x = next(self.net.parameters()).new_zeros(self.few, *self.shape)
        x_hat = self.autoencoder.decode(self.autoencoder.encode(x).chunk(2, 1)[0])
        judges = [self.discriminator] if self.discriminator else []
        for judge in [
            *judges,
            *(lambda x_hat, net=net: perceptual_distance(net, x, x_hat) for net in self.perceptual),
        ]:
            judge(x_hat)
        return x_hat

    # -- losses -----------------------------------------------------------------------------------------------------
    def reconstruct(self, x: Tensor, randn: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """x_hat, the regulariser's loss and what to log of it. `randn` None decodes the posterior's mean."""
        moments = self.autoencoder.encode(x)
        if isinstance(self.autoencoder, VQAutoencoder):
            z_q, loss, indices = self.autoencoder.quantize(moments.chunk(2, 1)[0])
            used = F.one_hot(indices.flatten(), self.autoencoder.codes).float().mean(0)
            perplexity = (-(used * (used + 1e-10).log()).sum()).exp()
            if randn is not None:
                self.codes_used = self.codes_used + used
                self.last_latents = moments.detach().chunk(2, 1)[0]
            return (
                self.autoencoder.decode_codes(z_q),
                self.config.network.codebook_weight * loss,
                {"perplexity": perplexity},
            )
        z = (
            moments.chunk(2, 1)[0]
            if randn is None
            else sample_posterior(moments, randn((len(x), *self.autoencoder.latent_shape)))
        )
        kl = kl_divergence(moments).mean()
        return (
            self.autoencoder.decode(z),
            self.config.network.kl_weight * kl / x[0].numel(),
            {"kl": kl},
        )

    def restart_codes(self) -> None:
        """Once a step: idle codes go onto latents of the step's last slot, the same on every rank; in the first step all do."""
        first = self.global_step == 0
        used = self.all_gather(self.codes_used).reshape(-1, self.autoencoder.codes).sum(0)
        rows = self.last_latents.permute(0, 2, 3, 1).flatten(0, 2)
        order = torch.randperm(
            len(rows), generator=randomness.generator(self.config.seed, "codes", self.global_step)
        )
        chosen = rows[order[: len(used)].to(rows.device)]
        rows = self.all_gather(chosen)[-1] if self.trainer.world_size > 1 else chosen
        moved = self.autoencoder.restart(
            used * (not first), rows.to(used), 1 if first else self.config.network.patience
        )
        self.log("train/codes_restarted", float(moved))
        self.codes_used = torch.zeros_like(self.codes_used)

    def reconstruction_loss(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Mean L1 or L2 a value, plus weighted LPIPS, in float32."""
        loss = (F.l1_loss if self.config.reconstruction == "l1" else F.mse_loss)(x_hat.float(), x)
        for net in self.perceptual:
            loss = loss + self.config.perceptual.weight * perceptual_distance(net, x, x_hat).mean()
        return loss

    def balance(self, reconstruction: Tensor, adversarial: Tensor) -> Tensor:
        """|grad reconstruction| / |grad adversarial| at the last layer, clamped (Esser et al. 2021, eq. 7)."""
        last = self.autoencoder.last_layer
        norms = [
            torch.autograd.grad(loss, last, retain_graph=True)[0].norm()
            for loss in (reconstruction, adversarial)
        ]
        return (
            (norms[0] / (norms[1] + 1e-4)).clamp(max=self.config.discriminator.max_balance).detach()
        )

    def adversarial_loss(self, x_hat: Tensor, reconstruction: Tensor) -> Tensor:
        """What reaches the decoder from the discriminator: - balance * weight * E[D(x_hat)]."""
        gan = self.config.discriminator
        adversarial = -self.discriminator(x_hat).float().mean()
        balance = self.balance(reconstruction, adversarial)
        self.log("discriminator/balance", balance)
        return generator_share(gan, self.global_step) * gan.weight * balance * adversarial

    # -- steps ------------------------------------------------------------------------------------------------------
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        x = self.training_images(batch, batch_idx)
        x_hat, regulariser, watched = self.reconstruct(x, self.randn("posterior", batch_idx))
        reconstruction = self.reconstruction_loss(x, x_hat)
        loss = reconstruction + regulariser
        if self.discriminator and generator_share(self.config.discriminator, self.global_step):
            self.discriminator.requires_grad_(False)  # the generator's gradient must not reach it
            loss = loss + self.adversarial_loss(x_hat, reconstruction)
            self.discriminator.requires_grad_(True)
        self.note_loss({"reconstruction": reconstruction, "regulariser": regulariser}, batch)
        self.log("train/loss", reconstruction.detach(), prog_bar=True)
        self.log_dict({f"train/{key}": value.detach() for key, value in watched.items()})
        last = (batch_idx + 1) % self.config.trainer.accumulate == 0
        self.backward_part(loss, last)
        if self.discriminator and self.global_step >= self.config.discriminator.start:
            self.backward_part(self.discriminator_loss(x, x_hat.detach()), last)
        if last:
            self.step_optimizers()

    def discriminator_loss(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Hinge loss on pictures cut from the generator's graph."""
        real, fake = self.discriminator(x), self.discriminator(x_hat)
        loss = hinge_loss(real, fake)
        parts = {"logits_real": real.mean(), "logits_fake": fake.mean(), "loss": loss}
        self.log_dict({f"discriminator/{key}": value.detach() for key, value in parts.items()})
        return loss

    def backward_part(self, loss: Tensor, last: bool) -> None:
        """Accumulate a share of the step's gradient; processes exchange it with the step's last micro-batch."""
        wait = getattr(self.trainer.strategy, "block_backward_sync", contextlib.nullcontext)
        with contextlib.nullcontext() if last else wait():
            self.manual_backward(loss / self.config.trainer.accumulate)

    def step_optimizers(self) -> None:
        """Clip and check both, then step both; the discriminator outside Lightning's count of steps."""
        optimizers = self.optimizers()
        generator, *others = optimizers if isinstance(optimizers, list) else [optimizers]
        learning = others if self.global_step >= self.config.discriminator.start else []
        if isinstance(self.autoencoder, VQAutoencoder):
            self.restart_codes()
        self.clip(self.autoencoder, "grad_norm")
        if learning:
            self.clip(self.discriminator, "grad_norm_discriminator")
        for other in learning:
            other.optimizer.step()
        generator.step()
        for optimizer in (generator, *others):
            optimizer.zero_grad()
        self.step_done()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """PSNR, SSIM, the loss and the latents' statistics with averaged weights, decoding the posterior's mean."""
        x = as_images(batch)
        with self.averaged():
            x_hat, _, watched = self.reconstruct(x, None)
            moments = self.autoencoder.encode(x)
        self.note_posterior(moments)
        z = moments.chunk(2, 1)[0]
        loss = self.reconstruction_loss(x, x_hat)
        x_hat = x_hat.float().clamp(-1, 1)
        values = {"loss": loss, "psnr": psnr(x, x_hat).mean(), "ssim": ssim(x, x_hat)}
        values |= {f"latent_mean/{i}": m for i, m in enumerate(z.mean((0, 2, 3)))}
        values |= {f"latent_std/{i}": s for i, s in enumerate(z.std((0, 2, 3)))} | watched
        self.log_dict(
            {f"val/{key}": value for key, value in values.items()},
            sync_dist=True,
            batch_size=len(x),
        )

    def posteriors_told(self, explained: Tensor) -> None:
        """Name the channels that carry next to nothing, when they change: hours before stage 2 refuses them."""
        lost = lost_channels(explained)
        if lost.keys() != self.lost and lost:
            channels = ", ".join(map(str, lost))
            say(
                f"latents: at step {self.global_step} the picture explains {percent(lost.values())} of the variance of "
                f"channels {channels}, the rest is posterior noise; if it stays so, network.kl_weight is too large"
            )
        self.lost = lost.keys()

    def configure_optimizers(self) -> list[Optimizer]:
        nets = [(self.autoencoder, self.config.optim.lr)]
        if self.discriminator:
            nets.append((self.discriminator, self.config.discriminator.lr))
        return [self.adamw(net, lr) for net, lr in nets]
