"""How a run is spread over devices."""

import pytest
import torch
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


@pytest.mark.parametrize(
    "name", ["auto", "ddp", "ddp_find_unused_parameters_true", "ddp_spawn", "ddp_fork"]
)
def test_no_buffers_are_sent_in_every_step(name):
    """Lightning's DDP would send rank 0's before each forward pass."""
    from ldm.training.trainer import _lightning

    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer = _lightning(dict(devices=2, accelerator="cpu", strategy=name) | quiet)
    net = torch.nn.BatchNorm1d(2)
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(net, **trainer.strategy._ddp_kwargs)
        assert not wrapped.will_sync_module_buffers()
        assert torch.nn.parallel.DistributedDataParallel(net).will_sync_module_buffers()
    finally:
        torch.distributed.destroy_process_group()
