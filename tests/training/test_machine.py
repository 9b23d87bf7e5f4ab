"""How a run is spread over devices."""

import pytest
from helpers import TINY, here, one_line, overrides, run_config, snapshot
from lightning.pytorch.strategies import StrategyRegistry

from ldm.errors import Refusal
from ldm.training.machine import expect_whole_weights

WHOLE = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_spawn", "single_device")


def test_every_strategy_of_lightnings_that_cuts_weights_is_refused():
    """By what its class does, not by a list of ours."""
    kinds = {
        name: StrategyRegistry[name]["strategy"].__name__
        for name in StrategyRegistry.available_strategies()
    }
    cut = {name for name, kind in kinds.items() if kind in ("FSDPStrategy", "DeepSpeedStrategy")}
    assert {"fsdp", "fsdp_cpu_offload"} <= cut
    for name in (*cut, "FSDP", "xla_fsdp", "ModelParallelStrategy", "model_parallel", "fsdp2"):
        with pytest.raises(Refusal, match=r"trainer.strategy: .* cuts weights into shards"):
            expect_whole_weights(run_config("pixel", "x", f"trainer.strategy={name}"))
    for name in {*WHOLE, *(name for name in kinds if name.startswith("ddp"))}:
        expect_whole_weights(run_config("pixel", "x", f"trainer.strategy={name}"))


@pytest.mark.parametrize(
    "kind, key", [("pixel", ""), ("jets", ""), ("autoencoder", ""), ("latent", "stage1.")]
)
def test_fsdp_is_one_line_and_leaves_nothing(kind, key, tmp_path):
    before = snapshot(tmp_path)
    more = overrides(kind, tmp_path / "out", f"{key}trainer.strategy=fsdp")
    one_line(here("train.py", "--config", TINY / f"{kind}.yaml", *more), "fsdp cuts weights", "ddp")
    assert snapshot(tmp_path) == before
