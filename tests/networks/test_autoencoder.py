"""Stage 1: who gets whose gradient, the discriminator's calendar, LPIPS, VQ."""

import lpips
import pytest
import torch
from helpers import load, run_config

from ldm.config import Discriminator
from ldm.errors import Refusal
from ldm.training.autoencoder import AutoencoderModule, generator_share, perceptual_distance
from ldm.training.run import train_run

GAN = "discriminator={weight: 0.5, start: 0, warmup: 1, channels: 8, layers: 1}"


class Recorder(AutoencoderModule):
    """The module, with what each backward pass left behind."""

    def backward_part(self, loss, last):
        before = {n: None if p.grad is None else p.grad.clone() for n, p in self.named_parameters()}
        super().backward_part(loss, last)
        moved = {
            n
            for n, p in self.named_parameters()
            if p.grad is not None and (before[n] is None or not torch.equal(before[n], p.grad))
        }
        self.touched.append({n.split(".")[0] for n in moved})


@pytest.mark.parametrize("network", ["AutoencoderKL", "VQModel"])
def test_gradients_stay_on_their_side(tmp_path, monkeypatch, network):
    """The generator's pass touches the autoencoder alone, the discriminator's pass the
    discriminator alone.
    """
    Recorder.touched = []
    monkeypatch.setattr("ldm.training.legs.AutoencoderModule", Recorder)
    net = f"network={{name: {network}, channels: [8, 16], latent_channels: 2, attention: false}}"
    train_run(run_config("autoencoder", tmp_path, GAN, net, "trainer.max_steps=6"))
    assert Recorder.touched == [{"autoencoder"}, {"discriminator"}] * 6


def test_decoder_feels_the_discriminator_only_after_its_warm_up():
    gan = Discriminator(weight=0.5, start=10, warmup=100)
    share = [generator_share(gan, step) for step in (0, 10, 110, 111, 160, 210, 10_000)]
    assert share[:3] == [0, 0, 0] and 0 < share[3] < 0.02 and share[4:] == [0.5, 1, 1]


def test_steps_are_the_generators_and_both_learn(tmp_path):
    run = run_config("autoencoder", tmp_path, GAN, "trainer.max_steps=7", "trainer.accumulate=2")
    state = load(train_run(run) / "last.ckpt")
    assert state["global_step"] == 7 and state["ldm"]["ema"]["updates"] == 7
    torch.manual_seed(run.seed)
    fresh = AutoencoderModule(run, (1, 8, 8), ())
    for part in ("autoencoder", "discriminator"):
        moved = [
            not torch.equal(v, state["state_dict"][k])
            for k, v in fresh.state_dict().items()
            if k.startswith(part)
        ]
        assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("channels", [1, 3])
def test_perceptual_distance_has_a_gradient(channels):
    net = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval().requires_grad_(False)
    x, x_hat = torch.rand(2, channels, 32, 32), torch.rand(2, channels, 32, 32, requires_grad=True)
    distance = perceptual_distance(net, x, x_hat)
    assert distance.shape == (2,)
    distance.sum().backward()
    assert x_hat.grad.abs().max() > 0
    assert torch.allclose(perceptual_distance(net, x, x), torch.zeros(2))


def test_perceptual_weights_that_cannot_be_had_name_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        "urllib.request._opener", None
    )  # it would keep the proxy for the tests after this one
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    with pytest.raises(Refusal, match=r"perceptual: .* cannot be had .*perceptual.weight=0"):
        train_run(run_config("autoencoder", tmp_path, "perceptual.weight=0.1"))


@pytest.mark.slow
def test_vq_trains_and_logs_its_perplexity(tmp_path):
    net = "network={name: VQModel, channels: [8, 16], latent_channels: 2, codes: 32, attention: false}"
    folder = train_run(run_config("autoencoder", tmp_path, net))
    rows = (folder / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/perplexity")
    values = [float(r.split(",")[column]) for r in rows[1:] if r.split(",")[column]]
    assert len(values) == 2 and all(1 < v <= 32 for v in values)


@pytest.mark.slow
def test_vq_autoencoder_carries_a_latent_model(tmp_path):
    net = "network={name: VQModel, channels: [8, 16], latent_channels: 2, codes: 32, attention: false}"
    stage1 = train_run(run_config("autoencoder", tmp_path, net, "trainer.max_steps=150"))
    state = load(
        train_run(
            run_config("latent", tmp_path, f"space.autoencoder={stage1}", "trainer.max_steps=2")
        )
        / "last.ckpt"
    )
    assert (state["state_dict"]["space.std"] > 1e-3).all()


def test_stage_1_learns(stage1):
    state = load(stage1 / "best.ckpt")
    rows = (stage1 / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    psnr = [float(v) for r in rows[1:] if (v := r.split(",")[names.index("val/psnr")])]
    assert psnr[-1] > 13 and psnr == sorted(psnr)
    assert {
        "val/ssim",
        "val/latent_mean/0",
        "val/latent_std/1",
        "train/kl",
        "train/grad_norm",
        "train/lr",
    } <= set(names)
    assert state["ldm"]["stage"] == "autoencoder"
    assert len(list((stage1 / "samples").glob("reconstructions-*.png"))) >= 3
