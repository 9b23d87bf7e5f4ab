"""De-noising: samples of p(x | x + noise), and their mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ldm.errors import Refusal
from ldm.tasks.base import Task
from ldm.tasks.options import Control, option

if TYPE_CHECKING:
    from torch import Tensor

    from ldm.sampling.model import Model
    from ldm.tasks.cases import Case
    from ldm.tasks.output import Result
    from ldm.tasks.prior import Prior

# noise of std s in pixels is taken for 4 s in whitened latents: measured on Fashion-MNIST, LOG.md
LATENT_GAIN = 4
LEAST = 1 / 255  # noise that a file of 8 bits can hold


@dataclass(frozen=True)
class Denoising(Task):
    """Samples of p(x | y), y = x + n, n ~ N(0, noise_std^2).

    `restore` starts from the noise's own time, `guide` goes all the way from t = 1. In latents the
    noise is not white: there `restore` starts from the encoded picture with noise of LATENT_GAIN
    its size over it, and is guided by the picture.
    """

    name = "denoise"
    about = "takes noise away"
    page = "De-noise"
    methods: ClassVar = {"pixel": ("restore", "guide"), "latent": ("restore", "guide")}
    controls: ClassVar = {
        "noise_std": Control(
            "slider", "Noise", 0.5, "of the range -1 ... 1; 0: estimated", (0, 2), most=10
        ),
        "degrade": Control("tick", "Add this noise first", True),
    }

    noise_std: float | None = option(
        None, "the noise, of the range -1 ... 1 (default: estimated)", "S", float
    )

    @classmethod
    def on_page(cls, values: Mapping[str, Any], whole: bool, method: str | None) -> Self:
        std, add = values["noise_std"] or None, values["degrade"]
        if add and std is None:
            raise Refusal("noise: say how much is to be added")
        return cls(method=method, degrade=add, noise_std=std)

    def fitted(self, model: Model) -> Self:
        if self.noise_std is not None:
            check_noise(model, self.noise_std, "--noise-std")
        return self

    def ready(self, model: Model, case: Case, seed: int, where: str) -> Case:
        """The noise added, or known, or estimated. Refusal if there is none, or too much."""
        from ldm.diffusion.tasks import noise_level

        case = super().ready(model, case, seed, where)
        std = self.noise_std or noise_level(case.given[None])
        if std < LEAST:
            raise Refusal(
                f"--image: no noise was found in {where}; say how much there is by --noise-std"
            )
        check_noise(model, std, f"--image: in {where}, estimated")
        return dataclasses.replace(case, noise_std=std)

    def degraded(self, model: Model, case: Case, seed: int) -> Case:
        """The noise added, always the same of one seed and name."""
        import torch

        from ldm.system.randomness import generator

        if self.noise_std is None:
            raise Refusal("--degrade: --task denoise needs --noise-std, how much noise to add")
        noise = torch.randn(case.given.shape, generator=generator(seed, "degrade", case.name))
        return dataclasses.replace(
            case, given=case.given + self.noise_std * noise, truth=case.given
        )

    def make(self, prior: Prior, case: Case) -> Tensor:
        from ldm.diffusion.tasks import Identity, denoising_start, edit

        noisy, std = case.given, case.noise_std
        if self.method == "guide":
            return prior.sample(prior.guided(Identity(), noisy, std))
        if not prior.latent:
            return prior.below(prior.denoise(), *denoising_start(prior.schedule, noisy, std))
        latents, t = prior.space.encode_mean(noisy.clamp(-1, 1)), latent_time(prior, std)
        start = edit(prior.schedule, latents, t, prior.randn())
        return prior.below(prior.guided(Identity(), noisy, std), *start)

    def result(self, prior: Prior, case: Case, made: Tensor) -> Result:
        """With the posterior's mean where it is one call of the network."""
        import torch

        result, notes = super().result(prior, case, made), {"noise_std": round(case.noise_std, 4)}
        if self.method != "restore" or prior.latent:
            return dataclasses.replace(result, notes=notes)
        one = dataclasses.replace(case, given=case.given[None].to(prior.device))
        with torch.no_grad():
            mean = mean_picture(prior.rows([0]), one)[0].cpu()
        return dataclasses.replace(result, notes=notes, mean=mean)

    def said(self, case: Case) -> str:
        return f", noise {case.noise_std:.3g} of the range -1 ... 1"


def mean_picture(prior: Prior, case: Case) -> Tensor:
    """E[x | noisy] of a batch by one call, in pixels: the least squared error there is."""
    from ldm.diffusion import tasks

    return tasks.denoise_once(prior.denoise(), case.given, case.noise_std).clamp(-1, 1)


def latent_time(prior: Prior, std: float) -> float:
    """The t whose noise is LATENT_GAIN std."""
    import torch

    lam = -torch.tensor(LATENT_GAIN * std, dtype=torch.float64).log()
    return prior.schedule.inverse_log_snr(lam).clamp(1e-3, 1).item()


def check_noise(model: Model, std: float, what: str) -> None:
    """Refusal of noise that the model's schedule has not."""
    from ldm.diffusion.tasks import noise_time

    try:
        noise_time(model.schedule, std)
    except ValueError as error:
        raise Refusal(
            f"{what}: {error}; it is in units of the range -1 ... 1 (25 grey levels of 255 are 0.2)"
        ) from None
