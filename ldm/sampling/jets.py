"""Samples that are jets: their constituents, pt and mass, and JetNet's files."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from ldm.diffusion.space import Extras
from ldm.errors import Refusal, one_of
from ldm.jets.data import NAMES, kind_of
from ldm.jets.files import attribute, read_jets
from ldm.jets.space import PointCloudSpace
from ldm.sampling.conditions import Condition
from ldm.sampling.density import Density, Estimate
from ldm.sampling.generate import Job, reverse
from ldm.sampling.jet_files import Clouds, write_clouds
from ldm.sampling.modality import Samples
from ldm.sampling.model import Model
from ldm.sampling.requests import Words

if TYPE_CHECKING:
    from ldm.jets.metrics import Cloud

MOST = 150  # constituents in any of JetNet's files
GIVEN = ("pt", "mass")  # of the jet's own features, what `network.jet: 2` is conditioned on
# standard deviations from the training jets' mean, beyond which a pt or a mass is worth a warning
FAR = 5
RELATIVE = "relative"  # the attribute `jet_units` of files whose pt, eta and mass are no GeV


@dataclass(frozen=True)
class JetSamples(Samples):
    """Each jet's number of constituents and features (N, 4), and the file and type they are from.

    Features are pt, eta, mass in GeV and a number that is not used; None: not asked, or the file
    has none. `pairs` are those of `--jet`, as they were written.
    """

    modality: ClassVar[str] = "jets"
    own: ClassVar[tuple[str, ...]] = ("constituents", "jet")
    numbers: Sequence[int] | None = None
    jet: Tensor | None = None
    kind: str | None = None
    source: Path | None = None
    pairs: Sequence[str] | None = None

    @classmethod
    def parse(cls, words: Mapping[str, Any], count: int | None) -> "JetSamples":
        numbers, jet = words.get("constituents"), words.get("jet")
        pairs = (
            [f"{key}={value}" for key, value in jet.items()] if isinstance(jet, Mapping) else jet
        )
        if numbers is None or isinstance(numbers, str | int | Path):
            return asked_for(None if numbers is None else str(numbers), count, pairs)
        listed = [int(n) for n in numbers]
        if count not in (None, len(listed)):
            raise Refusal(f"--constituents: {len(listed)} numbers for --count {count}")
        return replace(asked_for(None, len(listed), pairs), numbers=listed)

    @property
    def count(self) -> int | None:
        return None if self.numbers is None else len(self.numbers)

    @property
    def flag(self) -> str | None:
        return "--jet" if self.pairs is not None else "--constituents" if self.numbers else None

    @property
    def type(self) -> str | None:
        """The file's type by its full name."""
        return NAMES.get(self.kind, self.kind) if self.kind else None

    def labels(self, model: Model, words: Words, count: int) -> list[int] | None:
        """The classes that are named, else that of the file's jets."""
        if words.label is not None or not model.classes or self.source is None:
            return super().labels(model, words, count)
        if self.type in model.classes:
            return [model.classes.index(self.type)] * count
        why = f"is of {self.type} jets" if self.type else "does not name the type of its jets"
        raise Refusal(
            f"--constituents: {self.source} {why}; this checkpoint makes "
            f"{', '.join(model.classes)}: name one with --label"
        )

    def condition(self, model: Model, words: Words, seeds: Sequence[int]) -> Condition:
        """Numbers of constituents, pt and mass if taken; what is not given is as in training."""
        found, takes = super().condition(model, words, seeds), space_of(model).jet
        if self.pairs is not None and not takes:
            raise Refusal(
                "--jet: this checkpoint is not conditioned on pt and mass; "
                "one trained with network.jet=2 is"
            )
        if self.jet is not None and takes and (self.jet[:, 0] <= 0).any():
            raise Refusal(
                f"--constituents: {self.source} has jets without a pt above 0, and the network is "
                "conditioned on pt; give another by --jet"
            )
        expect_numbers(model, self.numbers or ())
        space, jet = space_of(model), self.jet if takes else None
        if self.numbers is None and jet is None:
            return found
        given = None if jet is None else space.condition(jet)
        return replace(found, extras=space.draw(seeds, found.labels, self.numbers, given))

    def warnings(self, job: Job) -> list[str]:
        """Where what is asked lies outside what training saw, and what the network is not given."""
        model, extras = job.model, job.condition.extras
        labels = torch.tensor(job.condition.labels or [0] * len(job.seeds))
        numbers = extras["mask"].sum(1)
        rows = range(max(1, len(model.classes)))
        found = [_outside(model, row, numbers[labels == row]) for row in rows]
        if job.names and self.type and {self.type} != {*job.names}:
            found.append(f"--label: other jets than FILE's, which are {self.type}")
        if space_of(model).jet and "jet" not in extras:
            found.append(
                "pt and mass are not given to the network; "
                "give them by --jet pt=GEV mass=GEV or --constituents FILE"
            )
        if (
            self.jet is not None
            and "jet" in extras
            and (far := int((extras["jet"].abs() > FAR).any(1).sum()))
        ):
            found.append(
                f"pt or mass of {far} jets lie more than {FAR} standard deviations "
                "from the training jets' mean"
            )
        return [line for line in found if line]

    def record(self) -> dict[str, Any]:
        return {"jet": self.pairs}

    def way(self, job: Job, here: Job, count: int) -> "JetWay":
        return JetWay(job.rows(range(count)))

    def write(self, folder: Path, job: Job, samples: Tensor, record: Mapping[str, Any]) -> str:
        """jets.hdf5, or a file for each type, in JetNet's layout."""
        extras, jet, drawn = job.condition.extras, None, self.jet is None
        if "jet" in extras:
            jet = space_of(job.model).in_gev(extras["jet"]) if self.jet is None else self.jet
        clouds = Clouds(samples, extras["mask"], job.names, jet, drawn)
        names = write_clouds(folder, clouds, job.seeds, record)
        return f"{len(samples)} jets: {', '.join(names)}"

    def returned(self, job: Job, samples: Tensor) -> "Cloud":
        from ldm.jets.metrics import Cloud  # scipy is slow to import

        return Cloud(samples, job.condition.extras["mask"])

    def density(
        self, model: Model, data: tuple[Tensor, Tensor], condition: Condition, estimate: Estimate
    ) -> Density:
        space = space_of(model)
        given = {"jet": space.condition(self.jet)} if self.jet is not None and space.jet else {}
        return log_density(model, *data, replace(condition, extras=given), estimate)


