"""sample.py --task: what is asked, read and checked once, and its run to a folder of results."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from ldm.errors import Refusal, say
from ldm.sampling.conditions import Condition
from ldm.sampling.folder import new_folder
from ldm.sampling.guides import recorded
from ldm.sampling.model import Model
from ldm.sampling.requests import Seeds, Source, Words, taken
from ldm.sampling.settings import Overrides
from ldm.sampling.speed import compiled
from ldm.system.names import file_names
from ldm.system.progress import Bar
from ldm.tasks import every_flag, task_named
from ldm.tasks.base import Task
from ldm.tasks.cases import Case
from ldm.tasks.inputs import files, masks_for, read_mask, read_pictures
from ldm.tasks.output import write_results
from ldm.tasks.prior import Prior

USUAL = 4  # samples of an input
# the keys of settings.json for every task
RECORDED = {"factor": 4, "noise_std": None, "strength": 0.6, "resamples": 4}


@dataclass(frozen=True)
class Inputs:
    """Files or folders of pictures, and a mask or a folder of masks."""

    images: tuple[str, ...]
    mask: str | None = None

    def read(self, task: Task, model: Model, seed: int) -> list[Case]:
        """Every input with what belongs to it. Refusal if it is not what the task needs."""
        self._expect(task)
        paths = [path for one in self.images for path in files(one, "--image")]
        if task.pictures > 1 and len(paths) != task.pictures:
            flags = " ".join(f"--image {name}" for name in "IJKL"[: task.pictures])
            raise Refusal(f"--task {task.name} needs {flags}; got {len(paths)} pictures")
        view = task.view(model)
        whole = view.shape == model.space.data_shape
        hint = "" if whole else "; --degrade takes a whole picture, and shrinks it itself"
        pictures = read_pictures(paths, view, hint)
        names = file_names(one.path.stem for one in pictures)
        cases = [Case(name, one.pixels) for name, one in zip(names, pictures, strict=True)]
        wheres = [str(one.path) for one in pictures]
        ready = [
            task.ready(model, case, seed, where) for case, where in zip(cases, wheres, strict=True)
        ]
        if self.mask is not None:
            masks = masks_for([one.path for one in pictures], self.mask)
            sizes = [one.size for one in pictures]
            holes = [read_mask(path, view, size) for path, size in zip(masks, sizes, strict=True)]
            ready = [replace(case, known=hole) for case, hole in zip(ready, holes, strict=True)]
        return task.joined(ready)

    def _expect(self, task: Task) -> None:
        if task.mask and self.mask is None:
            raise Refusal(
                f"--task {task.name} needs --mask FILE: a picture white where to paint, black "
                "elsewhere"
            )
        if self.mask is not None and not task.mask:
            raise Refusal(f"--mask: --task {task.name} takes none")


@dataclass(frozen=True)
class TaskRequest:
    """A task on pictures by a checkpoint, checked as far as it can be without them."""

    task: Task
    inputs: Inputs
    source: Source
    seeds: Seeds
    words: Words
    settings: Overrides
    output: str

    @classmethod
    def parse(cls, words: Mapping[str, Any]) -> Self:
        """Of what argparse found. Refusal of what no task can be asked."""
        task = task_named(words["task"]).asked(words)
        inputs = Inputs(tuple(words["image"] or ()), words["mask"])
        parts = taken(Source, words), taken(Seeds, words), taken(Words, words)
        asked = cls(task, inputs, *parts, taken(Overrides, words), words["output"])
        asked.check(words)
        return asked

    def check(self, words: Mapping[str, Any]) -> None:
        """Refusal of flags that are of no task, and a line about those of other tasks."""
        name = self.task.name
        if self.source.devices != 1:
            raise Refusal(
                "--devices: a task runs on one process; start several commands on parts of a folder"
            )
        if words.get("trajectory"):
            raise Refusal("--trajectory draws samples of no task: leave --task out")
        self.task.expect(self.seeds, self.words, self.settings)
        for key in ("constituents", "jet"):
            if words.get(key) is not None:
                raise Refusal(f"--{key} is of jets, a task of pictures: leave one out")
        if not self.inputs.images:
            raise Refusal(f"--task {name} needs --image FILE or --image FOLDER")
        for flag, of in every_flag().items():
            if of and name not in of and words.get(flag.name) is not None:
                say(f"{flag.text}: not used by --task {name}")

    def prior(self, task: Task, model: Model) -> Prior:
        """The model at the seeds, under the condition, by the settings asked for."""
        settings, seeds = task.settings(model, self.settings), self.seeds.listed(USUAL)
        labels = self.words.labels(model, len(seeds))
        prompts = self.words.prompts(model, seeds, own=False)
        return Prior(model, settings, seeds, Condition(labels, prompts))

    def record(self, task: Task, prior: Prior) -> dict[str, Any]:
        """All of it, for settings.json."""
        options = {"name": task.name, "method": task.method} | RECORDED | asdict(task)
        options["degrade"] = options.pop("degrade")  # last, where it has always stood
        prompts = prior.condition.prompts
        asked = {"count": len(prior.seeds), "label": self.words.label, "prompts": prompts}
        how = task.record(recorded(prior.model, prior.settings), self.seeds.seed)
        return self.source.record(prior.model) | asked | options | how

    def describe(self, task: Task, prior: Prior) -> str:
        """All of it in a few words."""
        how = f"{task.name} by {task.method}, {task.describe(prior.settings)}"
        return f"{self.source.checkpoint}: step {prior.model.step}, {how}"

    def run(self) -> None:
        """The folder of results."""
        model = self.source.restore()
        task = self.task.of(model)
        prior = self.prior(task, model)
        cases = self.inputs.read(task, model, self.seeds.seed)
        compiled(model, bool(self.source.compile), prior.settings, prior.seeds)
        say(self.describe(task, prior))
        with new_folder(self.output) as folder:
            total = len(cases) * len(prior.seeds)
            with Bar(task.name, total, "images") as bar:
                made = task.samples(prior, cases, bar.update)
            results = [task.result(prior, *pair) for pair in zip(cases, made, strict=True)]
            write_results(folder, results, self.record(task, prior), task.title(prior.settings))
        say(f"wrote {made.shape[:2].numel()} results and panel.png to {folder}/")
