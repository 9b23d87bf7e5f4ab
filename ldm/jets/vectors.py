"""Jets as four-vectors in GeV, in files that ROOT's and awkward's users read.

A constituent (eta_rel, phi_rel, pt_rel) of a jet of pt, eta (and phi = 0, which JetNet does not
keep) is massless: pt' = pt pt_rel, eta' = eta + eta_rel, phi' = phi_rel, and
p = (pt' cos phi', pt' sin phi', pt' sinh eta'), E = pt' cosh eta'. The shift in eta is a boost
along the beam, so that a jet's mass is pt times its relative mass at any eta.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from ldm.errors import Refusal, one_of
from ldm.jets.files import attribute, by_pt, constituent_capacity, read_jets
from ldm.system.files import atomic_write

COLUMNS = ("px", "py", "pz", "E")
RELATIVE = "relative"  # how the attribute `jet_units` begins where pt and eta are no jet's own
LARGEST = 1e9  # GeV


def four_vectors(features: Tensor, mask: Tensor, pt: Tensor, eta: Tensor) -> Tensor:
    """px, py, pz, E of each constituent in the unit of pt, (N, P, 4) in float64; 0 at padding.

    features (N, P, 3) = eta_rel, phi_rel, pt_rel; mask (N, P); pt and eta of the jets, (N,).
    """
    eta_rel, phi, pt_rel = features.double().unbind(-1)
    momentum = (pt_rel * pt.double()[:, None]).masked_fill(~mask, 0)
    along = eta_rel + eta.double()[:, None]
    parts = phi.cos(), phi.sin(), along.sinh(), along.cosh()
    return torch.stack([momentum * part for part in parts], -1).masked_fill(~mask[..., None], 0)


@dataclass(frozen=True)
class Vectors:
    """Four-vectors (N, P, 4) in GeV of constituents, hardest first, and which are real (N, P)."""

    constituents: np.ndarray
    mask: np.ndarray

    @classmethod
    def read(cls, path: Path, pt: float | None = None, eta: float | None = None) -> "Vectors":
        """Of a file in JetNet's layout, each jet with its own pt and eta or with those given.

        Refusal where the file's are not in GeV and no pt is given.
        """
        if pt is not None and not 0 < pt < LARGEST:
            raise Refusal(f"--pt: {pt:g} GeV cannot be: it is above 0 and finite")
        if eta is not None and not -20 < eta < 20:
            raise Refusal(f"--eta: {eta:g} cannot be: give one between -20 and 20")
        arrays = read_jets(path, max(1, constituent_capacity(path)))
        features, mask, jet = map(torch.from_numpy, arrays)
        relative = attribute(path, "jet_units").startswith(RELATIVE)
        if pt is None and relative:
            raise Refusal(
                f"{path}: its jets have no pt of their own, all is relative to it; give one by "
                "--pt GEV"
            )
        if pt is None and not (jet[:, 0] > 0).all():
            row = int((jet[:, 0] <= 0).nonzero()[0])
            raise Refusal(f"{path}: jet {row} has no pt above 0; give one for all by --pt GEV")
        chosen_pt = jet[:, 0] if pt is None else torch.full((len(mask),), pt)
        own_eta = torch.zeros(len(mask)) if relative else jet[:, 1]
        chosen_eta = own_eta if eta is None else torch.full((len(mask),), eta)
        features, mask = by_pt(features, mask)
        found = four_vectors(features, mask, chosen_pt, chosen_eta)
        return cls(found.numpy(), mask.numpy())

    @property
    def jets(self) -> np.ndarray:
        """The sum of each jet's constituents, (N, 4)."""
        return self.constituents.sum(1)

    def write(self, path: Path) -> None:
        """By the path's end, one of `FORMATS`; whole or not at all."""
        FORMATS[expect_format(path)](self, path)


def expect_format(path: Path) -> str:
    """The end of a path; Refusal of one that is not written, or whose package is missing."""
    if path.suffix not in FORMATS:
        raise Refusal(one_of("--output: endings", path.suffix or "none", tuple(FORMATS)))
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise Refusal(
            "--output: parquet needs a package: pip install 'ldm[parquet]'; .npz and .hdf5 do not"
        )
    return path.suffix


def _npz(vectors: Vectors, path: Path) -> None:
    """constituents (N, P, 4), mask (N, P), jets (N, 4), columns."""
    with atomic_write(path, "wb") as file:
        arrays: dict[str, Any] = {**_arrays(vectors), "columns": np.array(COLUMNS)}
        np.savez_compressed(file, **arrays)


def _hdf5(vectors: Vectors, path: Path) -> None:
    """The same as data sets, the columns an attribute of the file."""
    with atomic_write(path, "wb") as file, h5py.File(file, "w") as made:
        for name, array in _arrays(vectors).items():
            made.create_dataset(name, data=array, compression="gzip", shuffle=True)
        made.attrs.update(columns=",".join(COLUMNS), unit="GeV")


def _arrays(vectors: Vectors) -> dict[str, np.ndarray]:
    return {"constituents": vectors.constituents, "mask": vectors.mask, "jets": vectors.jets}


def _parquet(vectors: Vectors, path: Path) -> None:
    """A row a jet: lists px, py, pz, E of its constituents, and jet_px ... jet_E of their sum."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ends = np.concatenate([[0], vectors.mask.sum(1).cumsum()]).astype(np.int32)
    real, table = vectors.constituents[vectors.mask], dict[str, Any]()
    for i, name in enumerate(COLUMNS):
        table[name] = pa.ListArray.from_arrays(pa.array(ends), pa.array(real[:, i]))
        table[f"jet_{name}"] = pa.array(vectors.jets[:, i])
    with atomic_write(path, "wb") as file:
        pq.write_table(pa.table(table).replace_schema_metadata({"unit": "GeV"}), file)


FORMATS: dict[str, Callable[[Vectors, Path], None]] = {
    ".parquet": _parquet,
    ".npz": _npz,
    ".hdf5": _hdf5,
}
