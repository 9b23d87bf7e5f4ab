"""Stage 1 under stage 2: what is checked at the hand-off, and what is refused."""

import shutil

import pytest
import torch
from helpers import (
    TINY,
    column_of,
    load,
    run_config,
)

from ldm.errors import Refusal
from ldm.sampling.generate import generate
from ldm.sampling.model import fingerprint, load_autoencoder, restore
from ldm.training.run import train_run


def test_frozen_autoencoder_is_the_one_of_stage_1(latent_run, stage1):
    ours = load(latent_run / "last.ckpt")["state_dict"]
    theirs = load(stage1 / "best.ckpt")["ldm"]["ema"]["weights"]
    assert all(torch.equal(ours[f"space.autoencoder.{k}"], v) for k, v in theirs.items())


def rewrite(source, target, change):
    state = load(source)
    change(state)
    torch.save(state, target)
    return target


def test_a_latent_model_stands_for_the_stage_1_inside_it(latent_run, stage1, tmp_path):
    """So another model, a guide say, is trained in the same latents."""
    autoencoder, config, _ = load_autoencoder(latent_run / "last.ckpt")
    own, trained_as, _ = load_autoencoder(stage1 / "best.ckpt")
    assert fingerprint(autoencoder) == fingerprint(own) and config == trained_as
    state = load(latent_run / "last.ckpt")
    state["state_dict"]["space.autoencoder.net.encoder.conv_in.bias"] += 1
    torch.save(state, tmp_path / "changed.ckpt")
    with pytest.raises(Refusal, match="is not the one it was trained with"):
        load_autoencoder(tmp_path / "changed.ckpt")


def test_untrained_autoencoder_is_refused(stage1, tmp_path):
    def forget(state):
        for weights in (state["state_dict"], state["ldm"]["ema"]["weights"]):
            for key, value in weights.items():
                value.copy_(
                    torch.randn(value.shape, generator=torch.Generator().manual_seed(len(key)))
                    * 0.1
                )

    random = rewrite(stage1 / "last.ckpt", tmp_path / "random.ckpt", forget)
    with pytest.raises(Refusal, match="it is not trained on this data"):
        train_run(run_config("latent", tmp_path, f"space.autoencoder={random}"))


def test_autoencoder_of_other_weights_is_refused(stage1, tmp_path):
    lost = rewrite(
        stage1 / "last.ckpt",
        tmp_path / "lost.ckpt",
        lambda s: s["state_dict"].pop("autoencoder.net.encoder.conv_in.bias"),
    )
    more = rewrite(
        lost,
        tmp_path / "lost2.ckpt",
        lambda s: s["ldm"]["ema"]["weights"].pop("net.encoder.conv_in.bias"),
    )
    with pytest.raises(Refusal, match=r"weight 'net.encoder.conv_in.bias' is missing"):
        train_run(run_config("latent", tmp_path, f"space.autoencoder={more}"))


@pytest.mark.slow
def test_collapsed_autoencoder_is_refused(tmp_path, capsys):
    """A huge KL weight: the whitening's std is a healthy 1, and its decoder's one picture beats a
    flat one.
    """
    stage1 = train_run(
        run_config("autoencoder", tmp_path, "network.kl_weight=10", "trainer.max_steps=120")
    )
    said = capsys.readouterr().out
    assert (
        "of the variance of channels 0, 1, the rest is posterior noise" in said
        and "kl_weight is too large" in said
    )
    shares = [
        float(v)
        for i in range(2)
        for v in column_of(stage1 / "metrics.csv", f"val/latent_explained/{i}").values()
    ]
    assert max(shares) < 0.05
    said = r"picture explains .* %, .* % of the variance of latent channels 0, 1, .* collapsed, its kl_weight is too large"
    with pytest.raises(Refusal, match=said):
        train_run(run_config("latent", tmp_path, f"space.autoencoder={stage1}"))


def test_an_empty_channel_is_named_and_borne(stage1, tmp_path, capsys):
    """One of two channels is noise: said, by number, and training goes on."""

    def empty(state):
        for weights in (state["state_dict"], state["ldm"]["ema"]["weights"]):
            for key, value in weights.items():
                if key.endswith("quant_conv.weight") and "post" not in key:
                    value[1] = 0

    half = rewrite(stage1 / "last.ckpt", tmp_path / "half.ckpt", empty)
    train_run(run_config("latent", tmp_path, f"space.autoencoder={half}", "trainer.max_steps=2"))
    assert (
        "explains 0 % of the variance of latent channels 1, the rest is" in capsys.readouterr().out
    )


def test_stale_autoencoder_is_refused(tmp_path):
    small = ("trainer.max_steps=2", "trainer.validate=2")
    (tmp_path / "ae.yaml").write_text(
        (TINY / "autoencoder.yaml").read_text().replace("max_steps: 60", "max_steps: 2")
    )
    train_run(run_config("autoencoder", tmp_path, *small))
    text = (tmp_path / "ae.yaml").read_text().replace("[8, 16]", "[16, 16]")
    (tmp_path / "ae.yaml").write_text(text)
    with pytest.raises(Refusal, match=r"is stale, network.channels differs from .*ae.yaml"):
        train_run(run_config("latent", tmp_path, f"space.autoencoder={tmp_path}/ae.yaml"))


@pytest.mark.slow
def test_stage_1_is_trained_when_it_is_missing(tmp_path):
    (tmp_path / "ae.yaml").write_text((TINY / "autoencoder.yaml").read_text())
    folder = train_run(
        run_config(
            "latent", tmp_path, f"space.autoencoder={tmp_path}/ae.yaml", "trainer.max_steps=2"
        )
    )
    assert (
        load(folder.parent / "tiny-autoencoder" / "last.ckpt")["global_step"] == 60
        and (folder / "last.ckpt").exists()
    )


@pytest.mark.slow
def test_resumed_stage_2_keeps_the_autoencoder_it_began_with(latent_run, stage1, tmp_path):
    """Whatever has become of stage 1 since: the resumed run carries its own, and can be sampled
    from.
    """
    moved = shutil.copytree(stage1, tmp_path / "tiny-autoencoder")
    shutil.copytree(latent_run, tmp_path / "tiny-latent")
    train_run(run_config("autoencoder", tmp_path, "trainer.max_steps=70"), resume=True)
    train_run(
        run_config("latent", tmp_path, f"space.autoencoder={moved}", "trainer.max_steps=10"),
        resume=True,
    )
    before, after = load(latent_run / "last.ckpt"), load(tmp_path / "tiny-latent" / "last.ckpt")
    assert (
        after["ldm"]["autoencoder"] == before["ldm"]["autoencoder"] and after["global_step"] == 10
    )
    assert len(generate(restore(tmp_path / "tiny-latent"), restore(latent_run).settings, [0])) == 1


def test_damaged_autoencoder_inside_a_latent_checkpoint_is_noticed(latent_run, tmp_path):
    def flip(state):
        state["state_dict"]["space.autoencoder.net.decoder.conv_in.weight"][0, 0, 0, 0] += 1

    with pytest.raises(Refusal, match="is not the one it was trained with"):
        restore(rewrite(latent_run / "last.ckpt", tmp_path / "flipped.ckpt", flip))
