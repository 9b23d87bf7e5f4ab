"""13. The autoencoder: reconstructions, prior, latent axes, whitening, by the KL's weight."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ldm.lecture.base import Made
from ldm.lecture.box import wall
from ldm.lecture.data import few
from ldm.metrics.images import psnr
from ldm.networks.autoencoder import KLAutoencoder
from ldm.networks.posterior import kl_divergence, sample_posterior
from ldm.pictures.images import Digits, ImageTensor
from ldm.pictures.space import LatentSpace
from ldm.system.batches import as_images
from ldm.system.plots import picture, say, sheet, styled
from ldm.system.randomness import generator

WEIGHTS = {"much": 10.0, "a little": 0.3, "none": 0.0}
STEPS, BATCH, WIDTH, SIDE, REACH = 2000, 128, 160, 7, 2.0
CAPTION = (
    "Digits of 8 x 8 pixels in two latents; a row for each weight of the KL term. Left: held-out "
    "digits, and below each its reconstruction. Then their latents (a colour for each digit) and "
    "the prior's 2 standard deviations (circle); what the decoder makes of a square of that size, "
    "the two latents as its axes; the latents' histograms as they come and whitened, over N(0, 1). "
    "Much: latents are the prior's whatever the digit (collapse), and one picture is decoded. A "
    "little: the digits share the prior's plane without gaps. None: sharp, but the latents lie "
    "where they like; whitening gives diffusion the scale that it expects."
)
BROKEN = (
    "Training decodes the mean and never a sample, so nothing pays for a wide posterior: the KL "
    "makes it as wide as the prior, and the decoder reads differences far below it. The pictures "
    "of means look as good as before; of samples, which is what diffusion is trained on, the "
    "pictures below them are other digits. Compare the two before the second stage."
)


class Perceptron(nn.Module):
    """Square grey pictures -> a few latents -> pictures, with the interface of diffusers' networks.

    The data are too small for convolutions, and two latents can be drawn.
    """

    def __init__(self, side: int, latents: int):
        super().__init__()
        halvings = side.bit_length()  # 8 -> 4 levels, whose last is of one pixel
        self.config = SimpleNamespace(block_out_channels=(1,) * halvings, latent_channels=latents)
        self.down, self.up = perceptron(side**2, 2 * latents), perceptron(latents, side**2)
        self.shape = (1, side, side)

    def encode(self, x: Tensor) -> SimpleNamespace:
        """Mean and log-variance, as a distribution."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        moments = self.down(x.flatten(1))[..., None, None]
        return SimpleNamespace(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, z: Tensor) -> SimpleNamespace:
        """Pictures."""
        return SimpleNamespace(sample=self.up(z.flatten(1)).unflatten(1, self.shape))


def perceptron(inside: int, out: int) -> nn.Sequential:
    """Two hidden layers."""
    parts = nn.Linear(inside, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU()
    return nn.Sequential(*parts, nn.Linear(WIDTH, out))


@dataclass(frozen=True)
class Stage1:
    """A whitened space over a trained autoencoder, and its posteriors of held-out digits."""

    space: LatentSpace
    images: Tensor
    labels: Tensor
    moments: Tensor

    @property
    def mean(self) -> Tensor:
        return self.moments[:, :2, 0, 0]

    def sampled(self) -> Tensor:
        """z of each picture's posterior."""
        noise = torch.randn(self.moments[:, :2].shape, generator=generator("lecture", "posterior"))
        return sample_posterior(self.moments, noise)

    @torch.no_grad()
    def decoded(self, z: Tensor) -> Tensor:
        """Pictures of latents that are not whitened, (N, 2) or (N, 2, 1, 1)."""
        return self.space.autoencoder.decode(z.reshape(-1, 2, 1, 1)).clamp(-1, 1)

    def measured(self) -> dict[str, Any]:
        """Decibels of reconstructions, nats of the KL, spread before and after the whitening."""
        z, explained = self.sampled(), self.space.explained
        assert explained is not None  # measured by `whitened`
        white = (z - self.space.mean[:, None, None]) / self.space.std[:, None, None]
        from_mean, from_z = (psnr(self.images, self.decoded(part)) for part in (self.mean, z))
        flat = self.images.mean(0, keepdim=True).expand_as(self.images)
        return {
            "PSNR of the mean's picture": from_mean.mean().item(),
            "PSNR of a sample's picture": from_z.mean().item(),
            "PSNR of the digits' mean": psnr(self.images, flat).mean().item(),
            "KL to the prior (nats)": kl_divergence(self.moments).mean().item(),
            "explained by the picture": explained.tolist(),
            "std of the latents": z.std((0, 2, 3)).tolist(),
            "std when whitened": white.std((0, 2, 3)).tolist(),
        }


def trained(
    net: KLAutoencoder, images: Tensor, steps: int, *, broken: bool = False
) -> KLAutoencoder:
    """Stage 1 on pictures in [-1, 1]; broken: the posterior's mean is decoded, not a sample."""
    optim = torch.optim.AdamW(net.parameters(), 2e-3, (0.9, 0.99), weight_decay=0)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optim, steps)
    random = generator("lecture", "autoencoder")
    randn = None if broken else lambda shape: torch.randn(shape, generator=random)
    for _ in range(steps):
        x = images[torch.randint(len(images), (BATCH,), generator=random)]
        made = net.regularised(net.encode(x), randn)
        optim.zero_grad()
        (mse_loss(made.x_hat, x) + made.loss).backward()
        optim.step()
        slower.step()
    return net.eval()


