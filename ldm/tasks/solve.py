"""The tasks on batches of pictures: the tasks of `ldm.diffusion.tasks` between a space's encoder and decoder.

Pictures are (B, C, H, W) in [-1, 1], a row a sample, its noise from its own seed; all but `trained` need no training for a task.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.config import SampleConfig
from ldm.diffusion import flow, solvers, tasks
from ldm.diffusion.solvers import Solver
from ldm.diffusion.space import Told
from ldm.errors import Refusal
from ldm.sampling.conditions import Condition, bind
from ldm.sampling.model import Model
from ldm.system.randomness import SampleNoise

METHODS = {
    "inpaint": {"pixel": ("guide", "project", "repaint"), "latent": ("guide", "blend")},
    "super-resolve": {"pixel": ("guide", "project"), "latent": ("guide",)},
    "denoise": {"pixel": ("restore", "guide"), "latent": ("restore", "guide")},
    "edit": {"pixel": ("edit",), "latent": ("edit",)},
    "interpolate": {"pixel": ("flow",), "latent": ("flow",)},
}  # the first is the default
LATENT_GAIN = 4  # noise of std s in pixels is taken for 4 s in whitened latents: measured on Fashion-MNIST, see LOG.md
DECODER_STD = 0.05  # of a decoder's own error: no latent decodes to a picture exactly


def kind(model: Model) -> str:
    return model.space.kind


def methods(model: Model, task: str) -> tuple[str, ...]:
    """How a model does a task, the default first; of a trained one no other task than its own."""
    if model.purpose.use is None:
        return METHODS[task][kind(model)]
    return ("trained",) if model.purpose.use == task else ()


@dataclass
class Prior:
    """A model and its settings, bound to a batch of seeds, to a class or none and to a caption a seed or none.

    `watch(step, x_s, x0_hat)` sees each step.
    """

    model: Model
    settings: SampleConfig
    seeds: Sequence[int]
    label: int | None = None
    prompts: Sequence[str] | None = None
    watch: Callable[[int, Tensor, Tensor], None] | None = None

    def __post_init__(self) -> None:
        self.device = self.model.device
        self.schedule = self.model.denoiser.schedule
        self.randn = SampleNoise(self.seeds, self.model.space.shape, self.device)
        try:
            self.times = self.schedule.grid(self.settings.steps, self.settings.grid)
        except ValueError as error:
            raise Refusal(f"sample: {error}") from None

    def denoise(self, rows: int = 0, **told: Tensor) -> tasks.Guided:
        """The model given class and caption, guided as the settings say; of neither, its unconditional side.

        For so many rows; `told` is what a trained task tells it, guided or not.
        """
        count = rows or len(self.seeds)
        labels = None if self.label is None else [self.label] * count
        prompts = None if self.prompts is None else (list(self.prompts) * count)[:count]
        return bind(self.model, self.settings, Condition(labels, prompts, told), count)

    def begin(self) -> Tensor:
        return solvers.start(self.schedule, self.times[0], self.randn())

    def run(
        self, denoise: solvers.Denoise, x: Tensor, times: Tensor, solver: Solver | None = None
    ) -> Tensor:
        """From x at times[0] to pictures."""
        try:
            x = solvers.sample(
                solver or self.settings.solver, denoise, x, times, self.randn, self.watch
            )
        except solvers.Unreached as error:
            raise Refusal(f"sample: {error}") from None
        if not torch.isfinite(x).all():
            raise Refusal(
                "the task gave numbers that are not finite; try more steps or another solver"
            )
        return self.model.space.decode(x)

    def through(self, operator: tasks.Operator, y: Tensor, noise_std: float) -> solvers.Denoise:
        """The model of latents guided by what their pictures measure."""
        std = (noise_std**2 + operator.gram * DECODER_STD**2) ** 0.5
        return tasks.guide_through(self.denoise(), self.model.space.picture, operator, y, std)

    def measured(
        self, operator: tasks.Operator, y: Tensor, noise_std: float, method: str, resamples: int = 4
    ) -> Tensor:
        """Samples of x given y = A x + n by project, guide or repaint."""
        solver = self.settings.solver
        if method == "guide" and kind(self.model) == "latent":
            denoise = self.through(operator, y, noise_std)
        else:
            denoise = (
                tasks.guide(self.denoise(), operator, y, noise_std)
                if method == "guide"
                else self.denoise()
            )
            denoise = denoise if noise_std else tasks.project(denoise, operator, y)
        if method == "repaint":
            solver = tasks.Repaint(solver, resamples)
        return self.run(denoise, self.begin(), self.times, solver)

    def blended(self, known: Tensor, images: Tensor) -> Tensor:
        """In-painting by the latents' own mask: a cell is known if all of its pixels are; the hole is encoded as grey."""
        hole = self.model.space.on_grid(1 - known.float())
        middle = (images * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(
            min=1
        )
        latents = self.model.space.encode_mean(torch.where(known > 0, images, middle))
        operator = tasks.Mask(1 - hole)
        return self.run(
            tasks.project(self.denoise(), operator, operator(latents)), self.begin(), self.times
        )


def trained(prior: Prior, given: Tensor, known: Tensor | None = None) -> Tensor:
    """Pictures by a model that was trained to make them of what is left: of `given`, or of its known pixels."""
    told: Told = prior.model.purpose.tell(prior.model.space, given, known)
    return prior.run(prior.denoise(**told), prior.begin(), prior.times)


def inpaint(prior: Prior, images: Tensor, known: Tensor, method: str, resamples: int = 4) -> Tensor:
    """Pictures whose pixels with known = 0 are made; the others as the method leaves them: exact by `project` in pixels."""
    if method == "blend":
        return prior.blended(known, images)
    operator = tasks.Mask(known)
    return prior.measured(operator, operator(images), 0.0, method, resamples)


def paste(made: Tensor, images: Tensor, known: Tensor) -> Tensor:
    """The known pixels put back over what was made."""
    return torch.where(known > 0, images, made)


def super_resolve(prior: Prior, small: Tensor, factor: int, method: str) -> Tensor:
    """Pictures whose means over squares of `factor` pixels are `small`."""
    return prior.measured(tasks.AveragePool(factor), small, 0.0, method)


def denoise(prior: Prior, noisy: Tensor, noise_std: float, method: str) -> Tensor:
    """Samples of p(x | noisy): by `restore` from the noise's own time, by `guide` all the way from t = 1.

    In latents the noise is not white: there `restore` starts from the encoded picture with noise of LATENT_GAIN its size
    over it, and is guided by the picture.
    """
    if method == "guide":
        return prior.measured(tasks.Identity(), noisy, noise_std, method)
    if kind(prior.model) == "pixel":
        t, x = tasks.restore(prior.schedule, noisy, noise_std)
        return prior.run(prior.denoise(), x, tasks.below(prior.times, t))
    lam = -torch.tensor(LATENT_GAIN * noise_std, dtype=torch.float64).log()
    strength = prior.schedule.inverse_log_snr(lam).clamp(1e-3, 1).item()
    t, x = tasks.edit(
        prior.schedule, prior.model.space.encode_mean(noisy.clamp(-1, 1)), strength, prior.randn()
    )
    return prior.run(
        prior.through(tasks.Identity(), noisy, noise_std), x, tasks.below(prior.times, t)
    )


def denoised_mean(prior: Prior, noisy: Tensor, noise_std: float) -> Tensor:
    """E[x | noisy] by one call, in pixels: the least squared error there is."""
    return tasks.posterior_mean(prior.denoise(), noisy, noise_std).clamp(-1, 1)


def edit(prior: Prior, images: Tensor, strength: float) -> Tensor:
    """SDEdit: noised up to t = strength, and down again."""
    t, x = tasks.edit(
        prior.schedule, prior.model.space.encode_mean(images), strength, prior.randn()
    )
    return prior.run(prior.denoise(), x, tasks.below(prior.times, t))


FLOW = flow.Ode(1e-4, 1e-4)  # by which two pictures are carried to noise and back


def interpolate(
    prior: Prior, first: Tensor, second: Tensor, weights: Sequence[float], batch: int = 64
) -> Tensor:
    """Pictures between two (1, C, H, W): both carried to noise by the flow, mixed on the sphere, carried back, (K, ...).

    `batch` of them are carried back at once.
    """
    try:
        ends = flow.to_noise(
            prior.denoise(2), prior.model.space.encode_mean(torch.cat([first, second])), FLOW
        )
        noise = torch.cat([flow.slerp(ends[:1], ends[1:], weight) for weight in weights])
        parts = [
            flow.from_noise(prior.denoise(len(part)), part, FLOW) for part in noise.split(batch)
        ]
        return torch.cat([prior.model.space.decode(part) for part in parts])
    except solvers.Unreached as error:
        raise Refusal(f"interpolate: {error}") from None
