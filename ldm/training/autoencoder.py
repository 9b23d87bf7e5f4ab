"""LightningModule 1: the autoencoder of stage 1, with optional perceptual loss and discriminator.

Manual optimisation, with or without the discriminator, so there is one path. Only the generator's
step goes through Lightning: its global_step then counts generator steps, and max_steps, checkpoints
and panels mean what they say.
"""

import contextlib
from collections.abc import Set

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ldm.config import AutoencoderConfig, Discriminator
from ldm.diffusion.space import Noise, Shape
from ldm.metrics.images import psnr, ssim
from ldm.networks.autoencoder import Autoencoder, Regularised
from ldm.networks.discriminator import PatchGAN, hinge_loss
from ldm.networks.quick import eagerly
from ldm.pictures.space import PixelSpace, lost_channels, percent
from ldm.system import randomness
from ldm.system.batches import Batch, as_images
from ldm.training.machine import compiles
from ldm.training.ranks import announce
from ldm.training.stage import Stage


def perceptual_distance(net: nn.Module, x: Tensor, x_hat: Tensor) -> Tensor:
    """Of each pair, (B,); a grey picture is shown to all three channels."""
    if x.shape[1] == 1:
        x, x_hat = x.expand(-1, 3, -1, -1), x_hat.expand(-1, 3, -1, -1)
    return net(x_hat.float(), x.float()).flatten()


def generator_share(config: Discriminator, step: int) -> float:
    """The adversarial weight's share at a step: 0 while the discriminator learns alone, up to 1."""
    alone = config.start + config.warmup
    return min(1.0, max(0.0, (step - alone) / max(1, config.warmup))) if step > alone else 0.0


