"""What is asked of sampling, a task or an evaluation: frozen parts, parsed and checked once.

A request is made of parts: `Source` (which model), `Seeds` (which samples), `Words` (of which class
and caption) and `settings.Overrides` (how they are made). `taken` picks a part out of what argparse
found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from ldm.checkpoints.finding import find_checkpoint
from ldm.errors import Refusal
from ldm.sampling.model import Model, restore
from ldm.sampling.prompts import prompts_from
from ldm.sampling.speed import check_precision, in_precision, on_its_device
from ldm.system import threads

if TYPE_CHECKING:
    from ldm.system.processes import Ranks

Part = TypeVar("Part")
MOST = 1_000_000  # samples of one command


def taken(kind: type[Part], words: Mapping[str, Any]) -> Part:
    """The part of a request whose fields are among the words of a command line."""
    names = [field.name for field in fields(cast(Any, kind))]  # parts are dataclasses
    return kind(**{name: words[name] for name in names if name in words})


def pick_device(device: str | None, *, steady: bool = False) -> str:
    """The device asked for, or the best one here; Refusal if it cannot be used.

    On a CPU the number of threads is chosen from now on; `steady`: it stays, since what is compiled
    is compiled anew for another.
    """
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    try:
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # each kind of device raises what it likes
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refusal(f"--device: '{device}' cannot be used ({why})") from None
    if device == "cpu" and not steady:
        threads.auto()
    return device


@dataclass(frozen=True)
class Place:
    """Where this process works: the device asked for, its own one, and its rank."""

    device: str
    own: str
    ranks: "Ranks"


@dataclass(frozen=True)
class Source:
    """Which model: a run's folder or a checkpoint file, its weights, device and processes.

    `precision` and `compile` (None: where it is worth it) are how it computes, see `speed`.
    """

    checkpoint: str
    weights: str = "ema"
    device: str | None = None
    devices: int = 1
    precision: str = "auto"
    compile: bool | None = None

    def __post_init__(self) -> None:
        check_precision(self.precision)

    def expect(self) -> None:
        """Refusal if there is no such checkpoint."""
        find_checkpoint(self.checkpoint)

    def launch(self) -> Place:
        """This process' place, the others started. Refusal if the device is not there."""
        from ldm.system.processes import Ranks, launch  # Lightning is slow to import

        device = pick_device(self.device, steady=bool(self.compile))
        ranks = Ranks.of(fabric := launch(self.devices, device))
        return Place(device, str(fabric.device) if ranks.world > 1 else device, ranks)

    def restore(self, place: Place | None = None) -> Model:
        """The model, at a place or in this process alone."""
        steady = bool(self.compile)
        own = pick_device(self.device, steady=steady) if place is None else place.own
        return self.restored(own)

    def restored(self, device: str) -> Model:
        """The model on a device; where `auto` is not float32, who samples it knows."""
        model = on_its_device(restore(self.checkpoint, self.weights, device))
        return model if self.precision == "auto" else in_precision(model, self.precision)

    def record(self, model: Model) -> dict[str, Any]:
        """The model's part of settings.json."""
        file = str(find_checkpoint(self.checkpoint))
        made = {"checkpoint": file, "step": model.step, "weights": self.weights}
        return made | {"precision": model.precision}

    def describe(self, model: Model) -> str:
        """The model in a few words."""
        return f"{self.checkpoint}: step {model.step}, {self.weights} weights"


@dataclass(frozen=True)
class Seeds:
    """How many samples (None: as usual) and the seed of the first; the next ones count on."""

    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.count is not None and self.count < 1) or self.seed < 0:
            raise Refusal("--count must be at least 1 and --seed at least 0")
        if (self.count or 0) > MOST:
            raise Refusal(
                f"--count: {self.count:.3g} samples are more than {MOST} of one command; "
                "go on from another --seed"
            )
        if self.seed >= 2**63 - MOST:
            raise Refusal("--seed: it is beyond 63 bits; give a smaller one")

    def listed(self, usual: int) -> list[int]:
        """Every seed; `usual` is how many by default."""
        return list(range(self.seed, self.seed + (self.count or usual)))


@dataclass(frozen=True)
class Words:
    """The classes (names or numbers) and captions of samples; several are taken in turn."""

    label: str | int | Sequence[str | int] | None = None
    prompt: str | Sequence[str] | None = None
    prompt_file: str | None = None

    def labels(self, model: Model, count: int) -> list[int] | None:
        """The class of each sample; None where none is asked for. Refusal of unknown ones."""
        if self.label is None:
            return None
        chosen = [self.label] if isinstance(self.label, str | int) else list(self.label)
        if not chosen:
            raise Refusal("--label: it is empty")
        found = [model.label(str(one)) for one in chosen]
        return [found[i % len(found)] for i in range(count)]

    def prompts(self, model: Model, seeds: Sequence[int], own: bool = True) -> list[str] | None:
        """The caption of each seed, by default the checkpoint's own, or None with `own=False`."""
        if not own and self.prompt is None and self.prompt_file is None:
            return None
        return prompts_from(model, self.prompt, self.prompt_file, seeds)
