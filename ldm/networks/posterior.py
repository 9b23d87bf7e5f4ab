"""The Gaussian posterior q(z|x) that an autoencoder's moments, mean and log-variance, are of."""

from torch import Tensor


def sample_posterior(moments: Tensor, noise: Tensor) -> Tensor:
    """z = mean + exp(logvar / 2) noise (Kingma & Welling 2014, eq. 10)."""
    mean, logvar = moments.chunk(2, 1)
    return mean + (0.5 * logvar).exp() * noise


def kl_divergence(moments: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, 1)) in nats, one value a sample: (B,)."""
    mean, logvar = moments.float().chunk(2, 1)
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)
