"""Data sets handed over in Python: `ldm.train(config, images=dataset)`.

They are read once, in order, and held in memory, so that batch k is a function of (seed, k) as of
any other data. A checkpoint trained on them samples without them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from ldm.errors import Refusal, printable, say
from ldm.pictures.images import ImageData, Images, ImageTensor
from ldm.pictures.items import parted, rows, tensor_of
from ldm.pictures.opening import View
from ldm.pictures.transforms import Range, is_range
from ldm.system.progress import shown
from ldm.system.randomness import permutation

HOLDOUT = 10  # one in so many is held out where no test set is given
SPANS = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))  # black and white where none are stated
LEVEL = 1e-3  # of 255 grey levels: floats that lie so near to whole ones are bytes


@dataclass
class Given(ImageData):
    """Pictures given in Python: the config can be saved and sampled, not trained by a command."""

    configured: ClassVar[bool] = False

    @classmethod
    def like(cls, other: Any) -> "Given":
        """With another data set's batch size, workers and flip."""
        return cls(other.batch_size, other.workers, other.flip)

    def load(self) -> NoReturn:
        raise Refusal("the data of this run was given in Python: ldm.train(config, images=...)")


def from_dataset(
    dataset: Iterable[Any] | Images,
    *,
    test: Iterable[Any] | None = None,
    classes: Sequence[str] | None = None,
    span: Range | None = None,
    name: str = "images",
) -> Images:
    """A torch Dataset (or any iterable) of pictures as a data set of ldm.

    `Images` pass as they are.

    An item is a picture; a pair (picture, class); or a dict with `image`, and perhaps `label` and
    `text` (a caption), whose further keys (numbers, tensors of one shape, texts) stay in every
    batch. A picture is a tensor (C, H, W) or (H, W), an array (H, W) or (H, W, C), or PIL's, all of
    one size and number of channels.

    A class is a number or a name. `classes` are the names; by default `dataset.classes`, else the
    names met, sorted, else "0", "1", ... up to the largest number. One class alone is none.

    Bytes or floats: uint8 and 8-bit pictures are bytes, and so are floats that lie on 256 levels of
    [0, 1], [-1, 1] or [0, 255], as ToTensor makes them. Others are floats, and samples too: `span`
    states what is black and white (beyond it they are clipped, which is said); by default it is the
    first of those three that holds them all.

    Held out: `test`; without it one in 10, the same ones every time. Refusal, in one line, for what
    cannot be read so.
    """
    if isinstance(dataset, Images):
        return dataset
    if span is not None and not is_range(tuple(span)):
        raise Refusal(f"{name}: span must be (BLACK, WHITE), got {span}")
    parts = [_Read.of(dataset, name)]
    if test is not None:
        parts.append(_Read.of(test, f"{name}, test", parts[0]))
    return _joined(parts, classes or getattr(dataset, "classes", None), span)


def _joined(parts: Sequence["_Read"], classes: Sequence[str] | None, span: Range | None) -> Images:
    """The data set of what was read: of training, and of test where it is given."""
    names, found = _classes(parts, classes), _Values.of(parts, span, parts[0].name)
    whole = [
        ImageTensor(found.stored(part.images), part.numbers(names), part.columns())
        for part in parts
    ]
    train, held = whole if len(whole) > 1 else _split(whole[0])
    channels, height, width = whole[0].images.shape[1:]
    shape = channels, height, width
    view = View(shape, range=found.span, floats=True) if found.floats else None
    return Images(train, held, names if len(names) > 1 else (), shape, view)


