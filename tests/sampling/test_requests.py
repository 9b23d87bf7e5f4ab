"""What is asked of sampling and of an evaluation: parsed once, checked once, whatever the model."""

import pytest

from ldm.errors import Refusal
from ldm.evaluation.requests import EvaluationRequest
from ldm.sampling.jets import JetSamples
from ldm.sampling.modalities import MODALITIES
from ldm.sampling.requests import Seeds, Source, taken
from ldm.sampling.run import SampleRequest

WORDS = {"checkpoint": "c", "count": None, "seed": 3, "steps": 5, "label": "7", "output": "o"}


def test_a_command_lines_words_become_parts():
    asked = SampleRequest.parse(WORDS)
    assert asked.source == Source("c") and asked.settings.steps == 5 and asked.output == "o"
    assert asked.words.label == "7" and asked.listed == list(range(3, 67))
    assert taken(Seeds, WORDS) == Seeds(None, 3)


def test_constituents_say_how_many_samples_there_are():
    assert SampleRequest.parse(WORDS | {"constituents": "12", "count": 2}).listed == [3, 4]
    assert JetSamples.parse({"constituents": [4, 9]}, None).count == 2
    with pytest.raises(Refusal, match="2 numbers for --count 3"):
        JetSamples.parse({"constituents": [4, 9]}, 3)


def test_every_modality_has_a_name_and_asks_nothing_by_itself():
    for name, kind in MODALITIES.items():
        assert kind.modality == name and kind.parse({}, 5).flag is None


@pytest.mark.parametrize(
    "request_, words, message",
    [
        (SampleRequest, {"count": 0}, "--count must be at least 1"),
        (SampleRequest, {"count": 3, "trajectory": 4}, "--trajectory: 4 samples cannot be shown"),
        (SampleRequest, {"jet": ["pt=0", "mass=1"]}, "--jet: pt=0 cannot be: above 0"),
        (EvaluationRequest, {"split": "val"}, "--split: 'val' is not one of train, test"),
        (EvaluationRequest, {"clip": 0.0}, "--clip: 0 is not an angle above 0"),
        (EvaluationRequest, {"seed": 2**63}, "--seed: it is beyond 63 bits"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_read(request_, words, message):
    with pytest.raises(Refusal, match=message):
        request_.parse(WORDS | words)


def test_metrics_are_named_with_commas():
    assert EvaluationRequest.parse(WORDS | {"metrics": "fd, kd"}).metrics == ("fd", "kd")
