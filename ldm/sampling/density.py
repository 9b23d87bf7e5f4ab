"""log p of data by a model's probability-flow ODE: what all modalities share."""

from dataclasses import dataclass

from torch import Tensor

from ldm.diffusion.flow import Ode
from ldm.diffusion.likelihood import Likelihood, log_likelihood
from ldm.diffusion.solvers import Unreached
from ldm.diffusion.tasks import cfg
from ldm.errors import Refusal
from ldm.sampling.conditions import Condition
from ldm.sampling.model import Model
from ldm.system.randomness import generator


@dataclass(frozen=True)
class Estimate:
    """How log p is estimated: Hutchinson's probes (0: the exact trace), a seed, tolerances.

    `levels` of a channel of pictures are what a byte's 256 values are. `decoder_std` is the
    standard deviation of p(x | z) about the decoded picture, in units of [-1, 1], for the bound in
    latents.
    """

    probes: int = 1
    seed: int = 0
    ode: Ode = Ode(1e-4, 1e-4)
    levels: int = 256
    decoder_std: float = 0.05

    def log_p(self, model: Model, x_0: Tensor, condition: Condition) -> Likelihood:
        """log p(x_0 | condition), nats (B,), unguided. Refusal if the tolerance is not met."""
        denoise = cfg(model.denoiser, condition.tensors(model, len(x_0)))
        random = generator("likelihood", self.seed)
        try:
            return log_likelihood(denoise, x_0, random, self.probes, self.ode)
        except Unreached as error:
            raise Refusal(f"likelihood: {error}") from None


@dataclass(frozen=True)
class Density:
    """log p of each sample, nats (B,); of pictures also bits a dimension; or a lower bound."""

    nats: Tensor
    found: Likelihood
    bits_per_dim: Tensor | None = None
    bound: bool = False
