"""Resume: to the same bits, from what is left, on other devices."""

import os
import signal

import pytest
import torch
from helpers import (
    column_of,
    largest_difference,
    load,
    run_config,
)

from ldm.errors import Refusal, Stopped
from ldm.sampling.model import restore
from ldm.training.run import train_run

STOPS = [
    pytest.param("pixel", (), 3, id="pixel"),
    pytest.param("autoencoder", ("trainer.max_steps=8", "trainer.save=4"), 3, id="autoencoder"),
    pytest.param(
        "autoencoder",
        (
            "trainer.max_steps=8",
            "trainer.accumulate=2",
            "discriminator={weight: 0.5, warmup: 2, channels: 8, layers: 1}",
        ),
        5,
        id="gan",
    ),
]


@pytest.mark.parametrize("kind, more, stop", STOPS)
def test_resume_ends_with_the_same_bits(tmp_path, monkeypatch, kind, more, stop):
    """Stopped at a step inside an epoch and resumed: weights, average, optimisers and every logged
    loss are equal.
    """
    from ldm.training import watching

    whole = load(train_run(run_config(kind, tmp_path / "whole", *more)) / "last.ckpt")
    original = watching.Throughput.on_train_batch_end

    def terminate(self, trainer, module, *rest):
        original(self, trainer, module, *rest)
        if trainer.global_step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(watching.Throughput, "on_train_batch_end", terminate)
    with pytest.raises(Stopped, match=f"stopped at step {stop} by SIGTERM; go on with --resume"):
        train_run(run_config(kind, tmp_path / "parts", *more))
    monkeypatch.setattr(watching.Throughput, "on_train_batch_end", original)
    folder = next((tmp_path / "parts").iterdir())
    assert load(folder / "last.ckpt")["global_step"] == stop
    parts = load(train_run(run_config(kind, tmp_path / "parts", *more), resume=True) / "last.ckpt")
    assert largest_difference(parts["state_dict"], whole["state_dict"]) == 0
    assert largest_difference(parts["ldm"]["ema"]["weights"], whole["ldm"]["ema"]["weights"]) == 0
    assert parts["ldm"]["images_seen"] == whole["ldm"]["images_seen"]
    for a, b in zip(parts["optimizer_states"], whole["optimizer_states"], strict=True):
        for i in a["state"]:
            assert all(
                torch.equal(torch.as_tensor(a["state"][i][k]), torch.as_tensor(b["state"][i][k]))
                for k in a["state"][i]
            )
    losses = [
        column_of(tmp_path / part / folder.name / "metrics.csv", "train/loss")
        for part in ("whole", "parts")
    ]
    assert losses[0] == losses[1] and len(losses[0]) >= 1


def test_damaged_last_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    """Bits flipped, or cut short: named, and the newest whole one is resumed from; the end is the
    same.
    """
    whole = load(train_run(run_config("pixel", tmp_path / "whole")) / "last.ckpt")["state_dict"]
    for damage in ("flip", "cut"):
        folder = train_run(
            run_config("pixel", tmp_path / damage, "trainer.max_steps=6", "trainer.save=2")
        )
        raw = bytearray((folder / "last.ckpt").read_bytes())
        if damage == "flip":
            raw[len(raw) // 2] ^= 1
        (folder / "last.ckpt").write_bytes(raw if damage == "flip" else raw[: len(raw) // 2])
        with pytest.raises(Refusal, match=r"last.ckpt is damaged"):
            restore(folder)
        capsys.readouterr()
        resumed = load(
            train_run(run_config("pixel", tmp_path / damage), resume=True) / "last.ckpt"
        )["state_dict"]
        said = capsys.readouterr().out
        assert (
            "last.ckpt is damaged or cut short" in said
            and "resuming from" in said
            and ".ckpt instead" in said
        )
        assert largest_difference(resumed, whole) == 0


def test_resume_on_another_number_of_devices_keeps_the_global_batch(tmp_path, capsys):
    """From accumulate 2 on one process: asked for accumulate 1, the resumed run says what it does
    and ends with the same bits.
    """
    whole = load(
        train_run(run_config("pixel", tmp_path / "whole", "trainer.accumulate=2")) / "last.ckpt"
    )["state_dict"]
    train_run(
        run_config("pixel", tmp_path / "parts", "trainer.accumulate=2", "trainer.max_steps=4")
    )
    capsys.readouterr()
    folder = train_run(run_config("pixel", tmp_path / "parts", "trainer.accumulate=1"), resume=True)
    said = capsys.readouterr().out
    assert "global batch of 32" in said and f"resume     from step 4: {folder}/last.ckpt" in said
    assert largest_difference(load(folder / "last.ckpt")["state_dict"], whole) == 0
