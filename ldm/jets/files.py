"""JetNet's HDF5 layout, read with every check and written.

Kansal et al. 2021, Zenodo 6975118 and 6975117: `particle_features` (N, P, 4)
= eta_rel, phi_rel, pt_rel, mask; `jet_features` (N, 4) = pt, eta, mass, num_particles.
"""

import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor

from ldm.errors import Refusal, say
from ldm.jets.kinematics import jet_kinematics

KEYS = ("particle_features", "jet_features")
SMALL = 1 << 26  # bytes that may be claimed by zeros
# bytes of a byte: the most that gzip can do; ten times what jets are packed to
MOST_PACKED, USUAL_PACKED = (
    1032,
    50,
)
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # features (N, P, 3), mask (N, P), jet (N, 4)


class Fault(NamedTuple):
    """What no jet can have: in which data set, where (bools of jets or constituents), and what."""

    name: str
    where: np.ndarray
    what: str

    def jets(self) -> np.ndarray:
        """Which jets have it, (N,)."""
        return np.any(self.where.reshape(len(self.where), -1), axis=1)


def read_jets(
    path: Path, constituents: int, truncate: bool = False, bad: str | None = None
) -> Arrays:
    """A file's features (N, P, 3), mask bool (N, P), jet (N, 4), float32; P = `constituents`.

    A file without a mask column has its padding where all features are 0; NaN under a mask of 0 is
    padding too. Jets with no constituent are left out and counted. Jets with more than
    `constituents` are refused, or with `truncate` keep their hardest ones, as JetNet does. Jets
    with values that cannot be (NaN, negative pt, ...) are refused, or with bad="skip" left out and
    counted; bad="refuse" names that way out. Refusal: one line with the file and the first index of
    what is wrong.
    """
    particles, jet = _read(path)
    features, mask = _split(particles)
    faults = [fault for fault in _faults(particles, features, mask, jet) if fault.where.any()]
    if faults and bad != "skip":
        _refuse(path, faults[0], "; data.bad=skip leaves such jets out" if bad else "")
    for fault in faults:
        say(f"data: {path}: {fault.jets().sum()} jets are left out, {fault.name}: {fault.what}")
    whole = ~np.any([np.zeros(len(mask), bool), *(fault.jets() for fault in faults)], 0)
    features, mask, jet = features[whole], mask[whole], jet[whole]
    filled = mask.any(1)
    if not filled.all():
        say(f"data: {path}: {(~filled).sum()} jets without a constituent are left out")
        features, mask, jet = features[filled], mask[filled], jet[filled]
    if not len(mask):
        raise Refusal(
            f"{path}: no jet {'is left' if faults else 'has a constituent'}; get the file again"
        )
    features, mask = _fit(path, features, mask, constituents, truncate)
    jet[:, 3] = mask.sum(1)  # JetNet clips it likewise; the mask is what is right
    return features, mask, jet


def constituent_capacity(path: Path) -> int:
    """The constituents a file has room for, by its header alone; 0 where unreadable."""
    try:
        with h5py.File(path, "r") as file:
            shape: tuple[int, ...] = getattr(file.get(KEYS[0]), "shape", ())
            return shape[1] if len(shape) == 3 else 0
    except (OSError, RuntimeError):
        return 0  # `read_jets` refuses it


def _read(path: Path) -> list[np.ndarray]:
    if not path.is_file():
        raise Refusal(
            f"{path}: no such file; set data.root to a JetNet file or the folder that holds it"
        )
    try:
        with h5py.File(path, "r") as file:
            if missing := [key for key in KEYS if not _holds(file, key)]:
                there = ", ".join(file) or "nothing"
                raise Refusal(
                    f"{path}: no data set '{missing[0]}' of its own (there: {there:.200}); "
                    "JetNet's layout is wanted"
                )
            for key in KEYS:
                if file[key].dtype.kind != "f":
                    raise Refusal(f"{path}: {key} is of type {file[key].dtype}, floats are wanted")
                _expect_stored(path, key, file[key])
            _check_layout(path, *(file[key] for key in KEYS))
            # too large for float32 is infinite, and refused as such
            with np.errstate(over="ignore"):
                return [file[key][:].astype(np.float32) for key in KEYS]
    except Refusal:
        raise
    except Exception as error:  # of a stranger's file: h5py raises what it likes
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refusal(f"{path} cannot be read as HDF5 ({why}); get it again") from None


