"""Clouds in and out of sampling: the numbers of constituents that are asked for, and the files that are written."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.flow import Ode
from ldm.diffusion.likelihood import Likelihood, log_likelihood
from ldm.diffusion.solvers import Unreached
from ldm.diffusion.space import Told
from ldm.diffusion.tasks import cfg
from ldm.errors import Refusal, one_of
from ldm.jets.data import NAMES, kind_of
from ldm.jets.files import attribute, read_jets, write_jets
from ldm.sampling.conditions import Condition
from ldm.sampling.folder import write_lists
from ldm.sampling.model import Model
from ldm.system.names import file_names
from ldm.system.randomness import generator

MOST = 150  # constituents in any of JetNet's files
TOLD = ("pt", "mass")  # of the jet's own features, what `network.jet: 2` is told
FAR = 5  # standard deviations of the training jets from their mean, beyond which a pt or a mass is worth a warning
RELATIVE, AS_TOLD = (
    "relative",
    "GeV: the pt, eta and mass that the network was told",
)  # the attribute `jet_units`


class Asked(NamedTuple):
    """What the command line asks of the jets: how many constituents each, their features (N, 4), FILE and its jets' type.

    Features are pt, eta, mass in GeV and a number that is not used. None: not asked, or FILE does not say.
    """

    numbers: list[int] | None = None
    jet: Tensor | None = None
    kind: str | None = None
    source: Path | None = None
    by_hand: bool = False  # --jet

    @property
    def type(self) -> str | None:
        """FILE's type by its full name."""
        return NAMES.get(self.kind, self.kind) if self.kind else None


def asked_for(text: str | None, count: int | None, pairs: Sequence[str] | None = None) -> Asked:
    """What `--constituents` and `--jet` mean: one number for all, or a JetNet file's jets (its first `count`, or all of them).

    FILE's pt and mass are taken, unless they are relative; those of `--jet` go before them.
    """
    value = jet_of(pairs) if pairs is not None else None
    spread = lambda n: value.expand(n, 4) if value is not None else None  # noqa: E731
    if text is None:
        return Asked(None, spread(count or 64), by_hand=value is not None)
    if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text, re.IGNORECASE):
        return Asked([_whole(text)] * (count or 64), spread(count or 64), by_hand=value is not None)
    path = Path(text)
    if not path.is_file():
        raise Refusal(f"--constituents: '{text}' is neither a number nor a file in JetNet's layout")
    _, mask, jet = read_jets(path, MOST, truncate=True)
    if count is not None and count > len(mask):
        raise Refusal(f"--count: {count} jets asked for, {path} has numbers for {len(mask)}")
    units, kind = attribute(path, "jet_units"), attribute(path, "jet_type")
    features = None if units.startswith(RELATIVE) else torch.from_numpy(jet)
    features, numbers = (
        spread(len(jet)) if value is not None else features,
        mask.sum(1)[:count].tolist(),
    )
    told = features[:count] if features is not None else None
    return Asked(numbers, told, kind or kind_of(path), path, value is not None)


