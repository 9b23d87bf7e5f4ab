"""From a checkpoint to figures: what evaluate.py and a callback of training call.

Row i of a job, a seed or a held-out picture, is some rank's; its features are gathered, and rank 0 compares them.
"""

import math
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from tqdm import tqdm

from ldm.checkpoints import checkpoint
from ldm.config import Data, SampleConfig, from_dict
from ldm.errors import Refusal, one_of, say
from ldm.metrics import features as feature_networks
from ldm.metrics.distances import Moments, frechet_distance
from ldm.metrics.features import Features
from ldm.metrics.figures import ALL, STAGE1, check_count, compare, known, named, warn_of_rank
from ldm.metrics.images import psnr, ssim
from ldm.metrics.records import Figure, append, file_hash, open_log, records, table, thousands
from ldm.metrics.reference import Reference, reference
from ldm.networks.autoencoder import Autoencoder
from ldm.pictures.opening import View
from ldm.pictures.trained import expect_plain
from ldm.sampling.generate import generate
from ldm.sampling.model import Model, load_autoencoder, recorded_data, restore
from ldm.sampling.requests import Seeds, pick_device
from ldm.sampling.settings import Overrides
from ldm.system.batches import as_bytes, as_images
from ldm.system.data import DataSet
from ldm.system.processes import ALONE, Ranks, launch
from ldm.system.randomness import permutation

LPIPS_SIDE = 32  # AlexNet's pooling leaves nothing of smaller pictures


# -- stage 2 and the pixel baseline ---------------------------------------------------------------------------------------
def sample_features(
    model: Model,
    settings: SampleConfig,
    seeds: Sequence[int],
    features: Features,
    quiet: bool = False,
) -> Tensor:
    """Features of one sample for each seed, (N, d); the pictures themselves are not kept."""
    parts = []
    with tqdm(total=len(seeds), desc="sampling", unit="image", disable=quiet, mininterval=1) as bar:
        for i in range(0, len(seeds), settings.batch_size):
            images = generate(model, settings, seeds[i : i + settings.batch_size])
            parts.append(features(as_bytes(images)))
            bar.update(len(images))
    return torch.cat(parts)


def evaluate(
    model: Model,
    settings: SampleConfig,
    count: int,
    real: Reference | None,
    features: Features,
    seed: int = 0,
    quiet: bool = False,
    ranks: Ranks = ALONE,
    metrics: Collection[str] = ALL,
) -> dict[str, Figure]:
    """Figures of `count` samples, seeds `seed` ... `seed + count - 1`, labels seed modulo classes.

    Every rank samples its share; rank 0 has the figures, and alone needs the reference.
    """
    seeds = range(seed, seed + count)
    fake = sample_features(model, settings, ranks.share(seeds), features, quiet or ranks.rank > 0)
    fake = ranks.collect(fake, count)
    if ranks.rank > 0:
        return {}
    labels = torch.tensor([s % len(model.classes) for s in seeds]) if model.classes else None
    told = features.classes == model.classes and bool(model.classes)
    return compare(fake, real, features, labels if told else None, metrics)


# -- stage 1 ------------------------------------------------------------------------------------------------------------------
@torch.inference_mode()
def evaluate_autoencoder(
    autoencoder: Autoencoder,
    dataset: Dataset,
    rows: Sequence[int],
    real: Reference | None,
    features: Features,
    batch_size: int = 64,
    quiet: bool = False,
    ranks: Ranks = ALONE,
    metrics: Collection[str] = STAGE1,
) -> dict[str, Figure]:
    """PSNR, SSIM, LPIPS where its weights are, and rFID, of reconstructions from the posterior's mean.

    Every rank decodes its share; rank 0 has the figures, and alone needs the reference.
    """
    device, mine, parts = next(autoencoder.parameters()).device, ranks.share(rows), []
    lpips = (
        load_lpips(autoencoder.shape, str(device), ranks.rank == 0) if "lpips" in metrics else None
    )
    with tqdm(
        total=len(mine),
        desc="reconstructing",
        unit="image",
        disable=quiet or ranks.rank > 0,
        mininterval=1,
    ) as bar:
        for i in range(0, len(mine), batch_size):
            x = as_images(dataset.__getitems__(mine[i : i + batch_size])).to(device)
            x_hat = autoencoder.decode(autoencoder.encode(x).chunk(2, 1)[0]).float().clamp(-1, 1)
            likeness = [psnr(x, x_hat), ssim(x, x_hat, "none")]
            if lpips is not None:
                likeness.append(lpips.net(*(v.expand(-1, 3, -1, -1) for v in (x_hat, x))).flatten())
            parts.append(torch.cat([torch.stack(likeness, 1).cpu(), features(as_bytes(x_hat))], 1))
            bar.update(len(x))
    table = ranks.collect(torch.cat(parts), len(rows))
    if ranks.rank > 0:
        return {}
    names = ("psnr", "ssim", "lpips")[: 2 + (lpips is not None)]
    means = {
        key: Figure(table[:, i].mean().item(), len(rows))
        for i, key in enumerate(names)
        if key in metrics
    }
    figures = {f"{key}_{thousands(len(rows))}": figure for key, figure in means.items()}
    if "fd" not in metrics:
        return figures
    fake = table[:, len(names) :]
    truth, rest = real.apart(len(fake))
    floor = frechet_distance(Moments.of(truth), rest.moments)
    distance = Figure(
        frechet_distance(Moments.of(fake), real.moments), len(fake), floor, len(truth)
    )
    return figures | {named("fd", len(fake), features, "r"): distance}