class AutoencoderModule(Stage):
    """Reconstruction + KL or codebook loss + perceptual + adversarial (Esser et al. 2021)."""

    stage, trained = "autoencoder", "autoencoder"
    monitor, panel = ("val/psnr", "max"), "reconstructions"
    config: AutoencoderConfig
    autoencoder: Autoencoder
    discriminator: PatchGAN | None

    def __init__(self, config: AutoencoderConfig, shape: Shape, classes: tuple[str, ...]):
        super().__init__(config, shape, classes)
        self.automatic_optimization = False
        self.space = PixelSpace(self.shape)
        self.autoencoder = config.network.build(self.shape)
        gan = config.discriminator
        judge = PatchGAN(self.shape[0], gan.channels, gan.layers) if gan.weight else None
        self.discriminator = judge
        # in a list: a frozen backbone is no part of the model, and must not be in its checkpoints
        self.perceptual = [config.perceptual.build()] if config.perceptual.weight else []
        self.rehearsed = not compiles(config.trainer)
        self.lost: Set[int] = set()  # channels that carried next to nothing at the last validation
        self.start_ema()

    @property
    def worked(self) -> list[nn.Module]:
        judge = [self.discriminator] if self.discriminator else []
        return [self.autoencoder, *judge, *self.perceptual]

    def on_fit_start(self) -> None:
        self.perceptual = [net.to(self.device) for net in self.perceptual]

    def once(self) -> list[Tensor]:
        x = next(self.net.parameters()).new_zeros(self.few, *self.shape)
        x_hat = self.autoencoder.decode(self.autoencoder.encode(x).chunk(2, 1)[0])
        found = [x_hat] + ([self.discriminator(x_hat)] if self.discriminator else [])
        return found + [perceptual_distance(net, x, x_hat) for net in self.perceptual]

    @property
    def beside(self) -> list[nn.Module]:
        return self.perceptual

    def farewell(self) -> str:
        folder = self.config.folder
        named = f"a latent config names it as space.autoencoder={folder}"
        return f"finished: {folder}/last.ckpt; {named}"

    # -- losses -----------------------------------------------------------------------------------
    def reconstruct(self, x: Tensor, randn: Noise | None) -> Regularised:
        """What the autoencoder makes of pictures; without `randn` of the posterior's mean."""
        return self.autoencoder.regularised(self.autoencoder.encode(x), randn)

    def restart_codes(self, bad: Tensor) -> None:
        """Once a step: idle codes go onto latents of it; in the first all do, in a bad one none."""
        step = self.global_step
        order = randomness.generator(self.config.seed, "codes", step)
        moved = self.autoencoder.restart_idle(self.gathered, order, step == 0, bad)
        self.readings["train/codes_restarted"] = moved

    def reconstruction_loss(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Mean L1 or L2 a value, plus the weighted perceptual one, in float32."""
        loss = (F.l1_loss if self.config.reconstruction == "l1" else F.mse_loss)(x_hat.float(), x)
        for net in self.perceptual:
            loss = loss + self.config.perceptual.weight * perceptual_distance(net, x, x_hat).mean()
        return loss

    def balance(self, reconstruction: Tensor, adversarial: Tensor) -> Tensor:
        """|grad reconstruction| / |grad adversarial|, last layer, clamped (Esser et al., eq. 7)."""
        last = self.autoencoder.last_layer
        grad = lambda loss: torch.autograd.grad(loss, last, retain_graph=True)[0]  # noqa: E731
        ratio = grad(reconstruction).norm() / (grad(adversarial).norm() + 1e-4)
        return ratio.clamp(max=self.config.discriminator.max_balance).detach()

    def adversarial_loss(self, judge: PatchGAN, x_hat: Tensor, reconstruction: Tensor) -> Tensor:
        """What reaches the decoder from the discriminator: - balance * weight * E[D(x_hat)]."""
        gan = self.config.discriminator
        judge.requires_grad_(False)  # the generator's gradient must not reach it
        adversarial = -judge(x_hat).float().mean()
        balance = self.balance(reconstruction, adversarial)
        judge.requires_grad_(True)
        self.readings["discriminator/balance"] = balance
        return generator_share(gan, self.global_step) * gan.weight * balance * adversarial

    def discriminator_loss(self, judge: PatchGAN, x: Tensor, x_hat: Tensor) -> Tensor:
        """Hinge loss on pictures cut from the generator's graph."""
        real, fake = judge(x), judge(x_hat)
        loss = hinge_loss(real, fake)
        logits_real, logits_fake = real.detach(), fake.detach()
        self.readings |= {
            "discriminator/logits_real": lambda: logits_real.mean(),
            "discriminator/logits_fake": lambda: logits_fake.mean(),
            "discriminator/loss": loss.detach(),
        }
        return loss

    def rehearse(self, judge: PatchGAN, x: Tensor, x_hat: Tensor) -> None:
        """Compile all uses of the discriminator in the first step: it begins much later."""
        self.rehearsed = True
        judge.requires_grad_(False)(x_hat)
        judge.requires_grad_(True)(x)
        judge(x_hat.detach())

    # -- steps ------------------------------------------------------------------------------------
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        x = self.training_images(batch, batch_idx)
        x_hat, regulariser, watched = self.reconstruct(x, self.randn("posterior", batch_idx))
        reconstruction = self.reconstruction_loss(x, x_hat)
        loss, judge, gan = (
            reconstruction + regulariser,
            self.discriminator,
            self.config.discriminator,
        )
        if judge and not self.rehearsed:
            self.rehearse(judge, x, x_hat)
        if judge and generator_share(gan, self.global_step):
            loss = loss + self.adversarial_loss(judge, x_hat, reconstruction)
        self.note_loss({"reconstruction": reconstruction, "regulariser": regulariser}, batch)
        self.readings["train/loss"] = reconstruction.detach()
        self.readings |= {f"train/{key}": value.detach() for key, value in watched.items()}
        last = (batch_idx + 1) % self.config.trainer.accumulate == 0
        self.backward_part(loss, last)
        if judge and self.global_step >= gan.start:
            self.backward_part(self.discriminator_loss(judge, x, x_hat.detach()), last)
        if last:
            self.step_optimizers()

    def backward_part(self, loss: Tensor, last: bool) -> None:
        """Accumulate a share of the step's gradient.

        Processes exchange it with the step's last micro-batch.
        """
        wait = getattr(self.trainer.strategy, "block_backward_sync", contextlib.nullcontext)
        with contextlib.nullcontext() if last else wait():
            self.manual_backward(loss / self.config.trainer.accumulate)

    def step_optimizers(self) -> None:
        """Clip and check both, then step both; the discriminator outside Lightning's count."""
        optimizers = self.optimizers()
        generator, *others = optimizers if isinstance(optimizers, list) else [optimizers]
        learning = self.global_step >= self.config.discriminator.start
        self.clip(generator.optimizer, "grad_norm")
        for other in others if learning else []:
            self.clip(other.optimizer, "grad_norm_discriminator")
        bad = self.guard([optimizer.optimizer for optimizer in (generator, *others)])
        if self.autoencoder.codes:
            self.restart_codes(bad)
        for other in others if learning else []:
            other.optimizer.step()
        generator.step()
        for optimizer in (generator, *others):
            optimizer.zero_grad()

    @eagerly
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """PSNR, SSIM, loss and latents' statistics of averaged weights and posterior means."""
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
        values = {f"val/{key}": value for key, value in values.items()}
        self.log_dict(values, sync_dist=True, batch_size=len(x))

    def report_explained(self, explained: Tensor) -> None:
        """Name the channels that carry next to nothing, hours before stage 2 refuses them."""
        lost = lost_channels(explained)
        if lost.keys() != self.lost and lost:
            channels = ", ".join(map(str, lost))
            announce(
                f"latents: at step {self.global_step} the picture explains "
                f"{percent(lost.values())} of the variance of channels {channels}, the rest is "
                "posterior noise; if it stays so, network.kl_weight is too large"
            )
        self.lost = lost.keys()

    def stepped(self, step: int) -> list[bool]:
        judge = [step > self.config.discriminator.start] if self.discriminator else []
        return [*super().stepped(step), *judge]

    def configure_optimizers(self) -> list[Optimizer]:
        found = [self.adamw(self.autoencoder, self.config.optim.lr)]
        if self.discriminator:
            found.append(self.adamw(self.discriminator, self.config.discriminator.lr))
        return found
