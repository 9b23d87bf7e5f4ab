"""What a run's model is given beside x_t: the data's classes, captions."""

from dataclasses import dataclass

from ldm.config import DiffusionConfig
from ldm.errors import Refusal
from ldm.networks.text import TextEncoder
from ldm.system.data import DataSet
from ldm.system.randomness import permutation
from ldm.training.ranks import announce

# captions of held-out pictures that panels, and samples without a prompt, are made of
PROMPTS = 8


@dataclass(frozen=True)
class Captions:
    """What reads captions, and the captions of samples that are given none."""

    encoder: TextEncoder
    prompts: tuple[str, ...] = ()


def classes_of(run: DiffusionConfig, images: DataSet) -> tuple[str, ...]:
    """The classes that the model is given, or none; Refusal where the data lack them."""
    if run.condition in ("label", "both") and not images.classes:
        raise Refusal(
            f"condition: {run.condition} is asked for, but the data has no classes; "
            "set condition=none"
        )
    return () if run.condition in ("none", "text") else images.classes


def captions_of(run: DiffusionConfig, images: DataSet) -> Captions | None:
    """The text encoder and the prompts of samples, for a run of captions; Refusal without any."""
    if run.condition not in ("text", "both"):
        if count := sum(map(bool, images.train.captions)):
            unused = f"{count} pictures have captions, which this run does not use"
            announce(f"data: {unused}; condition=text does")
        return None
    captions = set(images.train.captions) - {""}
    if not captions:
        raise Refusal(
            f"condition: {run.condition} is asked for, but the data has no captions; ImageFolder "
            "reads them from the column text or caption (data.caption) of metadata.jsonl or "
            "metadata.csv, or from NAME.txt beside NAME.png"
        )
    encoder = run.text.load()
    held = sorted({text for text in images.held_out.captions if text})
    if cut := [text for text in sorted(captions) if encoder.cut(text)]:
        announce(
            f"text: {len(cut)} captions are longer than {encoder.length} tokens; "
            f"cut of '{cut[0]}': '{encoder.cut(cut[0])}'"
        )
    held = held or sorted(captions)
    rows = permutation(len(held), "prompts")[:PROMPTS].tolist()
    return Captions(encoder, tuple(held[i] for i in rows))
