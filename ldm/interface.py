"""ldm in Python: load a checkpoint and ask it; train on a data set of one's own.

import ldm

model = ldm.load("checkpoints/fashion-latent")
bags = model.sample(16, label="Bag", seed=0, guidance=1.5)  # uint8, (16, 1, 28, 28)
clean = model.denoise(bags, noise_std=0.5, floats=True)  # in [-1, 1]
folder = ldm.train("fashion/pixel.yaml", "trainer.max_steps=1000", images=my_dataset)

What cannot be is an `ldm.Refusal`, one line that names the argument.
"""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from ldm.config import Config, made, made_for_cpu
from ldm.config import load as load_config
from ldm.config.schema import to_dict
from ldm.diffusion.solvers import Solver
from ldm.errors import Refusal, one_of
from ldm.sampling.conditions import Condition
from ldm.sampling.density import Density, Estimate
from ldm.sampling.modalities import MODALITIES
from ldm.sampling.model import Model
from ldm.sampling.requests import Seeds, Source, Words, pick_device, taken
from ldm.sampling.run import SampleRequest
from ldm.sampling.settings import Overrides
from ldm.system.batches import as_bytes

NAMES = {"image": "images", "mask": "masks"}  # of flags whose arguments are called otherwise


class How(TypedDict, total=False):
    """What samples are conditioned on, and how they are made, over the checkpoint's own settings.

    label: a class by name or number, or several, taken in turn; prompt: the same of captions.
    solver: a name, or one of `ldm.diffusion`; solver_option: a mapping of its fields.
    """

    label: str | int | Sequence[str | int]
    prompt: str | Sequence[str]
    solver: str | Solver
    solver_option: Mapping[str, Any]
    eta: float
    steps: int
    grid: str
    guidance: float
    interval: Sequence[float]
    rescale: float
    guide: str | Mapping[str, str]
    batch_size: int


class HowSampled(How, total=False):
    """With jets' own: constituents (a number, one for each, or a JetNet file), pt and mass."""

    constituents: int | str | Sequence[int]
    jet: Mapping[str, float]


class HowSolved(How, total=False):
    """`count` samples of each picture, seeds from `seed`, bytes or `floats`; options of tasks."""

    count: int
    seed: int
    floats: bool
    method: str
    resamples: int


@contextmanager
def in_python() -> Iterator[None]:
    """A Refusal's flags become the names of arguments: --noise-std is noise_std."""

    def name(flag: re.Match[str]) -> str:
        return NAMES.get(flag[1], flag[1].replace("-", "_"))

    try:
        yield
    except Refusal as error:
        text = re.sub(r"(?<![\w-])--([a-z][a-z-]*)", name, str(error))
        text = re.sub(r"sample\.py: (?:key )?", "", text)
        raise type(error)(text) from None


def load(
    path: str | Path,
    weights: str = "ema",
    device: str | torch.device | None = None,
    precision: str = "auto",
) -> "DiffusionModel":
    """A model from a run's folder or a checkpoint file; the others as of sample.py.

    Refusal, one line, whatever is wrong with the file.
    """
    with in_python():
        own = pick_device(None if device is None else str(device))
        source = Source(str(path), weights, own, precision=precision)
        return DiffusionModel(source.restored(own), source)


def train(
    config: str | Path | Mapping[str, Any] | Config,
    *overrides: str,
    images: Iterable[Any] | None = None,
    resume: bool = False,
) -> Path:
    """Train to the end, and return the run's folder: `ldm.load` takes it.

    config: a YAML file, a plain dict of the same keys, or a config made in Python, with `key=value`
    overrides over it. images: a torch Dataset of pictures, of (picture, class) or of dicts, in
    place of the config's data (`ldm.pictures.given.from_dataset` says what is read, and how values
    are).
    """
    from ldm.pictures.given import Given, from_dataset
    from ldm.training.run import train_run as run

    with in_python():
        for_cpu = None
        given = None if images is None else from_dataset(images)
        if isinstance(config, str | Path):
            found = load_config(config, overrides)
            for_cpu = made_for_cpu(config)
        else:
            tree = dict(config) if isinstance(config, Mapping) else to_dict(config)
            own = {"data": {"name": "Given"}} if given is not None else {}
            found = made(own | tree, overrides)
        if given is not None and not isinstance(found.data, Given):
            found = replace(found, data=Given.like(found.data))
        return run(found, resume=resume, images=given, for_cpu=for_cpu)