def load_lpips(
    shape: tuple[int, ...], device: str, aloud: bool
) -> LearnedPerceptualImagePatchSimilarity | None:
    """LPIPS by torchmetrics with AlexNet, for pictures in [-1, 1]; None, and a line that says why, where it cannot be."""
    try:
        if min(shape[1:]) < LPIPS_SIDE:
            raise ValueError(f"AlexNet needs {LPIPS_SIDE} px, these pictures have {min(shape[1:])}")
        return LearnedPerceptualImagePatchSimilarity("alex").to(device)
    except (OSError, RuntimeError, ValueError) as error:
        if aloud:
            say(f"LPIPS is skipped: {str(error).splitlines()[0]}")
        return None


# -- evaluate.py ----------------------------------------------------------------------------------------------------------------
def load_data(config: Data, root: str | None, state: dict[str, Any]) -> DataSet:
    """The data of a checkpoint, from its own place or from `root`; Refusal if it is other data."""
    data = recorded_data(config, root)
    found = View.of(state["shape"], state.get("view"), "it").found
    if (
        found and getattr(data, "range", ...) is None
    ):  # elsewhere other pictures would span another range
        data = replace(data, range=found)
    images = data.load()
    for what, here, there in (
        ("shape", images.shape, state["shape"]),
        ("classes", images.classes, state["classes"]),
    ):
        if there and tuple(here) != tuple(
            there
        ):  # a model without classes does not mind which the data has
            raise Refusal(
                f"--data-root: the data's {what} {tuple(here)} are not the checkpoint's {tuple(there)}; name its data"
            )
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
    devices: int = 1,
    metrics: str | None = None,
    clip: float | None = None,
    **given: Any,
) -> None:
    """evaluate.py: everything from the command line to the table and the records, over one process or several."""
    Seeds(count, seed)
    if split not in (None, "train", "test"):
        raise Refusal(one_of("--split", split, ("train", "test")))
    file = checkpoint.find(path)
    state = checkpoint.read(file)
    meta, device = state["ldm"], pick_device(device)
    names = [name.strip() for name in metrics.split(",")] if metrics is not None else None
    if clip is not None and not 0 < clip < math.inf:
        raise Refusal(
            f"--clip: {clip:g} is not an angle above 0; leave it out to compare the jets as they are"
        )
    with checkpoint.malformed(file):
        config, stage1 = from_dict(meta["config"], str(file)), meta["stage"] == "autoencoder"
    if config.data.modality == "jets":  # by the physicists' metrics, which look at no pictures
        from ldm.evaluation import jets as jet_evaluation

        place = file, Path(output), count, split, seed, weights, device, data_root, devices
        return jet_evaluation.run(*place, names, clip, **given)
    if clip is not None:
        raise Refusal("--clip is of jets; this checkpoint makes pictures")
    wanted = (
        known(names, STAGE1 if stage1 else ALL) if names is not None else STAGE1 if stage1 else ALL
    )
    split = split or ("test" if stage1 else "train")
    images = load_data(config.data, data_root, meta)
    dataset = images.train if split == "train" else images.test
    count = min(count or len(dataset), len(dataset)) if stage1 else count or 5000
    what = f"{type(config.data).__name__} {split}"
    check_count(count, len(dataset), what)  # before weights are looked for, or downloaded
    network = feature_networks.choose(features, type(config.data).__name__)
    warn_of_rank(count, network.dim)
    ranks = Ranks.of(fabric := launch(devices, device))
    device = str(fabric.device) if ranks.world > 1 else device
    made: dict[str, Any] = {}
    if stage1:
        autoencoder = load_autoencoder(file, weights)[0].to(device)
    else:
        model = restore(file, weights, device)
        expect_plain(model.purpose, "evaluate.py")
        settings = Overrides(**given).over(model.settings, model.schedule)
    log = open_log(Path(output))  # once nothing is left to refuse
    network, real = network.to(device), None
    if ranks.rank == 0:
        workers = min(config.data.workers, os.cpu_count() or 1)
        real = reference(dataset, network, what, Path(cache) if cache else None, workers=workers)
    if stage1:
        rows, size = (
            permutation(len(dataset), "reference")[:count].tolist(),
            given["batch_size"] or 64,
        )
        figures = evaluate_autoencoder(
            autoencoder, dataset, rows, real, network, size, ranks=ranks, metrics=wanted
        )
    else:
        made |= settings.record()
        made |= {
            "seeds": {"first": seed, "count": count},
            "labels": "seed modulo classes" if model.classes else None,
        }
        made |= {"prompts": list(model.prompts)} if model.text is not None else {}
        figures = evaluate(model, settings, count, real, network, seed, ranks=ranks, metrics=wanted)
    if real is None:
        return
    made |= origin(real, network) | {"weights": weights, "device": device, "processes": ranks.world}
    made["checkpoint"] = {
        "path": str(file),
        "hash": file_hash(file),
        "stage": meta["stage"],
        "step": state["global_step"],
    }
    append(log, records(figures, made))
    say(
        f"{file}: step {state['global_step']}, {weights} weights; {network.name} features; {what}, {real.moments.n} pictures"
    )
    say(table(figures))
    say(f"wrote {len(figures)} records to {log}")


def origin(real: Reference, network: Features) -> dict[str, Any]:
    """What a record says of its features and of the real side."""
    return {
        "features": {
            "name": network.name,
            "hash": network.hash,
            "dim": network.dim,
            "resize": network.resize,
        },
        "reference": {"what": real.what, "hash": real.hash, "n": real.moments.n},
    }
