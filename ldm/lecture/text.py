"""17. One prompt, guidance from 0 to 8."""

from typing import Any

from PIL import Image
from torch import Tensor

from ldm.lecture.base import Made, across
from ldm.lecture.box import Asked, in_the_box, wall
from ldm.lecture.data import few
from ldm.sampling.conditions import Condition
from ldm.system.plots import picture, say, sheet, styled

PROMPT, SCALES, COUNT, STEPS = "red heart", (0.0, 1.0, 2.0, 3.0, 5.0, 8.0), 6, 20
CAPTION = (
    f'Six samples of the prompt "{PROMPT}" from the same noise, by guidance. At 0 the caption is '
    "ignored: any emoji. At 1 the model is asked as it was trained, and some samples miss. At 2 "
    "and 3 all are hearts; above it they are all the same one, and stains appear. Left below: the "
    "share of the denoiser's error that the caption removes, which is how well the caption "
    "explains the samples: most at 2 to 3. Right below: how much they differ from each other: less "
    "and less."
)
BROKEN = (
    "The two calls of the network have changed places: x_cond + w (x_null - x_cond). Guidance now "
    "pulls away from the caption: at 0 the samples are the caption's, at 1 any emoji, and above it "
    "what the caption is least of. The curve of evidence falls where it should rise."
)


def draw(*, broken: bool = False, size: float = 1.0) -> Made:
    n, steps = few(COUNT, size, 4), few(STEPS, size, 8)
    asked = Asked(in_the_box("emoji-latent"), Condition(prompts=[PROMPT] * n), n)
    made = {scale: asked.guided(scale, steps, broken=broken) for scale in SCALES}
    measured = {scale: asked.measured(x_0) for scale, x_0 in made.items()}
    shown = {scale: asked.pictures(x_0) for scale, x_0 in made.items()}
    return Made(drawn(shown, measured), BROKEN if broken else CAPTION, {"by guidance": measured})


@styled()
def drawn(shown: dict[float, Tensor], measured: dict[float, dict[str, float]]) -> Image.Image:
    """A column of samples for each scale, and what is measured of them."""
    ratios: Any = {"height_ratios": (1.25, 1)}
    figure, axes = sheet(f'"{PROMPT}", by guidance', 2, len(shown), (11, 7.4), **ratios)
    for ax, (scale, pictures) in zip(axes[0], shown.items(), strict=True):
        wall(ax, pictures, 2, f"guidance {scale:g}")
    left, right = across(figure, axes[1, :3]), across(figure, axes[1, 3:])
    left.plot([*measured], [100 * one["evidence"] for one in measured.values()], "o-")
    say(left, "scale of guidance", "error that the caption\nremoves (%)")
    right.plot([*measured], [one["variety"] for one in measured.values()], "o-", color="#d55e00")
    say(
        right,
        "scale of guidance",
        "variety: std of a pixel\nover samples (-1 to 1)",
        ylim=(0, None),
    )
    return picture(figure)