def _whole(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value.is_integer():
        raise Refusal(f"--constituents: '{text}' is not a whole number")
    return int(value)


def jet_of(pairs: Sequence[str]) -> Tensor:
    """["pt=1000", "mass=80"] -> (4,) = pt, eta 0, mass, 0, in GeV as in JetNet's files."""
    given: dict[str, float] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in TOLD:
            raise Refusal(f"{one_of('--jet', key, TOLD)}; write --jet pt=1000 mass=80, in GeV")
        if key in given:
            raise Refusal(f"--jet: {key} is given twice")
        given[key] = _gev(key, text)
    if missing := [key for key in TOLD if key not in given]:
        raise Refusal(
            f"--jet: {missing[0]} is missing; the network is told pt and mass together, in GeV"
        )
    return torch.tensor([given["pt"], 0.0, given["mass"], 0.0])


def _gev(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise Refusal(
            f"--jet: {key}: '{text}' is not a number; write --jet pt=1000 mass=80, in GeV"
        ) from None
    if not 0 <= value < 1e9 or (key == "pt" and value == 0):
        raise Refusal(
            f"--jet: {key}={text} cannot be: {'above' if key == 'pt' else 'at least'} 0 and finite, in GeV"
        )
    return value


def labels_of(model: Model, label: str | None, asked: Asked, seeds: Sequence[int]) -> list[int]:
    """The class of each jet: the one named, else that of FILE's jets, else seed modulo classes."""
    classes, kind = model.classes, asked.type
    if label is not None:
        return [model.label(label)] * len(seeds)
    if not classes or asked.source is None or model.space.modality != "jets":
        return [seed % max(1, len(classes)) for seed in seeds]
    if kind in classes:
        return [classes.index(kind)] * len(seeds)
    why = f"is of {kind} jets" if kind else "does not say of which type its jets are"
    raise Refusal(
        f"--constituents: {asked.source} {why}; this checkpoint makes {', '.join(classes)}: name one with --label"
    )


def told(model: Model, numbers: Sequence[int], jet: Tensor | None = None) -> Told:
    """The masks of so many constituents, and the jets' features for a denoiser that takes them."""
    space = model.space
    if space.modality != "jets":
        raise Refusal("--constituents: this checkpoint makes pictures, not clouds")
    if bad := [n for n in numbers if not 1 <= n <= space.shape[0]]:
        raise Refusal(
            f"--constituents: {bad[0]} is not in 1 ... {space.shape[0]}, what this checkpoint makes"
        )
    return space.full(numbers) | (
        {"jet": space.condition(jet)} if jet is not None and space.jet else {}
    )


def log_density(
    model: Model,
    features: Tensor,
    mask: Tensor,
    labels: Sequence[int] | None = None,
    jet: Tensor | None = None,
    probes: int = 1,
    seed: int = 0,
    ode: Ode = Ode(1e-4, 1e-4),
) -> Likelihood:
    """log p(features | n) of clouds under a model, nats (B,): features (B, P, 3), mask (B, P), real constituents alone.

    The density is of the physical features eta_rel, phi_rel, pt_rel, of n constituents in some order, given their number n, and
    given `labels` (types) and `jet` (B, 3 or more: pt, eta, mass) where the model is told them. (Of the set without an order
    it is n! times as much.) Divide by `dimensions` to compare jets of different n. Refusal where the tolerance is not reached.
    """
    space, device = model.space, model.device
    if space.modality != "jets":
        raise Refusal("this checkpoint makes pictures, not clouds")
    features = features.to(device)
    told = {"mask": mask} | (
        {"jet": space.condition(jet.to(device))} if jet is not None and space.jet else {}
    )
    cond = Condition(labels, told=told).tensors(model, len(features))
    x_0 = space.encode(features, mask=cond["mask"])
    try:
        found = log_likelihood(
            cfg(model.denoiser, cond), x_0, generator("likelihood", seed), probes, ode
        )
    except Unreached as error:
        raise Refusal(f"likelihood: {error}") from None
    return replace(found, nats=found.nats + space.log_jacobian(features, cond["mask"]))


def told_as_asked(model: Model, asked: Asked, seeds: Sequence[int], labels: Sequence[int]) -> Told:
    """What the denoiser is told of each sample: of pictures nothing; of jets what is asked, and else numbers as in training."""
    space = model.space
    flag = "--jet" if asked.by_hand else "--constituents"
    if space.modality != "jets":
        if asked.numbers is None and asked.jet is None:
            return space.draw(seeds, labels)
        raise Refusal(f"{flag}: this checkpoint makes pictures, not clouds")
    if asked.by_hand and not space.jet:
        raise Refusal(
            "--jet: this checkpoint's network is told no pt and no mass; one trained with network.jet=2 is"
        )
    numbers = (
        space.draw(seeds, labels)["mask"].sum(1).tolist()
        if asked.numbers is None
        else asked.numbers
    )
    if asked.jet is not None and space.jet and (asked.jet[:, 0] <= 0).any():
        raise Refusal(
            f"--constituents: {asked.source} has jets of no pt above 0, which the network is told; --jet tells another"
        )
    return told(model, numbers, asked.jet)


def warnings(model: Model, asked: Asked, labels: Sequence[int], told: Told) -> list[str]:
    """What the user should know of what is asked: where it lies outside what training saw, and what is not told."""
    if model.space.modality != "jets":
        return []
    found = [
        _outside(model, row, told["mask"][torch.tensor(labels) == row].sum(1))
        for row in range(max(1, len(model.classes)))
    ]
    other = (
        model.classes and asked.type and {asked.type} != {model.classes[label] for label in labels}
    )
    found.append(f"--label: other jets than FILE's, which are {asked.type}" if other else "")
    if model.space.jet and "jet" not in told:
        found.append(
            "the network is told no pt and no mass; --jet pt=GEV mass=GEV or --constituents FILE tells them"
        )
    if "jet" in told and (far := int((told["jet"].abs() > FAR).any(1).sum())):
        found.append(
            f"pt or mass of {far} jets lie more than {FAR} standard deviations from the training jets' mean"
        )
    return [line for line in found if line]


def _outside(model: Model, row: int, numbers: Tensor) -> str:
    low, high = model.space.seen(row)
    outside = numbers[(numbers < low) | (numbers > high)]
    whose = f"{model.classes[row]} jets" if model.classes else "jets"
    seen = f"training saw {whose} of {low} ... {high} alone"
    return (
        f"--constituents: {len(outside)} jets of {outside.min()} ... {outside.max()}; {seen}"
        if len(outside)
        else ""
    )


def write_clouds(
    folder: Path,
    features: Tensor,
    mask: Tensor,
    seeds: Sequence[int],
    labels: Sequence[str] | None,
    settings: dict[str, Any],
    jet: Tensor | None = None,
) -> list[str]:
    """jets.hdf5, or a file for each type, in JetNet's layout; samples.jsonl (a line each) and settings.json. The files' names.

    `jet` (N, 4), what the network was told in GeV, is written as it is, so that the file can be given as FILE again.
    """
    kinds = sorted(set(labels or []))
    files = dict(zip(kinds, file_names(kind.replace(" ", "-") for kind in kinds), strict=True))
    names = [f"{files[label]}.hdf5" for label in labels] if labels else ["jets.hdf5"] * len(seeds)
    lines: list[dict[str, Any]] = [{}] * len(seeds)
    for name in dict.fromkeys(names):
        rows = [i for i, other in enumerate(names) if other == name]
        more = {"settings": json.dumps(settings)} | (
            {"jet_type": labels[rows[0]]} if labels else {}
        )
        more |= {"jet_units": AS_TOLD} if jet is not None else {}
        write_jets(
            folder / name, features[rows], mask[rows], jet if jet is None else jet[rows], **more
        )
        for row, i in enumerate(rows):
            lines[i] = {
                "file": name,
                "row": row,
                "seed": seeds[i],
                "constituents": int(mask[i].sum()),
            }
            lines[i] |= {"label": labels[i]} if labels else {}
    write_lists(folder, lines, settings)
    return list(dict.fromkeys(names))
