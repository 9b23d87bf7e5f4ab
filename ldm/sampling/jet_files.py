"""Sampled jets as JetNet's files, with the two lists that every folder of samples has."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.jets.files import write_jets
from ldm.sampling.folder import write_lists
from ldm.system.names import file_names

# the attribute `jet_units`
AS_GIVEN = "GeV: the pt, eta and mass that the network was given"
AS_DRAWN = "GeV: the pt and mass that were drawn and given to the network; eta is 0"


@dataclass(frozen=True)
class Clouds:
    """Jets to write: features (N, P, 3), mask (N, P), types, and pt, eta, mass (N, 4) in GeV.

    `drawn`: whether pt and mass are not the user's.
    """

    features: Tensor
    mask: Tensor
    types: Sequence[str] | None = None
    jet: Tensor | None = None
    drawn: bool = False

    def files(self) -> list[str]:
        """The file of each jet: jets.hdf5, or one for each type."""
        if not self.types:
            return ["jets.hdf5"] * len(self.features)
        kinds = sorted({*self.types})
        stems = file_names(kind.replace(" ", "-") for kind in kinds)
        files = dict(zip(kinds, stems, strict=True))
        return [f"{files[kind]}.hdf5" for kind in self.types]


def write_clouds(
    folder: Path, clouds: Clouds, seeds: Sequence[int], settings: Mapping[str, Any]
) -> list[str]:
    """Write JetNet's layout, samples.jsonl (a line each) and settings.json; the files' names.

    What the network was given in GeV is written as it is, so that the file can be given as FILE
    again.
    """
    files, types, jet = clouds.files(), clouds.types, clouds.jet
    lines: list[dict[str, Any]] = [{}] * len(seeds)
    for name in dict.fromkeys(files):
        rows = [i for i, other in enumerate(files) if other == name]
        more = {"settings": json.dumps(settings)}
        more |= {"jet_type": types[rows[0]]} if types else {}
        more |= {"jet_units": AS_DRAWN if clouds.drawn else AS_GIVEN} if jet is not None else {}
        own = None if jet is None else jet[rows]
        write_jets(folder / name, clouds.features[rows], clouds.mask[rows], own, **more)
        for row, i in enumerate(rows):
            numbers = {"row": row, "seed": seeds[i], "constituents": int(clouds.mask[i].sum())}
            given = {} if jet is None else {"pt": jet[i, 0].item(), "mass": jet[i, 2].item()}
            lines[i] = {"file": name} | numbers | ({"label": types[i]} if types else {}) | given
    write_lists(folder, lines, settings)
    return list(dict.fromkeys(files))
