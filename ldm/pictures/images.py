"""Pictures with classes, held in memory (`ImageFolder`, which is not, is in folders.py)."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ldm.errors import Refusal, say
from ldm.pictures.idx import read_idx
from ldm.pictures.opening import View
from ldm.system.batches import Batch, Columns, rows_of
from ldm.system.data import DataConfig, Rows
from ldm.system.identity import hash_of
from ldm.system.randomness import permutation

GREY = tuple(str(i) for i in range(10))
CLOTHES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class ImageTensor(Dataset[Batch]):
    """Pictures in memory: uint8 or floats in [-1, 1], (N, C, H, W), and labels (N,).

    `columns`: what else there is of every picture, N rows of each; `text` are captions.
    """

    def __init__(self, images: Tensor, labels: Tensor, columns: Columns | None = None):
        self.images, self.labels, self.columns = images, labels.long(), columns or {}

    @property
    def captions(self) -> Sequence[str]:
        return cast(Sequence[str], self.columns.get("text", []))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Batch:
        return self.__getitems__([i])

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.tensor(indices)
        batch: Batch = {"image": self.images[rows], "label": self.labels[rows], "index": rows}
        return batch | rows_of(self.columns, indices)

    def rows(self, rows: list[int]) -> "ImageTensor":
        """Some of the pictures."""
        chosen = torch.tensor(rows)
        columns = rows_of(self.columns, rows)
        return ImageTensor(self.images[chosen], self.labels[chosen], columns)

    def shown(self, count: int) -> list[int]:
        """Rows for a panel: the first, which lie in no order."""
        return list(range(min(count, len(self))))

    def fingerprint(self) -> str:
        """Of every picture and label."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.labels):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def identity(self) -> dict[str, str]:
        """Hashes of the pictures, and of their annotations, for the checkpoint."""
        texts = {"captions": hash_of(*map(repr, self.captions))} if self.captions else {}
        return {"content": hash_of(self.images), "labels": hash_of(self.labels)} | texts


class PictureRows(Rows, Protocol):
    """Rows of pictures: `image` in a batch."""

    def shown(self, count: int) -> list[int]:
        """Rows for a panel."""


@dataclass
class Images:
    """Pictures: two sets, class names, shape (C, H, W), how files were read, floats' range."""

    train: PictureRows
    test: PictureRows
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    view: View | None = None

    def about(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, so that later pictures are read as in training."""
        return self.view.to_dict() if self.view else {}

    def shown(self, count: int) -> Tensor:
        """Held-out pictures for a panel, as the data are, (N, C, H, W)."""
        return self.held_out.__getitems__(self.held_out.shown(count))["image"]

    @property
    def held_out(self) -> PictureRows:
        """What training measures itself on."""
        return self.test


class ImageData(DataConfig):
    """Settings of every data set of pictures; `flip` mirrors them left to right."""

    modality: ClassVar[str] = "pictures"
    axes: ClassVar[int] = 3
    evaluated: ClassVar[bool] = True

    @abstractmethod
    def load(self) -> Images:
        """Read the data set; Refusal where it cannot be had."""


@dataclass
class Digits(ImageData):
    """scikit-learn's 1,797 handwritten digits, 8 x 8, grey, no download; 297 are held out."""

    @property
    def side(self) -> int:
        return 8

    def load(self) -> Images:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images / 16 * 255).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(digits.target)
        order = permutation(len(images), "digits", "split")
        train, test = order[297:], order[:297]
        sets = ImageTensor(images[train], labels[train]), ImageTensor(images[test], labels[test])
        return Images(*sets, GREY, (1, 8, 8))


