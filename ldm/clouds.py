"""Clouds in and out of sampling: the numbers of constituents that are asked for, and the files that are written."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor

from ldm.data.jet_files import read_jets, write_jets
from ldm.diffusion.likelihood import Likelihood, Ode, log_likelihood
from ldm.diffusion.solvers import Unreached
from ldm.diffusion.tasks import cfg
from ldm.errors import Refusal
from ldm.model import Model
from ldm.names import file_names
from ldm.pointcloud import PointCloudSpace
from ldm.randomness import generator
from ldm.spaces import Told

MOST = 150  # constituents in any of JetNet's files


def asked_for(text: str, count: int | None) -> tuple[list[int], Tensor | None]:
    """What `--constituents` means: one number for all, or a JetNet file's numbers (its first `count` jets, or all of them).

    Numbers of constituents, and with a file its jets' features (N, 4) in GeV, None where those are relative.
    """
    if text.isdecimal():
        return [int(text)] * (count or 64), None
    path = Path(text)
    if not path.is_file():
        raise Refusal(f"--constituents: '{text}' is neither a number nor a file in JetNet's layout")
    _, mask, jet = read_jets(path, MOST, truncate=True)
    if count is not None and count > len(mask):
        raise Refusal(f"--count: {count} jets asked for, {path} has numbers for {len(mask)}")
    with h5py.File(path) as file:
        relative = "jet_units" in file.attrs
    return mask.sum(1)[:count].tolist(), None if relative else torch.from_numpy(jet[:count])


def told(model: Model, numbers: Sequence[int], jet: Tensor | None = None) -> Told:
    """The masks of so many constituents, and the jets' features for a denoiser that takes them."""
    space = model.space
    if not isinstance(space, PointCloudSpace):
        raise Refusal("--constituents: this checkpoint makes pictures, not clouds")
    if bad := [n for n in numbers if not 1 <= n <= space.shape[0]]:
        raise Refusal(f"--constituents: {bad[0]} is not in 1 ... {space.shape[0]}, what this checkpoint makes")
    return space.full(numbers) | ({"jet": space.condition(jet)} if jet is not None and space.jet else {})


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
    space, device = model.space, next(model.denoiser.parameters()).device
    if not isinstance(space, PointCloudSpace):
        raise Refusal("this checkpoint makes pictures, not clouds")
    features, cond = features.to(device), {"mask": mask.to(device)}
    cond |= {"label": torch.tensor(labels, device=device)} if labels is not None and model.classes else {}
    cond |= {"jet": space.condition(jet.to(device))} if jet is not None and space.jet else {}
    x_0 = space.encode(features, mask=cond["mask"])
    try:
        found = log_likelihood(cfg(model.denoiser, cond), x_0, generator("likelihood", seed), probes, ode)
    except Unreached as error:
        raise Refusal(f"likelihood: {error}") from None
    return replace(found, nats=found.nats + space.log_jacobian(features, cond["mask"]))


def write_clouds(
    folder: Path, features: Tensor, mask: Tensor, seeds: Sequence[int], labels: Sequence[str] | None, settings: dict[str, Any]
) -> list[str]:
    """jets.hdf5, or a file for each type, in JetNet's layout; samples.jsonl (a line each) and settings.json. The files' names."""
    kinds = sorted(set(labels or []))
    files = dict(zip(kinds, file_names(kind.replace(" ", "-") for kind in kinds), strict=True))
    names = [f"{files[label]}.hdf5" for label in labels] if labels else ["jets.hdf5"] * len(seeds)
    lines: list[dict[str, Any]] = [{}] * len(seeds)
    for name in dict.fromkeys(names):
        rows = [i for i, other in enumerate(names) if other == name]
        write_jets(folder / name, features[rows], mask[rows], settings=json.dumps(settings))
        for row, i in enumerate(rows):
            lines[i] = {"file": name, "row": row, "seed": seeds[i], "constituents": int(mask[i].sum())}
            lines[i] |= {"label": labels[i]} if labels else {}
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    return list(dict.fromkeys(names))