def _holds(file: h5py.File, key: str) -> bool:
    """Whether the file itself has a data set of that name: a link may lead to any other file."""
    link = file.get(key, getlink=True, default=None) if key in file.keys() else None  # noqa: SIM118
    return isinstance(link, h5py.HardLink) and file.get(key, getclass=True) is h5py.Dataset


def _expect_stored(path: Path, key: str, data: h5py.Dataset) -> None:
    """Refusal unless the numbers lie in this file, no more than can be packed into it.

    What is not stored reads as zeros, so a file of a kilobyte could claim any memory.
    """
    plan = data.id.get_create_plist()
    if data.is_virtual or plan.get_external_count():
        raise Refusal(f"{path}: {key} lies in other files; get a file that holds its own numbers")
    stored, claimed = data.id.get_storage_size(), data.size * data.dtype.itemsize
    most = MOST_PACKED if claimed < SMALL else USUAL_PACKED
    if claimed > most * stored or stored > path.stat().st_size:
        raise Refusal(
            f"{path}: {key} claims {claimed / 1e6:.1f} MB, of which {stored} bytes are stored; get "
            "it again"
        )
    if data.chunks and np.prod(data.chunks) * data.dtype.itemsize > max(claimed, SMALL):
        raise Refusal(f"{path}: {key} is stored in blocks larger than itself; get it again")


def _check_layout(path: Path, particles: h5py.Dataset, jet: h5py.Dataset) -> None:
    """Before anything is read: the shapes alone."""
    shapes = f"particle_features {particles.shape} and jet_features {jet.shape}"
    if (
        len(particles.shape) != 3
        or particles.shape[2] not in (3, 4)
        or len(jet.shape) != 2
        or jet.shape[1] != 4
    ):
        hint = (
            "; a fifth column is the class, which JetNet's files do not hold"
            if jet.shape[1:] == (5,)
            else ""
        )
        raise Refusal(
            f"{path}: {shapes}, wanted (N, P, 4) = eta, phi, pt, mask and (N, 4) = pt, eta, mass, "
            f"number{hint}"
        )
    if len(particles) != len(jet):
        raise Refusal(f"{path}: {shapes} do not have the same number of jets")
    if not len(jet) or not particles.shape[1]:
        raise Refusal(f"{path} holds no jets; get it again")