@dataclass
class MNIST(ImageData):
    """MNIST, 28 x 28, grey: the four idx files in `root`, gz or not, else downloaded there."""

    root: str = "data"
    download: bool = True

    classes: ClassVar[tuple[str, ...]] = GREY
    folders: ClassVar[tuple[str, ...]] = ("", "MNIST/raw")
    parts: ClassVar[tuple[str, ...]] = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )

    def find(self) -> list[Path] | None:
        """The four files in the first folder that has them all."""
        for folder in self.folders:
            places = [[Path(self.root, folder, p + end) for end in ("", ".gz")] for p in self.parts]
            if all(any(map(Path.is_file, two)) for two in places):
                return [next(filter(Path.is_file, two)) for two in places]
        return None

    def load(self) -> Images:
        files = self.find()
        if files is None and self.download:
            _download(type(self).__name__, self.root)
            files = self.find()
        if files is None:
            raise Refusal(
                f"data.root: no {type(self).__name__} in '{self.root}' (looked for "
                f"{self.parts[0]}[.gz] and three more, "
                f"in {', '.join(repr(f or '.') for f in self.folders)}); set data.root=DIR or "
                "data.download=true"
            )
        x, y, x_test, y_test = (read_idx(path) for path in files)
        for images, labels, path in ((x, y, files[0]), (x_test, y_test, files[2])):
            if len(images) != len(labels) or images.ndim != 3 or not len(images):
                raise Refusal(
                    f"{path}: {tuple(images.shape)} pictures and {len(labels)} labels do not "
                    "belong together"
                )
        sets = ImageTensor(x[:, None], y), ImageTensor(x_test[:, None], y_test)
        return Images(*sets, self.classes, (1, *x.shape[1:]))


@dataclass
class FashionMNIST(MNIST):
    """Fashion-MNIST (Xiao et al. 2017), 28 x 28, grey.

    Debian's package `dataset-fashion-mnist` is found by itself.
    """

    classes: ClassVar[tuple[str, ...]] = CLOTHES
    folders: ClassVar[tuple[str, ...]] = (
        "",
        "FashionMNIST/raw",
        "/usr/share/datasets/fashion-mnist",
    )


@dataclass
class Clothes(ImageData):
    """10,000 of Fashion-MNIST's training pictures, 28 x 28, no download; 1,000 are held out."""

    features: ClassVar[str] = "FashionMNIST"

    @property
    def side(self) -> int:
        return 28

    def load(self) -> Images:
        folder = Path(__file__).parent / "embedded"
        files = (folder / f"clothes-{part}-ubyte.gz" for part in ("images-idx3", "labels-idx1"))
        x, y = map(read_idx, files)
        test, train = (
            ImageTensor(x[rows, None], y[rows]) for rows in (slice(1000), slice(1000, None))
        )
        return Images(train, test, CLOTHES, (1, 28, 28))


@dataclass
class CIFAR10(ImageData):
    """CIFAR-10, 32 x 32, RGB, in its binary form (no pickle).

    `root` holds cifar-10-batches-bin, or receives it.
    """

    root: str = "data"
    download: bool = True

    @property
    def side(self) -> int:
        return 32

    def load(self) -> Images:
        folder = Path(self.root, "cifar-10-batches-bin")
        if not folder.is_dir() and self.download:
            _download("CIFAR10", self.root)
        if not folder.is_dir():
            raise Refusal(
                f"data.root: no folder cifar-10-batches-bin in '{self.root}'; set data.root=DIR or "
                "data.download=true"
            )
        train = [self.read(folder / f"data_batch_{i}.bin") for i in range(1, 6)]
        sets = (
            ImageTensor(torch.cat([x for x, _ in train]), torch.cat([y for _, y in train])),
            ImageTensor(*self.read(folder / "test_batch.bin")),
        )
        return Images(*sets, CIFAR, (3, 32, 32))

    @staticmethod
    def read(path: Path) -> tuple[Tensor, Tensor]:
        """Records of one label byte and 3 x 32 x 32 pixels."""
        try:
            records = torch.from_numpy(np.fromfile(path, np.uint8).reshape(-1, 3073))
        except (OSError, ValueError) as error:
            raise Refusal(
                f"{path} cannot be read as CIFAR-10's binary records ({error}); get it again"
            ) from None
        return records[:, 1:].reshape(-1, 3, 32, 32).clone(), records[:, 0].long()


CIFAR_BINARY = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
)


def _download(name: str, root: str) -> None:
    """torchvision's downloads, with their checksums; one line when there is no network."""
    from torchvision import datasets

    say(f"data: downloading {name} into {root}")
    try:
        if name == "CIFAR10":
            url, md5 = CIFAR_BINARY
            datasets.utils.download_and_extract_archive(url, root, md5=md5)
        else:
            getattr(datasets, name)(root, download=True)
    except (OSError, RuntimeError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Refusal(
            f"data: {name} is not in '{root}' and cannot be downloaded ({line}); set data.root=DIR"
        ) from None
