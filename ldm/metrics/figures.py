"""From features to figures: distances of samples to real pictures, truth-vs-truth beside them."""

from collections.abc import Collection, Iterable

from torch import Tensor

from ldm.errors import Refusal, one_of, say
from ldm.metrics.distances import (
    NEEDED,
    Moments,
    density_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from ldm.metrics.features import Features
from ldm.metrics.records import Figure, thousands
from ldm.metrics.reference import Reference

SUBSET = 1000  # rows in each of KID's subsets


ALL = ("fd", "kd", "precision", "recall", "density", "coverage", "class_share")
STAGE1 = ("psnr", "ssim", "lpips", "fd")
ALIASES = {"fid": "fd", "kid": "kd", "rfid": "fd", "rfd": "fd"}


def check_metrics(metrics: Iterable[str], choices: Collection[str] = ALL) -> tuple[str, ...]:
    """The metrics by our names, each once (fid is fd, kid is kd); Refusal of an unknown one."""
    found = []
    for metric in metrics:
        found.append(ALIASES.get(metric, metric))
        if found[-1] not in choices:
            raise Refusal(one_of("metrics", metric, choices))
    return tuple(dict.fromkeys(found))


def distances(
    fake: Tensor, real: Reference, subset: int, metrics: Collection[str] = ALL
) -> dict[str, tuple[float, float | None]]:
    """The metrics of two sets of features, and their standard deviations over subsets, if any.

    The Fréchet distance is to all of the real pictures, KID's subsets are drawn from the rows kept,
    and neighbours are sought among as many real rows as there are fakes.
    """
    found: dict[str, tuple[float, float | None]] = {}
    if "fd" in metrics:
        found["fd"] = frechet_distance(Moments.of(fake), real.moments), None
    if "kd" in metrics:
        found["kd"] = kernel_distance(fake, real.rows, subset)
    for names, measure in {
        ("precision", "recall"): precision_recall,
        ("density", "coverage"): density_coverage,
    }.items():
        if set(names) & set(metrics):
            found |= {
                name: (value, None)
                for name, value in zip(names, measure(fake, real.rows[: len(fake)]), strict=True)
            }
    return {name: value for name, value in found.items() if name in metrics}


def compare(
    fake: Tensor,
    real: Reference,
    features: Features,
    labels: Tensor | None = None,
    metrics: Collection[str] = ALL,
) -> dict[str, Figure]:
    """Figures of the features of samples against the reference, truth-vs-truth beside each.

    With labels and a classifier of them, `class_share` is the share of samples that it takes for
    their label; its floor is the classifier's own accuracy on held-out pictures.
    """
    truth, rest = real.apart(len(fake))
    subset, at_floor = (
        min(SUBSET, n, m) for n, m in ((len(fake), len(real.rows)), (len(truth), len(rest.rows)))
    )
    values, floors = (
        distances(fake, real, subset, metrics),
        distances(truth, rest, at_floor, metrics),
    )
    figures = {}
    for key, (value, std) in values.items():
        floor, floor_std = floors[key]
        figures[metric_name(key, len(fake), features)] = Figure(
            value, len(fake), floor, len(truth), std, floor_std
        )
    if labels is not None and features.head is not None and "class_share" in metrics:
        share = (features.verdict(fake) == labels).float().mean().item()
        figures[f"class_share_{thousands(len(fake))}"] = Figure(
            share, len(fake), features.accuracy, note="floor: accuracy on real"
        )
    return figures


def metric_name(key: str, n: int, features: Features, prefix: str = "") -> str:
    """fid_5k and kid_5k by Inception alone; fd_fashion_5k and kd_fashion_5k by other features."""
    if key in ("fd", "kd"):
        key = (
            {"fd": "fid", "kd": "kid"}[key]
            if features.name == "inception"
            else f"{key}_{features.name}"
        )
    return f"{prefix}{key}_{thousands(n)}"


def check_count(count: int, real: int, what: str) -> None:
    """Refusal for what has no k-th neighbour."""
    if min(count, real // 2) < NEEDED:
        which = f"count {count}" if count < NEEDED else f"{what}: {real} pictures"
        raise Refusal(
            f"evaluate: {which}: too few, the metrics' neighbours need {NEEDED} samples and "
            f"{2 * NEEDED} real pictures"
        )


def warn_of_rank(count: int, dim: int) -> None:
    """Warn where a covariance cannot have full rank."""
    if count <= dim:
        say(
            f"warning: {count} samples in {dim} dimensions: the Fréchet distance's covariance has "
            "not full rank"
        )