def untrained(side: int, latents: int, weight: float) -> KLAutoencoder:
    """Before its first step."""
    torch.manual_seed(0)
    return KLAutoencoder(Perceptron(side, latents), (1, side, side), side, weight)


def whitened(net: KLAutoencoder, images: Tensor) -> LatentSpace:
    """The space of its latents, measured over the pictures."""
    space = LatentSpace(net)
    space.measure([{"image": images}], lambda sums: sums, "cpu")
    return space


def digits() -> tuple[ImageTensor, ImageTensor]:
    """Training and held-out digits."""
    data = Digits().load()
    return cast(ImageTensor, data.train), cast(ImageTensor, data.test)


def stage1(weight: float, steps: int, *, broken: bool) -> Stage1:
    """Trained, whitened over the training digits, and asked of the held-out ones."""
    data = digits()
    images, held = (as_images({"image": part.images}) for part in (data[0], data[1]))
    space = whitened(trained(untrained(8, 2, weight), images, steps, broken=broken), images)
    with torch.no_grad():
        return Stage1(space, held, data[1].labels, space.moments(held))


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    steps = few(STEPS, size, 300)
    found = {name: stage1(weight, steps, broken=broken) for name, weight in WEIGHTS.items()}
    numbers = {name: one.measured() for name, one in found.items()}
    return Made(drawn(found), BROKEN if broken else CAPTION, {"by weight of the KL": numbers})


@styled()
def drawn(found: dict[str, Stage1]) -> Image.Image:
    """A row for each weight: reconstructions, prior, axes, whitening."""
    title = "An autoencoder with two latents, by the weight of its KL term"
    figure, axes = sheet(title, len(found), 4, (11.5, 8.4), width_ratios=(1.25, 1, 1, 1))
    for (pairs, plane, decoded, bars), (name, one) in zip(axes, found.items(), strict=True):
        rows = [
            part[i : i + 6] for i in (0, 6) for part in (one.images, one.decoded(one.sampled()))
        ]
        wall(pairs, torch.cat(rows), 6, f"{name}: weight {WEIGHTS[name]:g}")
        latents(plane, one)
        ends = torch.linspace(-REACH, REACH, SIDE)
        square = torch.cartesian_prod(ends.flip(0), ends).flip(1)
        wall(decoded, one.decoded(square), SIDE, "decoded, -2 to 2")
        histograms(bars, one)
    return picture(figure)


def latents(ax: Axes, one: Stage1) -> None:
    """A sample of every posterior, and the prior as a circle."""
    z = one.sampled()[..., 0, 0]
    ax.scatter(z[:, 0], z[:, 1], c=one.labels, cmap="tab10", s=9, linewidths=0)
    angle = torch.linspace(0, 2 * torch.pi, 100)
    ax.plot(2 * angle.cos(), 2 * angle.sin(), "k", lw=1.2)
    end = max(3.0, z.abs().max().item() * 1.05)
    say(ax, "latent 1", "latent 2", "latents and prior", xlim=(-end, end), ylim=(-end, end))
    ax.set_aspect("equal")


def histograms(ax: Axes, one: Stage1) -> None:
    """The first latent as it comes and whitened."""
    z = one.sampled()[:, 0, 0, 0]
    white = (z - one.space.mean[0]) / one.space.std[0]
    end = max(3.0, z.abs().max().item())
    edges = np.linspace(-end, end, 41).tolist()
    ax.hist(z.numpy(), edges, density=True, color="#bbbbbb", label="as it comes")
    style: Any = {"density": True, "histtype": "step", "color": "#0072b2", "lw": 1.6}
    ax.hist(white.numpy(), edges, label="whitened", **style)
    x = np.linspace(-end, end, 200)
    ax.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), "k", lw=1, label="N(0, 1)")
    say(ax, "latent 1", "density", f"std {one.space.std[0]:.1f}, then 1")
    ax.set_ylim(0, 1.05 * ax.get_ylim()[1] * 1.3)
    ax.legend(fontsize=8, loc="upper right")
