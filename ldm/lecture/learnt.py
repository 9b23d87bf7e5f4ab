"""4. The learnt field against the exact one: what is still learnt when the loss is flat."""

from dataclasses import dataclass, field

import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.schedules import Cosine
from ldm.lecture.base import Made
from ldm.lecture.data import Lesson, few, learn, plane, randn
from ldm.points.exact import Mixture, exact_denoiser
from ldm.points.metrics import denoiser_errors, error_times
from ldm.points.plots import ARROWS, arrows, cloud, limits, mesh, window
from ldm.system.plots import picture, say, sheet, styled
from ldm.system.randomness import generator

AT = 0.15  # time of the field
CAPTION = (
    "Left: the loss is flat after 100 steps, since most of it is noise that no network can predict "
    "(dashed: the loss of the exact denoiser). The error against the exact denoiser goes on "
    "falling: that is what training still buys. Middle: the error by time at three steps. Right: "
    "the learnt score (red) over the exact one (black) on noisy data (grey)."
)
BROKEN = (
    "Training drew times t from 0.5 to 1 alone. The loss is flat and gives no sign. Below 0.5 the "
    "network has seen nothing: its error there is large (middle), and its arrows miss the peaks "
    "(right). A mean loss cannot show which times are wrong: look at the loss by time."
)


@dataclass
class Story:
    """What was seen along training: the loss of each step, and errors by time at some."""

    law: Mixture
    count: int
    x_0: Tensor = field(init=False)
    losses: list[float] = field(default_factory=list)
    errors: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.x_0 = self.law.draw(self.count, generator("lecture", "story")).float()
        self.times = error_times(20)

    def __call__(self, step: int, denoiser: Denoiser, loss: float) -> None:
        self.losses.append(loss)
        if step + 1 in (1, 10, 30, 100, 200, 400, 700):
            exact, random = exact_denoiser(self.law, denoiser.schedule), generator("story")
            self.errors[step + 1] = denoiser_errors(denoiser, exact, self.x_0, self.times, random)

    def least(self) -> float:
        """The v-loss of the exact denoiser, mean over t: what nothing can go below."""
        exact = exact_denoiser(self.law, Cosine())
        total = torch.zeros(())
        for t in self.times:
            alpha, sigma = exact.schedule(t)
            x_t = alpha * self.x_0 + sigma * randn(*self.x_0.shape, key=f"least {t:.3f}").float()
            total = total + ((self.x_0 - exact(x_t, t)) / sigma).square().mean()
        return (total / len(self.times)).item()


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    law = plane()
    story = Story(law, few(1000, size))
    lesson = Lesson(steps=few(700, size, 100), t_min=0.5 if broken else 1e-3)
    denoiser = learn(lesson, law.draw, story)
    means = {step: errors.mean().item() for step, errors in story.errors.items()}
    last = [*story.errors.values()][-1]
    near, far = last[story.times < 0.5].mean().item(), last[story.times > 0.5].mean().item()
    numbers = {"error by step": means, "loss, last 50 steps": sum(story.losses[-50:]) / 50}
    numbers |= {"loss of the exact denoiser": story.least()}
    numbers |= {"error for t below 0.5": near, "error for t above 0.5": far}
    return Made(drawn(story, denoiser), BROKEN if broken else CAPTION, numbers)


@styled()
def drawn(story: Story, denoiser: Denoiser) -> Image.Image:
    """Loss and error over steps, error over time, and the field."""
    figure, axes = sheet("When the loss is flat, the field still gets better", 1, 3, (13, 4.2))
    ax, middle, right = axes[0]
    ax.plot(range(1, len(story.losses) + 1), story.losses, color="#bbbbbb", label="loss")
    ax.axhline(story.least(), color="black", ls="--", lw=1, label="loss of the exact denoiser")
    means = [errors.mean() for errors in story.errors.values()]
    ax.plot([*story.errors], means, "o-", color="#d1495b", label="error against the exact one")
    say(ax, "training step", "loss; RMS error", xscale="log", yscale="log")
    ax.legend(fontsize=8)
    for step, errors in [*story.errors.items()][-3:]:
        middle.plot(story.times, errors, label=f"after {step} steps")
    say(middle, "time t (0 = data)", r"RMS of $\hat x_0 - E[x_0\,|\,x_t]$", ylim=(0, None))
    middle.legend()
    _field(right, story, denoiser)
    return picture(figure)


def _field(ax: Axes, story: Story, denoiser: Denoiser) -> None:
    t, exact = torch.tensor(AT, dtype=torch.float64), exact_denoiser(story.law, denoiser.schedule)
    alpha, sigma = denoiser.schedule(t)
    x_t = alpha * story.x_0 + sigma * randn(*story.x_0.shape, key="field").float()
    ends = limits(x_t)
    at = mesh(ends, ARROWS)
    cloud(ax, x_t, "#9aa0a6")
    with torch.no_grad():
        pair = [(alpha * one(at, t) - at) / sigma**2 for one in (denoiser, exact)]
    arrows(ax, at, pair[0].float(), pair[1].float(), (ends[0][1] - ends[0][0]) / ARROWS)
    window(ax, ends, title=f"score at t = {AT}: learnt (red), exact (black)")
