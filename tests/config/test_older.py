"""What older configs and checkpoints said of the loss's weight means what it meant."""

import pytest
from helpers import load, run_config

from ldm import config
from ldm.config.schema import to_dict
from ldm.diffusion.weights import EDM, MaximumLikelihood, MinSNR, One
from ldm.errors import Refusal


def loss(*more):
    return run_config("pixel", "out", *more).loss


@pytest.mark.parametrize(
    "before, now",
    [
        (["loss.gamma=7"], One()),
        (["loss.weight=one"], One()),
        (["loss.weight=min_snr"], MinSNR()),
        (["loss={weight: min_snr, gamma: 7}"], MinSNR(7)),
        (["loss.weight=min_snr", "loss.gamma=7"], MinSNR(7)),
        (["loss.weight=min_snr", "loss.weight.gamma=3"], MinSNR(3)),
        (["loss.weight=MinSNR", "loss.weight.gamma=3"], MinSNR(3)),
        (["loss={predict: edm, weight: edm, std: 1}"], EDM(1)),
        (["loss.weight=edm"], EDM()),
        (["loss.weight=likelihood"], MaximumLikelihood()),
        (["loss.weight={name: MinSNR, gamma: 2}", "loss.gamma=7"], MinSNR(2)),
    ],
)
def test_weights_of_before_are_those_of_now(before, now):
    assert loss(*before).weight == now
    whole = run_config("pixel", "out", *before)
    assert config.from_dict(to_dict(whole)) == whole


def test_a_weight_that_is_none_is_refused_with_the_names():
    with pytest.raises(Refusal, match=r"loss.weight.name.*MinSRN.*MinSNR"):
        loss("loss.weight=MinSRN")
    with pytest.raises(Refusal, match=r"loss.weight: gamma must be above 0, got 0"):
        loss("loss.weight=min_snr", "loss.gamma=0")
    for odd in ("loss.weight=[1]", "loss.weight={name: [1]}", "loss.weight=3", "loss=3"):
        with pytest.raises(Refusal):
            loss(odd)


def test_a_checkpoint_of_before_is_resumed(pixel_run):
    state = load(pixel_run / "last.ckpt")["ldm"]["config"]
    state["loss"] = {"predict": "v", "weight": "one", "gamma": 5.0, "std": 0.5}
    assert config.from_dict(state).loss == loss()
