"""The purpose of a diffusion model: to generate pictures, or to complete them.

A model that completes pictures is given what is left of them as channels beside x_t: latent
diffusion's concatenation (Rombach et al. 2022, section 3.3), in pixels or in latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ldm.diffusion.space import Extras
from ldm.diffusion.tasks import AveragePool
from ldm.errors import Refusal, require
from ldm.pictures import masks
from ldm.pictures.space import PictureSpace

# what is left of pictures, and which pixels are known: 1 or 0, (B, 1, H, W) or (B, 1, 1, 1)
Left = tuple[Tensor, Tensor]


@dataclass
class Generate:
    """Samples of a class, a caption, or of neither."""

    use: ClassVar[str | None] = None  # the task of sample.py that such a model is for
    modality: ClassVar[str | None] = None  # of the data that it is for; None: any

    @property
    def needs(self) -> str:
        """The flags of sample.py without which such a model makes nothing."""
        return ""

    @property
    def fixed(self) -> dict[str, int]:
        """Options of that task which training has decided."""
        return {}

    def channels(self, x: int) -> int:
        """How many there are beside the x channels of x_t."""
        return 0

    def check(self, shape: tuple[int, ...]) -> None:
        """Refusal if data of this shape do not fit."""

    def degrade(self, image: Tensor, keys: Sequence[masks.Key]) -> Left:
        """What is left of pictures (B, C, H, W); row i depends on its picture and keys[i] alone."""
        return image, image.new_ones(len(image), 1, 1, 1)

    def extras(self, space: PictureSpace, given: Tensor, known: Tensor) -> Extras:
        """What the denoiser is given of what is left."""
        return {}


@dataclass
class Inpaint(Generate):
    """Fill holes: the network is given the picture with grey holes, and where they are.

    area: least and largest share of a hole; rectangles: share of the holes that are one, the
    others are strokes.
    """

    use: ClassVar[str | None] = "inpaint"
    modality: ClassVar[str | None] = "pictures"
    area: tuple[float, float] = (0.1, 0.5)
    rectangles: float = 0.5

    def __post_init__(self) -> None:
        low, high = self.area
        require(
            0 < low <= high < 1,
            f"area must be two shares 0 < LOW <= HIGH < 1, got {low} and {high}",
        )
        require(0 <= self.rectangles <= 1, f"rectangles must be in [0, 1], got {self.rectangles}")

    @property
    def needs(self) -> str:
        return "--task inpaint --image FILE --mask FILE"

    def channels(self, x: int) -> int:
        return x + 1

    def degrade(self, image: Tensor, keys: Sequence[masks.Key]) -> Left:
        height, width = image.shape[2:]
        return image, masks.draw(keys, (height, width), self.area, self.rectangles, image.device)

    def extras(self, space: PictureSpace, given: Tensor, known: Tensor) -> Extras:
        around = space.encode_mean(torch.where(known > 0, given, 0))
        return {"concat": torch.cat([around, 2 * space.on_grid(1 - known) - 1], 1)}


@dataclass
class SuperResolve(Generate):
    """Enlarge: the network is given the small picture, enlarged by bicubic interpolation.

    kernel: how training shrinks pictures, by means of squares of `factor` pixels (box) or by
    bicubic interpolation.
    """

    use: ClassVar[str | None] = "super-resolve"
    modality: ClassVar[str | None] = "pictures"
    factor: int = 4
    kernel: Literal["box", "bicubic"] = "box"

    def __post_init__(self) -> None:
        require(self.factor >= 2, f"factor must be at least 2, got {self.factor}")

    @property
    def needs(self) -> str:
        picture = f"a picture {self.factor} times smaller, or with --degrade a whole one"
        return f"--task super-resolve --image FILE ({picture})"

    @property
    def fixed(self) -> dict[str, int]:
        return {"factor": self.factor}

    def channels(self, x: int) -> int:
        return x

    def check(self, shape: tuple[int, ...]) -> None:
        if any(side % self.factor for side in shape[1:]):
            raise Refusal(
                f"task.factor: {self.factor} does not divide the data's "
                f"{shape[2]} x {shape[1]} pixels; give one that does"
            )

    def degrade(self, image: Tensor, keys: Sequence[masks.Key]) -> Left:
        if self.kernel == "box":
            small = AveragePool(self.factor)(image)
        else:
            small = interpolate(image, scale_factor=1 / self.factor, mode="bicubic", antialias=True)
            small = small.clamp(-1, 1)
        return small, image.new_ones(len(image), 1, 1, 1)

    def extras(self, space: PictureSpace, given: Tensor, known: Tensor) -> Extras:
        large = interpolate(given, scale_factor=self.factor, mode="bicubic")
        return {"concat": space.encode_mean(large.clamp(-1, 1))}


Purpose = Generate | Inpaint | SuperResolve  # `task` in a config


def expect_plain(purpose: Purpose, what: str) -> None:
    """Refuse `what`, which gives no picture, to a model that completes pictures."""
    if purpose.use is not None:
        raise Refusal(
            f"{what} gives the model no picture; this checkpoint is trained for {purpose.use} "
            f"and needs {purpose.needs}"
        )
