"""Samples against a reference, both from files and without a checkpoint: jets or pictures.

Two files of jets in JetNet's layout, or two folders of pictures, whoever made them; the metrics,
floors and records are those of a checkpoint's samples.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ldm.errors import Refusal, say
from ldm.evaluation.base import Report
from ldm.evaluation.jets import Trial, available, judged
from ldm.evaluation.run import write_each
from ldm.jets.data import NAMES, Jets, JetSet, kind_of
from ldm.jets.files import attribute, constituent_capacity, read_jets
from ldm.jets.metrics import check_jet_metrics
from ldm.metrics import features as feature_networks
from ldm.metrics.figures import (
    ALL,
    check_count,
    check_metrics,
    compare,
    warn_of_rank,
)
from ldm.metrics.records import Figure, file_hash, open_log
from ldm.metrics.reference import KEPT, cached_reference
from ldm.pictures.whole import LARGEST, whole_folder
from ldm.sampling.requests import pick_device
from ldm.system.randomness import permutation

FEWEST = 20  # jets of a file
OURS = (
    "copies",
    "split",
    "data_root",
    "count",
    "steps",
    "solver",
    "guidance",
    "guide",
    "eta",
    "grid",
)


@dataclass(frozen=True)
class FilesRequest:
    """Samples and a reference, each a file of jets or a folder of pictures. None: as usual."""

    samples: str
    reference: str
    metrics: tuple[str, ...] | None = None
    features: str = "auto"
    size: int | None = None  # px to which pictures are brought
    clip: float | None = None  # jets: |eta| and |phi| are cut to it
    cache: str | None = None
    output: str = "evaluations"
    device: str | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not 1 <= self.size <= LARGEST:
            raise Refusal(f"--size: {self.size} is not in 1 ... {LARGEST} px")
        if self.clip is not None and not 0 < self.clip < float("inf"):
            raise Refusal(f"--clip: {self.clip:g} is not an angle above 0; leave it out")

    @classmethod
    def parse(cls, words: Mapping[str, Any]) -> "FilesRequest":
        """From the words of a command line. Refusal for flags that only a checkpoint has."""
        for name in OURS:
            if words.get(name) not in (None, False):
                flag = f"--{name.replace('_', '-')}"
                raise Refusal(f"{flag}: it is of a checkpoint; --samples are compared as they are")
        names, known = words.get("metrics"), {field.name for field in fields(cls)}
        own = {key: value for key, value in words.items() if key in known}
        own["metrics"] = None if names is None else tuple(name.strip() for name in names.split(","))
        return cls(**own)

    def folders(self) -> bool:
        """Whether both are folders; Refusal where one is missing or they are of two kinds."""
        for flag, place in (("--samples", self.samples), ("--reference", self.reference)):
            if not Path(place).exists():
                raise Refusal(f"{flag}: '{place}' is not there")
        found = [Path(place).is_dir() for place in (self.samples, self.reference)]
        if found[0] != found[1]:
            raise Refusal(
                "--samples, --reference: one is a folder and one a file; give two folders of "
                "pictures, or two files of jets"
            )
        return found[0]


class Files(Report):
    """One comparison; making it reads both sides and refuses what cannot be."""

    def __init__(self, request: FilesRequest):
        self.request = request


def _read(flag: str, place: str) -> JetSet:
    """The jets of a file."""
    path = Path(place)
    try:
        arrays = read_jets(path, max(1, constituent_capacity(path)))
    except Refusal as why:
        raise Refusal(f"{flag}: {why}") from None
    features, mask, jet = map(torch.from_numpy, arrays)
    if len(mask) < FEWEST:
        raise Refusal(f"{flag}: {path} has {len(mask)} jets, at least {FEWEST} are compared")
    return JetSet(features, mask, jet, torch.zeros(len(mask)))


def _narrowed(jets: JetSet, most: int) -> JetSet:
    """The same with `most` places for constituents, of which no jet has more; they stand first."""
    order = jets.mask.int().argsort(dim=1, descending=True, stable=True)
    order = order[:, : min(most, order.shape[1])]
    room = most - order.shape[1]
    features = jets.features.gather(1, order[..., None].expand(-1, -1, 3))
    padded = torch.nn.functional.pad(features, (0, 0, 0, room))
    mask = torch.nn.functional.pad(jets.mask.gather(1, order), (0, room))
    return JetSet(padded, mask, jets.jet, jets.types)


def _kind(place: str) -> str | None:
    """JetNet's letter of a file's type, by what it says or its name; None where neither does."""
    said = attribute(Path(place), "jet_type")
    return next((kind for kind, name in NAMES.items() if name == said), kind_of(Path(place)))


class JetFiles(Files):
    """Two files of jets; as many others of the reference in the samples' place are the floor."""

    def __init__(self, request: FilesRequest):
        super().__init__(request)
        if request.size is not None or request.features != "auto":
            raise Refusal("--size, --features: they are of pictures; these are files")
        wanted = check_jet_metrics(request.metrics) if request.metrics is not None else None
        made, real = _read("--samples", request.samples), _read("--reference", request.reference)
        most = int(max(made.counts.max(), real.counts.max()))
        self.made, self.real = _narrowed(made, most), _narrowed(real, most)
        kinds = _kind(request.samples), _kind(request.reference)
        if None not in kinds and kinds[0] != kinds[1]:
            types = [NAMES[kind] for kind in kinds if kind]
            say(f"warning: the samples are of {types[0]} jets, the reference of {types[1]} jets")
        order = permutation(len(self.real), "floor")
        self.apart = min(len(self.made), len(self.real) // 2)
        self.others, self.rest = (
            self.real.rows(part) for part in (order[: self.apart], order[self.apart :])
        )
        self.kinds = (kinds[1] or "",)
        sets = self.rest, self.others, self.real
        self.metrics = available(Jets(*sets, (), (most, 3), self.kinds), wanted)

    def figures(self) -> Iterator[dict[str, Figure]]:
        trial = Trial(self.real, self.made, self.others, self.kinds, self.rest)
        return judged(trial, self.metrics, self.request.clip)

    def record(self) -> dict[str, Any]:
        paths = {"samples": self.request.samples, "reference": self.request.reference}
        sizes = {"samples": len(self.made), "reference": len(self.real)}
        found: dict[str, Any] = {
            side: {"what": path, "hash": file_hash(Path(path)), "n": sizes[side]}
            for side, path in paths.items()
        }
        return found | {"clip": self.request.clip}

    def describe(self) -> str:
        request = self.request
        real = f"{len(self.real)} jets of {request.reference}"
        floor = f"floor: {self.apart} of these against the other {len(self.rest)}"
        return f"{request.samples}: {len(self.made)} jets against {real}; {floor}"


class PictureFiles(Files):
    """Two folders of pictures, by one network's features."""

    choices = tuple(name for name in ALL if name != "class_share")

    def __init__(self, request: FilesRequest):
        super().__init__(request)
        if request.clip is not None:
            raise Refusal("--clip is of jets; these are folders")
        names = request.metrics
        self.metrics = self.choices if names is None else check_metrics(names, self.choices)
        self.real = self._folder("--reference", request.reference)
        self.made = self._folder("--samples", request.samples)
        check_count(len(self.made), len(self.real), "--reference")
        self.network = feature_networks.choose(request.features).to(pick_device(request.device))
        warn_of_rank(len(self.made), self.network.dim)
        if len(self.made) > KEPT:
            say(f"{KEPT} of the {len(self.made)} samples, drawn by chance, are compared")

    def _folder(self, flag: str, place: str) -> Any:
        found = getattr(self, "real", None)
        try:
            same = found.view.found if found is not None else None
            return whole_folder(Path(place), self.request.size, same)
        except Refusal as why:
            raise Refusal(f"{flag}: {str(why).removeprefix('data.root: ')}") from None

    def figures(self) -> Iterator[dict[str, Figure]]:
        cache = Path(self.request.cache) if self.request.cache else None
        sides = (self.real, self.request.reference), (self.made, self.request.samples)
        real, made = (cached_reference(rows, self.network, what, cache) for rows, what in sides)
        assert real is not None and made is not None  # of one process
        yield compare(made.rows, real, self.network, None, self.metrics)

    def record(self) -> dict[str, Any]:
        kept = ("name", "hash", "dim", "resize")
        sides = {"samples": self.made, "reference": self.real}
        paths = {"samples": self.request.samples, "reference": self.request.reference}
        return {
            side: {"what": paths[side], "hash": rows.fingerprint(), "n": len(rows), "px": _px(rows)}
            for side, rows in sides.items()
        } | {"features": {key: getattr(self.network, key) for key in kept}}

    def describe(self) -> str:
        sides = (self.request.samples, self.made), (self.request.reference, self.real)
        said = [f"{len(rows)} pictures of {what} ({_px(rows)} px)" for what, rows in sides]
        return f"{' against '.join(said)}; {self.network.name} features"


def _px(rows: Any) -> int:
    return rows.view.shape[1]


def evaluate_files(request: FilesRequest) -> dict[str, Figure]:
    """The figures that are asked for, recorded as each metric ends."""
    kind = PictureFiles if request.folders() else JetFiles
    files = kind(request)
    log = open_log(Path(request.output))  # once nothing is left to refuse
    return write_each(log, files.figures(), files.record(), files.describe())
