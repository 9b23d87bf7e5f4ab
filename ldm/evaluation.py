"""From a checkpoint to figures: what evaluate.py and a callback of training call.

`sample_features` is a function of a list of seeds, so ranks can share them; `compare` sees features alone.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from tqdm import tqdm

from ldm import checkpoint
from ldm.config import Data, SampleConfig, from_dict
from ldm.data.batches import as_bytes, as_images
from ldm.data.images import Images
from ldm.errors import Refusal, one_of
from ldm.metrics import features as feature_networks
from ldm.metrics.distances import NEEDED, Moments, density_coverage, frechet_distance, kernel_distance, precision_recall
from ldm.metrics.features import Features
from ldm.metrics.images import psnr, ssim
from ldm.metrics.records import Figure, append, file_hash, open_log, records, short, table
from ldm.metrics.reference import Reference, reference
from ldm.model import Model, load_autoencoder, restore
from ldm.networks.autoencoder import Autoencoder
from ldm.randomness import permutation
from ldm.sampling import generate, pick_device, settings_from
from ldm.schema import to_dict

SUBSET = 1000  # rows in each of KID's subsets
LPIPS_SIDE = 32  # AlexNet's pooling leaves nothing of smaller pictures


# -- stage 2 and the pixel baseline ---------------------------------------------------------------------------------------
def sample_features(
    model: Model, settings: SampleConfig, seeds: Sequence[int], features: Features, quiet: bool = False
) -> Tensor:
    """Features of one sample for each seed, (N, d); the pictures themselves are not kept."""
    parts = []
    with tqdm(total=len(seeds), desc="sampling", unit="image", disable=quiet) as bar:
        for i in range(0, len(seeds), settings.batch_size):
            images = generate(model, settings, seeds[i : i + settings.batch_size])
            parts.append(features(images))
            bar.update(len(images))
    return torch.cat(parts)


def distances(fake: Tensor, real: Reference, subset: int) -> dict[str, tuple[float, float | None]]:
    """Every metric of two sets of features, and its standard deviation over subsets where it has one.

    The Fréchet distance is to all of the real pictures, KID's subsets are drawn from the rows kept, and neighbours are
    sought among as many real rows as there are fakes.
    """
    same = real.rows[: len(fake)]
    precision, recall = precision_recall(fake, same)
    density, coverage = density_coverage(fake, same)
    found: dict[str, tuple[float, float | None]] = {"fd": (frechet_distance(Moments.of(fake), real.moments), None)}
    found["kd"] = kernel_distance(fake, real.rows, subset)
    plain = {"precision": precision, "recall": recall, "density": density, "coverage": coverage}
    return found | {name: (value, None) for name, value in plain.items()}


def compare(fake: Tensor, real: Reference, features: Features, labels: Tensor | None = None) -> dict[str, Figure]:
    """Figures of the features of samples against the reference, truth-vs-truth beside each.

    With labels and a classifier of them, `class_share` is the share of samples that it takes for their label; its floor
    is the classifier's own accuracy on held-out pictures.
    """
    truth, rest = real.apart(len(fake))
    subset, at_floor = (min(SUBSET, n, m) for n, m in ((len(fake), len(real.rows)), (len(truth), len(rest.rows))))
    values, floors = distances(fake, real, subset), distances(truth, rest, at_floor)
    figures = {}
    for key, (value, std) in values.items():
        floor, floor_std = floors[key]
        figures[_name(key, len(fake), features)] = Figure(value, len(fake), floor, len(truth), std, floor_std)
    if labels is not None and features.head is not None:
        share = (features.verdict(fake) == labels).float().mean().item()
        figures[f"class_share_{short(len(fake))}"] = Figure(share, len(fake), features.accuracy, note="floor: accuracy on real")
    return figures


def _name(key: str, n: int, features: Features, prefix: str = "") -> str:
    """fid_5k and kid_5k by Inception alone; fd_fashion_5k and kd_fashion_5k by other features."""
    if key in ("fd", "kd"):
        key = {"fd": "fid", "kd": "kid"}[key] if features.name == "inception" else f"{key}_{features.name}"
    return f"{prefix}{key}_{short(n)}"


def evaluate(
    model: Model,
    settings: SampleConfig,
    count: int,
    real: Reference,
    features: Features,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Figure]:
    """Figures of `count` samples, seeds `seed` ... `seed + count - 1`, labels seed modulo classes."""
    check_count(count, real, features)
    seeds = range(seed, seed + count)
    fake = sample_features(model, settings, seeds, features, quiet)
    labels = torch.tensor([s % len(model.classes) for s in seeds]) if model.classes else None
    known = features.classes == model.classes and bool(model.classes)
    return compare(fake, real, features, labels if known else None)


def check_count(count: int, real: Reference, features: Features) -> None:
    """Refuse what has no k-th neighbour; say where a covariance cannot have full rank."""
    least = min(count, len(real.rows) // 2)
    if least < NEEDED:
        what = f"--count {count}" if count < NEEDED else f"{real.what}: {real.moments.n} pictures"
        raise Refusal(f"{what}: too few, the metrics' neighbours need {NEEDED} samples and {2 * NEEDED} real pictures")
    if count <= features.dim:
        print(f"warning: {count} samples in {features.dim} dimensions: the Fréchet distance's covariance has not full rank")


# -- stage 1 ------------------------------------------------------------------------------------------------------------------
@torch.inference_mode()
def evaluate_autoencoder(
    autoencoder: Autoencoder,
    dataset: Dataset,
    rows: Sequence[int],
    real: Reference,
    features: Features,
    batch_size: int = 64,
    quiet: bool = False,
) -> dict[str, Figure]:
    """PSNR, SSIM, LPIPS where its weights are, and rFID, of reconstructions from the posterior's mean."""
    check_count(len(rows), real, features)
    device = next(autoencoder.parameters()).device
    sums, fakes, lpips = {"psnr": 0.0, "ssim": 0.0}, [], load_lpips(autoencoder.shape, str(device))
    with tqdm(total=len(rows), desc="reconstructing", unit="image", disable=quiet) as bar:
        for i in range(0, len(rows), batch_size):
            x = as_images(dataset.__getitems__(list(rows[i : i + batch_size]))).to(device)
            x_hat = autoencoder.decode(autoencoder.encode(x).chunk(2, 1)[0]).float().clamp(-1, 1)
            sums["psnr"] += psnr(x, x_hat).sum().item()
            sums["ssim"] += ssim(x, x_hat).item() * len(x)
            if lpips is not None:
                lpips.update(*(v.expand(-1, 3, -1, -1) for v in (x_hat, x)))
            fakes.append(features(as_bytes(x_hat)))
            bar.update(len(x))
    fake = torch.cat(fakes)
    truth, rest = real.apart(len(fake))
    floor = frechet_distance(Moments.of(truth), rest.moments)
    means = {key: value / len(rows) for key, value in sums.items()} | ({"lpips": lpips.compute().item()} if lpips else {})
    figures = {f"{key}_{short(len(rows))}": Figure(value, len(rows)) for key, value in means.items()}
    distance = Figure(frechet_distance(Moments.of(fake), real.moments), len(fake), floor, len(truth))
    return figures | {_name("fd", len(fake), features, "r"): distance}