@dataclass(frozen=True)
class JetWay:
    """The reverse process of a few jets, made again in one batch."""

    files: ClassVar[str] = "trajectory.png"
    job: Job

    def __call__(self, step: int, x_s: Tensor, x0_hat: Tensor) -> None:
        """The steps of other jets are not kept."""

    def write(self, folder: Path) -> None:
        """trajectory.png in the folder."""
        from ldm.jets.plots import reverse_process  # matplotlib is slow to import

        job = self.job
        shown = reverse(job.model, job.settings, job.seeds, job.condition)
        reverse_process(*shown, jets=len(job.seeds)).save(folder / "trajectory.png")


def space_of(model: Model) -> PointCloudSpace:
    """The space of a model of jets."""
    return cast(PointCloudSpace, model.space)


def asked_for(
    text: str | None, count: int | None, pairs: Sequence[str] | None = None
) -> JetSamples:
    """The meaning of `--constituents` and `--jet`: a number for all, or `count` jets of a file.

    FILE's pt and mass are taken, unless they are relative; those of `--jet` go before them.
    """
    value = jet_of(pairs) if pairs is not None else None
    spread = lambda n: value.expand(n, 4) if value is not None else None  # noqa: E731
    usual = count or 64
    if text is None:
        return JetSamples(jet=spread(usual), pairs=pairs)
    if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text, re.IGNORECASE):
        return JetSamples([_whole(text)] * usual, spread(usual), pairs=pairs)
    path = Path(text)
    if not path.is_file():
        raise Refusal(f"--constituents: '{text}' is neither a number nor a file in JetNet's layout")
    _, mask, jet = read_jets(path, MOST, truncate=True)
    if count is not None and count > len(mask):
        raise Refusal(f"--count: {count} jets asked for, {path} has numbers for {len(mask)}")
    units, kind = attribute(path, "jet_units"), attribute(path, "jet_type")
    own = None if units.startswith(RELATIVE) else torch.from_numpy(jet)[:count]
    numbers = mask.sum(1)[:count].tolist()
    given = own if value is None else spread(len(numbers))
    return JetSamples(numbers, given, kind or kind_of(path), path, pairs)


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
        if key not in GIVEN:
            raise Refusal(f"{one_of('--jet', key, GIVEN)}; write --jet pt=1000 mass=80, in GeV")
        if key in given:
            raise Refusal(f"--jet: {key} is given twice")
        given[key] = _gev(key, text)
    if missing := [key for key in GIVEN if key not in given]:
        raise Refusal(f"--jet: {missing[0]} is missing; pt and mass are given together, in GeV")
    return torch.tensor([given["pt"], 0.0, given["mass"], 0.0])