@dataclass(frozen=True)
class DiffusionModel:
    """A checkpoint's model, to be asked. `model` holds its parts, `source` where it came from."""

    model: Model
    source: Source

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names; none of a model without classes."""
        return self.model.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (C, H, W) of pictures, (constituents, 3) of jets, (columns,) of points."""
        return self.model.space.data_shape

    def sample(
        self, count: int = 1, *, seed: int = 0, floats: bool = False, **how: Unpack[HowSampled]
    ) -> Any:
        """`count` samples on the CPU, one for each of the seeds `seed`, `seed + 1`, ...

        Pictures: uint8 (count, C, H, W), floats in [-1, 1] with `floats=True`, or where the data
        are floats. Jets: `features` (count, P, 3) and `mask` (count, P). Points: (count, D).
        Without a label the class is seed modulo classes, without a prompt the caption is one of
        the checkpoint's.
        """
        with in_python():
            self._expect(how, HowSampled)
            job = self._request(count, seed, how).job(self._valued(floats=floats))
            return MODALITIES[self.model.space.modality].parse({}, None).returned(job, job.run())

    def denoise(
        self, images: Tensor, *, noise_std: float | None = None, **how: Unpack[HowSolved]
    ) -> Tensor:
        """Samples of p(x | x + noise); noise_std is in units of [-1, 1], by default estimated.

        images, here and in what follows: (N, C, H, W), or one (C, H, W), of bytes or in [-1, 1].
        Of each one sample (N, C, H, W); with `count` so many, (N, count, C, H, W).
        """
        return self._solved("denoise", images, None, {"noise_std": noise_std}, how)

    def inpaint(self, images: Tensor, masks: Tensor, **how: Unpack[HowSolved]) -> Tensor:
        """Pictures whose `masks` (1: to paint; (H, W), (N, 1, H, W)) are filled in anew."""
        return self._solved("inpaint", images, masks, {}, how)

    def super_resolve(
        self, images: Tensor, *, factor: int | None = None, **how: Unpack[HowSolved]
    ) -> Tensor:
        """Pictures `factor` times larger; by default as many as make the model's size of them."""
        if factor is None and torch.is_tensor(images) and images.dim() >= 2:
            factor = max(1, self.shape[-1] // max(1, images.shape[-1]))
        return self._solved("super-resolve", images, None, {"factor": factor}, how)

    def edit(
        self, images: Tensor, *, strength: float | None = None, **how: Unpack[HowSolved]
    ) -> Tensor:
        """Other pictures of the same layout: noised up to t = strength (0.6), and down again."""
        return self._solved("edit", images, None, {"strength": strength}, how)

    def interpolate(self, first: Tensor, second: Tensor, **how: Unpack[HowSolved]) -> Tensor:
        """`count` pictures (8 by default) from the first to the second, (count, C, H, W)."""
        with in_python():
            pair = torch.cat([self._pictures(first), self._pictures(second)])
            if len(pair) != 2:
                raise Refusal("first, second: one picture each")
        how.setdefault("count", 8)
        return self._solved("interpolate", pair, None, {}, how)[0]

    def log_likelihood(
        self,
        x: Any,
        *,
        label: str | int | Sequence[str | int] | None = None,
        prompt: str | Sequence[str] | None = None,
        jet: Mapping[str, float] | None = None,
        estimate: Estimate = Estimate(),
    ) -> Density:
        """log p of each x, in nats, of bytes also in bits a dimension: `nats`, `bits_per_dim`.

        x: pictures (N, C, H, W), jets (features, mask), or points (N, D). A label or a prompt for
        each, or one for all; without any it is the unconditional density. In latents `nats` is a
        lower bound (`bound`). Jets: the density of eta_rel, phi_rel, pt_rel given their number.
        """
        with in_python():
            points = len(self.shape) == 1
            whole = x if isinstance(x, tuple) else self._points(x) if points else self._pictures(x)
            count = len(whole[0] if isinstance(x, tuple) else whole)
            words = Words(label, prompt)
            prompts = words.prompts(self.model, range(count), own=False)
            condition = Condition(words.labels(self.model, count), prompts)
            asked = MODALITIES[self.model.space.modality].parse({"jet": jet}, count)
            return asked.density(self.model, whole, condition, estimate)

    # -- what is asked, as requests ---------------------------------------------------------------
    def _expect(self, how: Mapping[str, Any], known: type) -> None:
        """Refusal of an argument that there is not."""
        for key in how:
            if key not in known.__annotations__:
                raise Refusal(one_of("argument", key, known.__annotations__))

    def _request(self, count: int, seed: int, how: Mapping[str, Any]) -> SampleRequest:
        own = {name: kind.parse(how, count) for name, kind in MODALITIES.items()}
        parts = taken(Words, how), taken(Overrides, how)
        return SampleRequest(self.source, Seeds(count, seed), *parts, own=own)

    def _valued(self, *, floats: bool) -> Model:
        """The model, its samples floats where they are asked for."""
        if not floats:
            return self.model
        space = copy.copy(self.model.space)
        space.note({"floats": True})
        return replace(self.model, space=space)

    def _pictures(self, images: Any) -> Tensor:
        """As (N, C, H, W). Refusal if they are no pictures of the model's channels."""
        x = torch.as_tensor(images)
        x = x[None] if x.dim() == 3 else x
        channels = self.shape[0]
        if x.dim() != 4 or x.shape[1] != channels or not len(x):
            raise Refusal(
                f"images: (N, {channels}, H, W) or ({channels}, H, W), got {tuple(x.shape)}"
            )
        return x

    def _points(self, x: Any) -> Tensor:
        """As (N, D). Refusal if they are no points of the model's columns."""
        points = torch.as_tensor(x).float()
        if points.dim() != 2 or points.shape[1:] != self.shape or not len(points):
            raise Refusal(f"x: (N, {self.shape[0]}), got {tuple(points.shape)}")
        return points

    def _solved(
        self,
        name: str,
        images: Tensor,
        masks: Tensor | None,
        options: Mapping[str, Any],
        how: HowSolved,
    ) -> Tensor:
        from ldm.tasks import task_named

        with in_python():
            self._expect(how, HowSolved)
            kind, count = task_named(name), how.get("count")
            known = {field.name for field in fields(kind)}
            own: dict[str, Any] = {k: v for k, v in how.items() if k in ("method", "resamples")}
            given = {**options, **own}
            if odd := [key for key in given if key not in known]:
                raise Refusal(f"{odd[0]}: {name} takes none")
            seeds = Seeds(count, how.get("seed", 0)).listed(1)
            task = kind.asked(given).of(self.model)
            settings = task.settings(self.model, taken(Overrides, how))
            words = taken(Words, how)
            prompts = words.prompts(self.model, seeds, own=False)
            condition = Condition(words.labels(self.model, len(seeds)), prompts)
            x = self._pictures(images)
            solved = task.solve(self.model, x, masks, seeds, condition, settings)
        solved = solved if how.get("floats") else as_bytes(solved)
        return solved[:, 0] if count is None else solved
