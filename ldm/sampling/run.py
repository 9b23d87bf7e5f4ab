"""sample.py without a task: from a request to the folder of samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ldm.errors import Refusal, say
from ldm.pictures.trained import expect_plain
from ldm.sampling.folder import new_folder
from ldm.sampling.generate import Job, job_settings
from ldm.sampling.guides import guide_of, recorded
from ldm.sampling.modalities import MODALITIES
from ldm.sampling.modality import Samples
from ldm.sampling.model import Model
from ldm.sampling.requests import Seeds, Source, Words, taken
from ldm.sampling.settings import Overrides
from ldm.sampling.speed import compiled, in_precision, roomy
from ldm.system.progress import Bar

USUAL = 64  # samples, where no one says how many


@dataclass(frozen=True)
class SampleRequest:
    """What is asked of sampling: the parts, and what each modality is asked by flags of its own."""

    source: Source
    seeds: Seeds = Seeds()
    words: Words = Words()
    settings: Overrides = Overrides()
    trajectory: int = 0  # samples whose way from data to noise and back is drawn
    output: str = "samples"
    own: Mapping[str, Samples] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.trajectory <= len(self.listed):
            raise Refusal(
                f"--trajectory: {self.trajectory} samples cannot be shown of "
                f"--count {len(self.listed)}"
            )

    @classmethod
    def parse(cls, words: Mapping[str, Any]) -> "SampleRequest":
        """From the words of a command line. Refusal for what cannot be, whatever the model."""
        seeds = taken(Seeds, words)
        own = {name: kind.parse(words, seeds.count) for name, kind in MODALITIES.items()}
        parts = taken(Source, words), seeds, taken(Words, words), taken(Overrides, words)
        kept = {key: words[key] for key in ("trajectory", "output") if key in words}
        return cls(*parts, **kept, own=own)

    @property
    def listed(self) -> list[int]:
        """The seed of every sample."""
        asked = (one.count for one in self.own.values() if one.count is not None)
        return self.seeds.listed(USUAL)[: next(asked, None)]

    def of(self, model: Model) -> Samples:
        """What the model's own modality is asked; Refusal where another one is asked anything."""
        kind = model.space.modality
        for name, asked in self.own.items():
            if name != kind and asked.flag:
                raise Refusal(f"{asked.flag}: this checkpoint makes {kind}, not {name}")
        return self.own[kind] if kind in self.own else MODALITIES[kind].parse({}, self.seeds.count)

    def job(self, model: Model) -> Job:
        """The samples to be made by a model. Refusal for what it cannot make."""
        expect_plain(model.purpose, "sample.py without --task")
        model = in_precision(model, self.source.precision)
        settings = self.settings.over(model.settings, model.schedule)
        if self.settings.batch_size is None:
            settings = roomy(model, settings, len(self.listed))
        settings = job_settings(settings, len(self.listed))
        guide_of(model, settings.guide)  # refused before anything is said or written
        condition = self.of(model).condition(model, self.words, self.listed)
        return Job(model, settings, self.listed, condition)

    def record(self, job: Job) -> dict[str, Any]:
        """What settings.json says."""
        made = {"count": len(job.seeds), "seed": self.seeds.seed}
        how = made | recorded(job.model, job.settings)
        return self.source.record(job.model) | how | self.of(job.model).record()


def sample_to_folder(request: SampleRequest) -> None:
    """The folder of samples that is asked for, made over one process or several."""
    request.source.expect()
    with new_folder(request.output) as folder:
        place = request.source.launch()
        ranks, first = place.ranks, place.ranks.rank == 0
        model = request.source.restore(place)
        job, asked = request.job(model), request.of(model)
        here = job.rows(ranks.share(range(len(job.seeds))))
        quick = compiled(job.model, request.source.compile, job.settings, here.seeds)
        if first:
            how = f"{job.settings.describe()}, {place.device}"
            how += f", {job.model.precision}" if job.model.precision != "32-true" else ""
            how += ", compiled (the first batch takes about a minute)" if quick else ""
            say(f"{request.source.describe(model)}, {how}")
            for warning in asked.warnings(job):
                say(f"warning: {warning}")
        way = asked.way(job, here, request.trajectory) if request.trajectory else None
        with Bar("sampling", len(here.seeds), "samples", disable=not first) as bar:
            samples = ranks.collect(here.run(bar.update, way), len(job.seeds))
        if first:
            written = asked.write(folder, job, samples, request.record(job))
            if way:
                way.write(folder)
                written += f", {way.files}"
            say(f"wrote {written} to {folder}/")