def _gev(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise Refusal(
            f"--jet: {key}: '{text}' is not a number; write --jet pt=1000 mass=80, in GeV"
        ) from None
    if not 0 <= value < 1e9 or (key == "pt" and value == 0):
        least = "above" if key == "pt" else "at least"
        raise Refusal(f"--jet: {key}={text} cannot be: {least} 0 and finite, in GeV")
    return value


def constituents(model: Model, numbers: Sequence[int], jet: Tensor | None = None) -> Extras:
    """The masks of so many constituents, with pt and mass where they are given and taken."""
    space = space_of(model)
    expect_numbers(model, numbers)
    given = {"jet": space.condition(jet)} if jet is not None and space.jet else {}
    return space.full(numbers) | given


def expect_numbers(model: Model, numbers: Sequence[int]) -> None:
    """Refusal of a number of constituents that the model does not make."""
    most = space_of(model).shape[0]
    if bad := [n for n in numbers if not 1 <= n <= most]:
        raise Refusal(
            f"--constituents: {bad[0]} is not in 1 ... {most}, what this checkpoint makes"
        )


def log_density(
    model: Model,
    features: Tensor,
    mask: Tensor,
    condition: Condition = Condition(),
    estimate: Estimate = Estimate(),
) -> Density:
    """log p(features | n) of jets, nats (B,): features (B, P, 3), mask (B, P), real ones alone.

    The density is of the physical features eta_rel, phi_rel, pt_rel, of n constituents in some
    order, given their number n and the condition: type, and pt and mass as `constituents` has them.
    (Of the set without an order it is n! times as much.) Divide by `found.dimensions` to compare
    jets of different n. Refusal where the tolerance is not reached.
    """
    features, mask = features.to(model.device), mask.to(model.device)
    given = replace(condition, extras=condition.extras | {"mask": mask})
    found = estimate.log_p(model, space_of(model).encode(features, mask=mask), given)
    nats = found.nats + space_of(model).log_jacobian(features, mask)
    return Density(nats, replace(found, nats=nats))


def _outside(model: Model, row: int, numbers: Tensor) -> str:
    low, high = space_of(model).seen(row)
    outside = numbers[(numbers < low) | (numbers > high)]
    if not len(outside):
        return ""
    whose = f"{model.classes[row]} jets" if model.classes else "jets"
    between = f"{outside.min()} ... {outside.max()}"
    return (
        f"--constituents: {len(outside)} jets of {between}; "
        f"training saw {whose} of {low} ... {high} alone"
    )
