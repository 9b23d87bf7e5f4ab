"""What a diffusion model is trained for: pictures of nothing, or what is left of a picture made whole.

A trained task draws what is left of training pictures, and tells the network of it by channels beside x_t: latent
diffusion's concatenation (Rombach et al. 2022, section 3.3), in pixels or in latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ldm.diffusion.space import Told
from ldm.diffusion.tasks import AveragePool
from ldm.errors import Refusal, require
from ldm.pictures import masks
from ldm.pictures.space import PictureSpace

Left = tuple[
    Tensor, Tensor | None
]  # what is left of pictures, and which of its pixels are known where that is a question


@dataclass
class Generate:
    """Samples of a class, a caption, or nothing."""

    use: ClassVar[None] = None  # sample.py's --task

    def channels(self, x: int) -> int:
        """How many there are beside x_t's own."""
        return 0

    def check(self, shape: tuple[int, ...]) -> None:
        """Refusal if data of this shape do not fit."""

    def degrade(self, image: Tensor, keys: Sequence[masks.Key]) -> Left:
        """What is left of pictures (B, C, H, W); row i is a function of its picture and keys[i] alone."""
        return image, None

    def tell(self, space: PictureSpace, given: Tensor, known: Tensor | None) -> Told:
        """What the denoiser is told of what is left."""
        return {}


@dataclass
class Inpaint(Generate):
    """Fill holes: the network is given the picture with its holes grey, and where they are.

    area: least and largest share of a hole; rectangles: share of the holes that are one, the others are strokes.
    """

    use: ClassVar[str] = "inpaint"
    needs: ClassVar[str] = "--task inpaint --image FILE --mask FILE"
    area: tuple[float, float] = (0.1, 0.5)
    rectangles: float = 0.5

    def __post_init__(self) -> None:
        low, high = self.area
        require(
            0 < low <= high < 1,
            f"area must be two shares 0 < LOW <= HIGH < 1, got {low} and {high}",
        )
        require(0 <= self.rectangles <= 1, f"rectangles must be in [0, 1], got {self.rectangles}")

    def channels(self, x: int) -> int:
        return x + 1

    def degrade(self, image: Tensor, keys: Sequence[masks.Key]) -> Left:
        return image, masks.draw(keys, image.shape[2:], self.area, self.rectangles, image.device)

    def tell(self, space: PictureSpace, given: Tensor, known: Tensor | None) -> Told:
        hole = space.on_grid(1 - known)
        return {
            "concat": torch.cat(
                [space.encode_mean(torch.where(known > 0, given, 0)), 2 * hole - 1], 1
            )
        }


@dataclass
class SuperResolve(Generate):
    """Enlarge: the network is given the small picture, enlarged by bicubic interpolation.

    kernel: how training shrinks pictures, by means of squares of `factor` pixels (box) or by bicubic interpolation.
    """

    use: ClassVar[str] = "super-resolve"
    factor: int = 4
    kernel: Literal["box", "bicubic"] = "box"

    def __post_init__(self) -> None:
        require(self.factor >= 2, f"factor must be at least 2, got {self.factor}")

    @property
    def needs(self) -> str:
        return f"--task super-resolve --image FILE (a picture {self.factor} times smaller, or with --degrade a whole one)"

    def channels(self, x: int) -> int:
        return x

    def check(self, shape: tuple[int, ...]) -> None:
        if any(side % self.factor for side in shape[1:]):
            raise Refusal(
                f"task.factor: {self.factor} does not divide the data's {shape[2]} x {shape[1]} pixels; give one that does"
            )

    def degrade(self, image: Tensor, keys: Sequence[masks.Key]) -> Left:
        if self.kernel == "box":
            return AveragePool(self.factor)(image), None
        return interpolate(
            image, scale_factor=1 / self.factor, mode="bicubic", antialias=True
        ).clamp(-1, 1), None

    def tell(self, space: PictureSpace, given: Tensor, known: Tensor | None) -> Told:
        return {
            "concat": space.encode_mean(
                interpolate(given, scale_factor=self.factor, mode="bicubic").clamp(-1, 1)
            )
        }


AnyTask = Generate | Inpaint | SuperResolve


def expect_plain(task: AnyTask, what: str) -> None:
    """Refuse `what`, which makes pictures of nothing, to a model that needs something."""
    if task.use is not None:
        raise Refusal(
            f"{what} makes pictures of nothing; this checkpoint is trained for {task.use} and needs {task.needs}"
        )