# -- what is read ---------------------------------------------------------------------------------
@dataclass
class _Read:
    """Every picture of a data set and its annotations, checked against the first."""

    name: str
    images: list[Tensor] = field(default_factory=list)
    more: dict[str, list[Any]] = field(
        default_factory=dict
    )  # by key, `label` and `text` among them

    @classmethod
    def of(cls, dataset: Iterable[Any], name: str, like: "_Read | None" = None) -> "_Read":
        """Refusal where a row cannot be read or is not like the first.

        Of `like`, if it is given.
        """
        found = cls(name)
        count = len(dataset) if isinstance(dataset, Sized) else None
        items = shown(rows(dataset, name), f"data: {name}", unit="pictures", total=count)
        for i, item in enumerate(items):
            where = f"{name}[{i}]"
            picture, said = parted(item, where)
            found.images.append(tensor_of(picture, where))
            _expect_like((like or found).images[0], found.images[-1], where, name)
            if i and said.keys() != found.more.keys():
                odd = sorted(said.keys() ^ found.more.keys())[0]
                here, there = (where, f"{name}[0]")[:: 1 if odd in said else -1]
                raise Refusal(f"{here} has '{odd}', {there} has not; give it to all or to none")
            for key, value in said.items():
                found.more.setdefault(key, []).append(value)
        if not found.images:
            raise Refusal(f"{name}: it holds no picture")
        if like and like.more.keys() != found.more.keys():
            odd = sorted(like.more.keys() ^ found.more.keys())[0]
            raise Refusal(f"{name}: '{odd}' is in one of train and test alone; give it to both")
        return found

    def numbers(self, names: Sequence[str]) -> Tensor:
        """The class of every picture, (N,); 0 where there are none."""
        labels = self.more.get("label")
        if labels is None:
            return torch.zeros(len(self.images), dtype=torch.long)
        place = {name: i for i, name in enumerate(names)}
        for i, label in enumerate(labels):
            known = label in place if isinstance(label, str) else 0 <= label < len(names)
            if not known:
                said = f"class {printable(str(label))} is not one of the {len(names)} classes"
                raise Refusal(f"{self.name}[{i}]: {said}: {', '.join(names[:20])}")
        return torch.tensor([place[v] if isinstance(v, str) else v for v in labels])

    def columns(self) -> dict[str, Tensor | list[Any]]:
        """All but the labels: numbers and tensors stacked, texts as lists."""
        return {k: self._column(k, v) for k, v in self.more.items() if k != "label"}

    def _column(self, key: str, values: list[Any]) -> Tensor | list[Any]:
        if all(isinstance(value, str) for value in values):
            return values
        try:
            return torch.stack([torch.as_tensor(value) for value in values])
        except (TypeError, ValueError, RuntimeError):
            what = "numbers, tensors of one shape, or texts"
            raise Refusal(f"{self.name}: '{key}' must be {what} in every item") from None


def _expect_like(first: Tensor, picture: Tensor, where: str, name: str) -> None:
    if picture.shape != first.shape:
        shapes = f"{tuple(picture.shape)}, the first has {tuple(first.shape)}"
        raise Refusal(f"{where}: {shapes}; give pictures of one size and mode (a transform)")
    if picture.dtype != first.dtype:
        raise Refusal(f"{where}: {picture.dtype}, the first has {first.dtype}; give one type")


# -- what is made of it ---------------------------------------------------------------------------
def _classes(parts: Sequence[_Read], stated: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the classes: those stated, those met, or numbers; none without labels."""
    labels = [label for part in parts for label in part.more.get("label", [])]
    if not labels:
        return ()
    named = [isinstance(label, str) for label in labels]
    if stated:
        names = tuple(map(str, stated))
    elif all(named):
        names = tuple(sorted(set(labels)))
    elif any(named):
        raise Refusal(f"{parts[0].name}: some classes are numbers and some are names")
    else:
        names = tuple(map(str, range(max(labels) + 1)))
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise Refusal(f"{parts[0].name}: two classes are called '{printable(twice[0])}'")
    return names


@dataclass(frozen=True)
class _Values:
    """What the numbers of all pictures are: bytes or floats, from black to white."""

    floats: bool
    span: Range

    @classmethod
    def of(cls, parts: Sequence[_Read], span: Range | None, name: str) -> "_Values":
        images = [image for part in parts for image in part.images]
        if images[0].dtype == torch.uint8:
            return cls(False, (0.0, 255.0))
        low, high = min(float(i.min()) for i in images), max(float(i.max()) for i in images)
        if span is None:
            holding = [s for s in SPANS if s[0] <= low and high <= s[1]]
            if not holding:
                what = "give from_dataset(DATASET, span=(BLACK, WHITE))"
                raise Refusal(f"{name}: values from {low:g} to {high:g}; {what}")
            levels = next((s for s in holding if all(_on_levels(i, s) for i in images)), None)
            return cls(levels is None, levels or holding[0])
        if low < span[0] or high > span[1]:
            say(f"data: values from {low:g} to {high:g} are clipped to span={tuple(span)}")
        return cls(True, (float(span[0]), float(span[1])))

    def stored(self, images: list[Tensor]) -> Tensor:
        """uint8, or floats in [-1, 1]: (N, C, H, W)."""
        whole = torch.stack(images)
        if whole.dtype == torch.uint8:
            return whole
        low, high = self.span
        share = ((whole - low) / (high - low)).clamp(0, 1)
        return 2 * share - 1 if self.floats else (255 * share).round().to(torch.uint8)


def _on_levels(image: Tensor, span: Range) -> bool:
    level = (image - span[0]) * (255 / (span[1] - span[0]))
    return bool(((level - level.round()).abs() < LEVEL).all())


def _split(whole: ImageTensor) -> tuple[ImageTensor, ImageTensor]:
    order = permutation(len(whole), "given", "split").tolist()
    out = len(whole) // HOLDOUT
    if not out:
        say(
            "data: no picture is held out of so few: what is measured is measured on those trained "
            "on"
        )
        return whole, whole
    return whole.rows(sorted(order[out:])), whole.rows(sorted(order[:out]))
