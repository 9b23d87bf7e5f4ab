"""2. What each schedule leaves of the data, and what happens where its end is not noise."""

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.schedules import VE, VP, Cosine, Discrete, Linear, Schedule, SubVP
from ldm.diffusion.solvers import Heun, sample, start
from ldm.lecture.base import Made
from ldm.lecture.data import few, randn
from ldm.points.exact import Mixture, exact_denoiser
from ldm.system.plots import picture, say, sheet, styled

LAWS: dict[str, Schedule] = {
    "VP (linear beta)": VP(),
    "sub-VP": SubVP(),
    "cosine": Cosine(),
    "flow matching": Linear(),
    "DDPM's table": Discrete(),
    "VE": VE(),
}
SHORT = VP(0.1, 3.0)  # alpha_1 = 0.46
CAPTION = (
    "Left: the share of signal alpha-bar = alpha^2 / (alpha^2 + sigma^2) that each schedule leaves "
    "at t. Middle: log-SNR, which falls for all of them; only the pace differs. Right: pictures' "
    "brightness (a law of a dark and a bright peak) and what the exact denoiser makes of pure "
    "noise: where alpha-bar ends near 0 the samples have the data's brightness."
)
BROKEN = (
    "The red schedule stops at alpha_1 = 0.46: x_1 still knows the data, but sampling starts from "
    "pure noise. The exact denoiser, with no error of its own, then makes samples that are too "
    "near to grey (0): both peaks are pulled to the middle, and the bright one is too rare. This "
    "is why Stable Diffusion 1 cannot make a black or a white picture (Lin et al. 2024)."
)


def brightness() -> Mixture:
    """Mean brightness of pictures, mostly bright."""
    return Mixture.round([[-1.5], [2.0]], [0.25, 0.25], [0.25, 0.75])


def samples(schedule: Schedule, count: int) -> Tensor:
    """Of the exact denoiser, from pure noise."""
    exact, times = exact_denoiser(brightness(), schedule), schedule.grid(60, "karras")
    noise = start(schedule, times[0], randn(count, 1, key="schedules"))
    return sample(Heun("angle"), exact, noise, times, lambda: noise)[:, 0]


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    laws = LAWS | ({"VP that stops early": SHORT} if broken else {})
    schedule, law = SHORT if broken else LAWS["cosine"], brightness()
    made = samples(schedule, few(20_000, size, 1000))
    one = torch.ones((), dtype=torch.float64)
    ends = {name: law_of(one)[0].item() for name, law_of in laws.items()}
    wanted = (law.weights * law.means[:, 0]).sum().item()
    numbers = {"alpha_1": ends, "mean brightness": made.mean().item(), "of the data": wanted}
    return Made(drawn(laws, law, made), BROKEN if broken else CAPTION, numbers)


@styled()
def drawn(laws: dict[str, Schedule], law: Mixture, made: Tensor) -> Image.Image:
    """Signal and log-SNR over t; brightness of data and samples."""
    figure, axes = sheet("What a schedule leaves of the data", 1, 3, (12, 4))
    t = torch.linspace(0.001, 0.999, 400).double()
    for name, schedule in laws.items():
        alpha, sigma = schedule(t)
        style = {"color": "red", "lw": 2.5} if schedule is SHORT else {}
        axes[0, 0].plot(t, alpha**2 / (alpha**2 + sigma**2), label=name, **style)
        axes[0, 1].plot(t, schedule.log_snr(t), label=name, **style)
    say(axes[0, 0], "time t", "share of signal", ylim=(0, 1.02))
    say(axes[0, 1], "time t", r"log-SNR $\lambda$", ylim=(-9, 9))
    axes[0, 0].legend(fontsize=8)
    x = torch.linspace(-3, 3.5, 300).double()
    edges = torch.linspace(-3, 3.5, 80).numpy()
    axes[0, 2].hist(made.numpy(), edges, density=True, color="#d1495b", alpha=0.6, label="samples")
    axes[0, 2].plot(x, law.log_density(x[:, None]).exp(), "k", label="data")
    say(axes[0, 2], "brightness of a picture (0 = grey)", "density")
    axes[0, 2].legend()
    return picture(figure)
