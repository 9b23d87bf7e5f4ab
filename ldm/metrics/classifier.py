"""Small classifiers of the data's own labels, as feature networks of digits and clothes.

A file is safetensors in half precision; its metadata holds the classes, the picture size, and the
share of held-out pictures that the rounded weights get right. `benchmarks/train_classifiers.py`
makes them.
"""

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.errors import Refusal
from ldm.system.batches import as_floats

FORMAT = "ldm-classifier-1"
CHANNELS, WIDTH = (32, 64, 64), 128


@dataclass(frozen=True)
class Facts:
    """The metadata of a classifier's file."""

    data: str  # the name of the data set in a config
    classes: tuple[str, ...]
    size: int  # pictures are resized to size x size
    channels: int
    accuracy: float  # share of the held-out pictures
    held_out: int  # how many they are
    made: str  # command


class Classifier(nn.Module):
    """Three 3 x 3 convolutions with batch norm and pooling, and a layer of 128, the features."""

    def __init__(self, classes: int, channels: int = 1, size: int = 28):
        super().__init__()
        self.size, self.channels = size, channels
        blocks = [self.block(i, o) for i, o in pairwise((channels, *CHANNELS))]
        self.body = nn.Sequential(*blocks, nn.Flatten(), nn.Dropout(0.2))
        self.last = nn.Linear(CHANNELS[-1] * (size // 8) ** 2, WIDTH)
        self.head = nn.Linear(WIDTH, classes)

    @staticmethod
    def block(i: int, o: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)
        )

    def features(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> (B, 128)."""
        x = as_floats(images)
        if self.channels == 1:
            x = x.mean(1, keepdim=True)
        if x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return F.relu(self.last(self.body(x)))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> logits (B, classes)."""
        return self.head(self.features(images))


def rounded(net: Classifier) -> dict[str, Tensor]:
    """The weights in half precision, as a file holds them."""
    return {k: v.half().contiguous() for k, v in net.state_dict().items() if v.is_floating_point()}


def save_classifier(net: Classifier, facts: Facts, path: Path) -> None:
    """Write the classifier's file."""
    save_file(rounded(net), path, {"format": FORMAT, "facts": json.dumps(asdict(facts))})


def load_classifier(path: str | Path) -> tuple[Classifier, Facts]:
    """A classifier from its file; Refusal where it is damaged or of another layout."""
    try:
        with safe_open(path, "pt") as file:
            keys, meta = file.keys(), file.metadata() or {}
            weights = {key: file.get_tensor(key).float() for key in keys}
        if meta.get("format") != FORMAT:
            raise Refusal(
                f"features: {path} is not one of our classifiers (benchmarks/train_classifiers.py "
                "makes them)"
            )
        raw: dict[str, Any] = json.loads(meta["facts"])
        facts = Facts(**raw | {"classes": tuple(raw["classes"])})
        if not 8 <= facts.size <= 4096:
            raise ValueError(f"pictures of {facts.size} px")
        with torch.device("meta"):  # what it claims of itself is held against its weights
            claimed = Classifier(len(facts.classes), facts.channels, facts.size).state_dict()
        if any(
            key in claimed and claimed[key].shape != value.shape for key, value in weights.items()
        ):
            raise ValueError("its weights are not of the size and the classes that it says")
        net = Classifier(len(facts.classes), facts.channels, facts.size)
        missing, unexpected = net.load_state_dict(weights, strict=False)
    except Refusal:
        raise
    except Exception as error:  # of JSON and of tensors of a stranger: each raises what it likes
        why = " ".join(str(error).split())[:120]
        raise Refusal(f"features: {path} cannot be read as a classifier ({why})") from None
    if unexpected or any(not key.endswith("num_batches_tracked") for key in missing):
        raise Refusal(
            f"features: {path} holds other weights than a classifier's "
            f"({[*missing, *unexpected][0]})"
        )
    return net.eval().requires_grad_(False), facts


@torch.inference_mode()
def accuracy(net: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of pictures whose class the network names."""
    right = [
        (net(x).argmax(1) == y).sum().item()
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    ]
    return sum(right) / len(images)