def _split(particles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and mask; NaN under a mask of 0 is padding, as some tools write it."""
    features = particles[..., :3]
    if particles.shape[2] == 3:
        return features, (features != 0).any(-1)
    mask = particles[..., 3] == 1
    return np.where(~mask[..., None] & np.isnan(features), np.float32(0), features), mask


def _faults(
    particles: np.ndarray, features: np.ndarray, mask: np.ndarray, jet: np.ndarray
) -> list[Fault]:
    pt, order = features[..., 2], "the columns are eta_rel, phi_rel, pt_rel, mask"
    name, columns = "particle_features", "the columns are pt, eta, mass, num_particles"
    masks = particles[..., 3] if particles.shape[2] == 4 else np.zeros_like(pt)
    with np.errstate(invalid="ignore"):
        return [
            Fault(name, ~np.isin(masks, (0, 1)), "its mask is neither 0 nor 1"),
            Fault(name, ~np.isfinite(features).all(-1), "a feature is NaN or infinite"),
            Fault("jet_features", ~np.isfinite(jet).all(-1), "a feature is NaN or infinite"),
            Fault("jet_features", jet[:, 0] < 0, f"pt is negative ({columns})"),
            # FastJet gives a massless jet -sqrt(-m^2) of a rounding error
            Fault("jet_features", jet[:, 2] < -1e-3 * jet[:, 0], f"mass is negative ({columns})"),
            Fault(name, mask & (pt < 0), f"pt_rel is negative ({order})"),
            Fault(
                name,
                mask & (pt > 1.01),
                f"pt_rel is above 1: it is the share of the jet's pt ({order})",
            ),
            Fault(
                name, mask & (np.abs(features[..., 1]) > np.pi), f"|phi_rel| is above pi ({order})"
            ),
            Fault(name, ~mask & (features != 0).any(-1), "padding (mask 0) is not zero"),
        ]


def _refuse(path: Path, fault: Fault, more: str) -> None:
    """Refusal that names the first index of a fault, and how many there are."""
    index = ", ".join(str(i) for i in np.argwhere(fault.where)[0])
    raise Refusal(
        f"{path}: {fault.name}[{index}]: {fault.what}; {fault.where.sum()} such in the file{more}"
    )


def _fit(
    path: Path, features: np.ndarray, mask: np.ndarray, size: int, truncate: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Bring the padded length to `size`."""
    counts = mask.sum(1)
    if (counts > size).any() and not truncate:
        first = int(np.argmax(counts > size))
        raise Refusal(
            f"{path}: jet {first} has {counts[first]} constituents, more than data.constituents = "
            f"{size}; "
            "raise it, or set data.truncate=true to keep the hardest"
        )
    # real ones first, hardest first; stable, so a file in JetNet's order stays in it
    if mask.shape[1] > size:
        order = np.argsort(np.where(mask, -features[..., 2], 1), 1, kind="stable")[:, :size]
        return np.take_along_axis(features, order[..., None], 1), np.take_along_axis(mask, order, 1)
    room = (0, size - mask.shape[1])
    return np.pad(features, ((0, 0), room, (0, 0))), np.pad(mask, ((0, 0), room))


def attribute(path: Path, key: str) -> str:
    """A text attribute of the file; empty where it is missing."""
    try:
        with h5py.File(path, "r") as file:
            value = file.attrs.get(key, "")
    except Exception:  # of a stranger's file: h5py raises what it likes
        return ""
    value = value.decode(errors="replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) else ""


def by_pt(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Each jet's constituents (N, P, 3) hardest first, padding last, as in JetNet."""
    order = (
        features[..., 2].masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    )
    return features.gather(1, order[..., None].expand_as(features)), mask.gather(1, order)


def write_jets(
    path: str | Path, features: Tensor, mask: Tensor, jet: Tensor | None = None, **attributes: str
) -> None:
    """JetNet's layout of features (N, P, 3), mask (N, P), jet (N, 3 or more) = pt, eta, mass.

    Constituents are written hardest first. Without `jet` its pt, eta and mass are those of the
    summed constituents, relative as the features are, and the file's attribute `jet_units` says so.
    num_particles is the mask's. Written beside and moved, so that no half file remains.
    """
    path = Path(path)
    features, mask = by_pt(features.detach().cpu().float(), mask.detach().cpu().bool())
    if jet is None:
        kinematics = jet_kinematics(features, mask)
        jet = torch.stack([kinematics[key] for key in ("pt", "eta", "mass")], 1)
        attributes = {"jet_units": "relative to the jet: pt_rel, eta_rel, mass / pt", **attributes}
    particles = torch.cat([features * mask[..., None], mask[..., None].float()], -1)
    jets = torch.cat([jet[:, :3].cpu().float(), mask.sum(1, keepdim=True).float()], 1)
    part = path.with_name(path.name + ".part")
    with h5py.File(part, "w") as file:
        for key, array in zip(KEYS, (particles, jets), strict=True):
            file.create_dataset(key, data=array.numpy(), compression="gzip", shuffle=True)
        file.attrs.update(attributes)
    os.replace(part, path)