def load_lpips(shape: tuple[int, ...], device: str) -> LearnedPerceptualImagePatchSimilarity | None:
    """LPIPS by torchmetrics with AlexNet, for pictures in [-1, 1]; None, and a line that says why, where it cannot be."""
    try:
        if min(shape[1:]) < LPIPS_SIDE:
            raise ValueError(f"AlexNet needs {LPIPS_SIDE} px, these pictures have {min(shape[1:])}")
        return LearnedPerceptualImagePatchSimilarity("alex").to(device)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"LPIPS is skipped: {str(error).splitlines()[0]}", flush=True)
        return None


# -- evaluate.py ----------------------------------------------------------------------------------------------------------------
def load_data(config: Data, root: str | None, state: dict[str, Any]) -> Images:
    """The data of a checkpoint, from its own place or from `root`; Refusal if it is other data."""
    if root is not None:
        if not hasattr(config, "root"):
            raise Refusal(f"--data-root: {type(config).__name__} are embedded and read from no folder; leave it out")
        if not Path(root).is_dir():
            raise Refusal(f"--data-root: '{root}' is not a folder")
        config = dataclasses.replace(config, root=root)
    images = config.load()
    for what, here, there in (("shape", images.shape, state["shape"]), ("classes", images.classes, state["classes"])):
        if tuple(here) != tuple(there):
            raise Refusal(f"--data-root: the data's {what} {tuple(here)} are not the checkpoint's {tuple(there)}; name its data")
    return images


def run(
    path: str,
    count: int | None,
    features: str,
    split: str | None,
    seed: int,
    weights: str,
    device: str | None,
    data_root: str | None,
    output: str,
    cache: str | None,
    **given: Any,
) -> None:
    """evaluate.py: everything from the command line to the table and the records."""
    if (count is not None and count < 1) or seed < 0:
        raise Refusal("--count must be at least 1 and --seed at least 0")
    file = checkpoint.find(path)
    state = checkpoint.read(file)
    meta, log, device = state["ldm"], open_log(Path(output)), pick_device(device)
    config, stage1 = from_dict(meta["config"], str(file)), meta["stage"] == "autoencoder"
    split = split or ("test" if stage1 else "train")
    if split not in ("train", "test"):
        raise Refusal(one_of("--split", split, ("train", "test")))
    network = feature_networks.choose(features, type(config.data).__name__).to(device)
    images = load_data(config.data, data_root, meta)
    dataset = images.train if split == "train" else images.test
    what = f"{type(config.data).__name__} {split}"
    real = reference(dataset, network, what, Path(cache) if cache else None, workers=config.data.workers)
    made = {
        "features": {"name": network.name, "hash": network.hash, "dim": network.dim, "resize": network.resize},
        "reference": {"what": what, "hash": real.hash, "n": real.moments.n},
        "checkpoint": {"path": str(file), "hash": file_hash(file), "stage": meta["stage"], "step": state["global_step"]},
        "weights": weights,
        "device": device,
    }
    if stage1:
        rows = permutation(len(dataset), "reference")[:count].tolist()
        autoencoder = load_autoencoder(file, weights)[0].to(device)
        figures = evaluate_autoencoder(autoencoder, dataset, rows, real, network, given["batch_size"] or 64)
    else:
        model = restore(file, weights, device)
        settings = settings_from(model.settings, **given)
        count = count or 5000
        made |= {key: to_dict(settings)[key] for key in ("solver", "steps", "guidance", "batch_size")}
        made |= {"seeds": {"first": seed, "count": count}, "labels": "seed modulo classes" if model.classes else None}
        figures = evaluate(model, settings, count, real, network, seed)
    append(log, records(figures, made))
    print(f"{file}: step {state['global_step']}, {weights} weights; {network.name} features; {what}, {real.moments.n} pictures")
    print(table(figures))
    print(f"wrote {len(figures)} records to {log}")
