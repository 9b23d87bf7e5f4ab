"""Networks: every weight learns, time and class matter, any size goes in and comes out."""

import pytest
import torch
from helpers import ROOT
from torch._subclasses.fake_tensor import FakeTensorMode

from ldm import config
from ldm.errors import Refusal
from ldm.jets.network import SetTransformer
from ldm.networks.autoencoder import AutoencoderKL, VQModel
from ldm.networks.discriminator import PatchGAN
from ldm.networks.posterior import kl_divergence, sample_posterior
from ldm.networks.unet import UNet
from ldm.pictures.space import ChannelStatistics, Latents, LatentSpace, PixelSpace, against_flat
from ldm.training.arithmetic import Alive

torch.manual_seed(0)


def every_gradient_is_finite(module):
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert any(p.grad.abs().max() > 0 for p in module.parameters())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 30), (4, 7, 7)])
def test_unet_any_size(shape):
    net = UNet((8, 16, 16), 1).build(shape, classes=3)
    x = torch.randn(2, *shape)
    out = net(x, torch.tensor([10.0, 900.0]), torch.tensor([0, 3]))
    assert out.shape == x.shape
    out.square().mean().backward()
    every_gradient_is_finite(net)


def test_unet_output_depends_on_time_and_class():
    """c_noise = 1000 t: the embedding must tell near times apart (in [0, 1] it would not)."""
    net = UNet((16, 16), 1).build((1, 8, 8), classes=2)
    x = torch.randn(1, 1, 8, 8)
    at = lambda t, c: net(x, torch.tensor([1000.0 * t]), torch.tensor([c]))
    scale = at(0.5, 0).std()
    assert (at(0.5, 0) - at(0.51, 0)).std() > 1e-3 * scale
    assert (at(0.1, 0) - at(0.9, 0)).std() > 0.05 * scale
    assert (at(0.5, 0) - at(0.5, 1)).std() > 1e-2 * scale


def test_attention_resolution_must_exist():
    with pytest.raises(Refusal, match=r"\[9\].*\[8, 4\]"):
        UNet((8, 8), 1, attention=(9,)).build((1, 8, 8))
    with pytest.raises(Refusal, match=r"\[-3\].*\[-2, -1\]"):
        UNet((8, 8), 1, attention=(-3,)).build((1, 8, 8))


def test_attention_by_level_follows_the_size():
    """-1 is the last level at any size, and the network that its resolution names."""
    asked = ((16, -1), (16, 4), (64, -1), (64, 16))
    weights = {
        (side, name): UNet((8, 8, 8), 1, (name,)).build((1, side, side)).state_dict()
        for side, name in asked
    }
    assert (
        weights[16, -1].keys()
        == weights[16, 4].keys()
        == weights[64, -1].keys()
        == weights[64, 16].keys()
    )
    assert (
        UNet((8, 8, 8), 1, (-2,)).build((1, 64, 64)).state_dict().keys() != weights[64, -1].keys()
    )


@pytest.mark.parametrize("size", [32, 96, 200])
@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("configs/[ef][mo]*/*.yaml")), ids=lambda p: p.stem
)
def test_networks_of_shipped_configs_fit_any_size(path, size):
    run = config.load(path, [f"data.size={size}"])
    with torch.device("meta"):
        shape = (3, size, size)
        if isinstance(getattr(run, "space", None), Latents):
            shape = config.load(run.space.autoencoder).network.build(shape).latent_shape
        assert next(run.network.build(shape).parameters()).is_meta


@pytest.mark.parametrize(
    "config", [AutoencoderKL((8, 16, 16)), VQModel((8, 16, 16), codes=32)], ids=["KL", "VQ"]
)
@pytest.mark.parametrize("shape, latent", [((1, 28, 28), (4, 7, 7)), ((3, 17, 30), (4, 5, 8))])
def test_autoencoder_any_size(config, shape, latent):
    net = config.build(shape)
    x = torch.rand(2, *shape) * 2 - 1
    moments = net.encode(x)
    assert net.latent_shape == latent and moments.shape == (2, 2 * latent[0], *latent[1:])
    z = sample_posterior(moments, torch.randn(2, *latent))
    assert net.decode(z).shape == x.shape and torch.isfinite(net.decode(z)).all()


def test_autoencoder_multiple_makes_even_latents():
    assert AutoencoderKL((8, 16, 16), multiple=8).build((1, 28, 28)).latent_shape == (4, 8, 8)


def test_kl_of_a_gaussian():
    moments = torch.cat([torch.full((1, 2, 1, 1), 0.5), torch.full((1, 2, 1, 1), -1.0)], 1)
    q = torch.distributions.Normal(0.5, torch.tensor(-0.5).exp())
    expected = 2 * torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(kl_divergence(moments), expected)


def test_vq_snaps_to_its_codebook():
    net = VQModel((8, 8), codes=16, latent_channels=3).build((1, 8, 8))
    z_q, loss, indices = net.quantize(torch.randn(2, 3, 4, 4))
    book = net.net.quantize.embedding.weight
    assert (
        torch.allclose(z_q.permute(0, 2, 3, 1).reshape(-1, 3), book[indices.flatten()], atol=1e-6)
        and loss > 0
    )


@pytest.mark.parametrize("side, layers", [(8, 2), (28, 3)])
def test_discriminator_judges_patches(side, layers):
    net = PatchGAN(1, 16, layers)
    out = net(torch.randn(2, 1, side, side))
    assert out.shape == (2, 1, side // 2**layers, side // 2**layers)
    out.mean().backward()
    every_gradient_is_finite(net)


def test_pixels_round_trip():
    x = torch.rand(2, 1, 8, 8) * 2 - 1
    space = PixelSpace((1, 8, 8))
    assert torch.equal(space.decode(space.encode(x, torch.randn)), x)


def test_latents_are_whitened_and_decode_is_the_autoencoders():
    """Statistics over batches and ranks give mean 0, std 1 in every channel; the frozen network
    stays frozen.
    """
    net = AutoencoderKL((8, 16)).build((1, 16, 16))
    space = LatentSpace(net)
    x = torch.rand(200, 1, 16, 16) * 2 - 1
    ranks = [ChannelStatistics(4, "cpu") for _ in range(2)]
    for i, batch in enumerate(net.encode(x).split(30)):
        ranks[i % 2].add(batch)
    mean, std, explained = ranks[0].result(lambda sums: sums + ranks[1].sums)
    means, logvar = net.encode(x).chunk(2, 1)
    of_means = means.var((0, 2, 3), correction=0)
    torch.testing.assert_close(explained, of_means / (of_means + logvar.exp().mean((0, 2, 3))))
    space.mean.copy_(mean)
    space.std.copy_(std)
    noise = torch.Generator().manual_seed(0)
    x_0 = space.encode(x, lambda shape: torch.randn(shape, generator=noise))
    assert x_0.mean((0, 2, 3)).abs().max() < 0.02 and (x_0.std((0, 2, 3)) - 1).abs().max() < 0.02
    z = net.encode(x[:3]).chunk(2, 1)[0]
    back = space.decode((z - mean[:, None, None]) / std[:, None, None])
    assert torch.allclose(back, net.decode(z).clamp(-1, 1), atol=1e-5)
    space.train()
    assert not net.training and not any(p.requires_grad for p in space.parameters())


def test_latents_take_the_devices_tensors_alone():
    """On a device of which torch keeps shapes and places alone: a CPU tensor among its own raises,
    as it would there.
    """
    device, moments = "cuda", torch.zeros(2, 1, 8, 4, 4)
    with FakeTensorMode(), pytest.raises(RuntimeError, match="two devices"):
        torch.zeros(2, device=device) + torch.zeros(2)
    with FakeTensorMode():
        with torch.device(device):
            space = LatentSpace(AutoencoderKL((8, 16)).build((1, 8, 8)), chunk=1)
        image = torch.zeros(2, 1, 8, 8, device=device)
        assert against_flat(space, image).device.type == device
        draw = lambda shape: torch.randn(shape, device=device)
        cached = space.read({"moments": torch.zeros(2, 1, 8, 4, 4, device=device)})
        assert (
            space.encode(cached, draw).device.type
            == space.encode(image, draw).device.type
            == device
        )
        space.table = torch.zeros(5, 1, 8, 4, 4, device=device)
        assert (
            space.read({"index": torch.zeros(2, dtype=torch.long, device=device)}).shape
            == moments.shape
        )
        assert space.on_grid(torch.zeros(2, 1, 8, 8, device=device)).device.type == device


@pytest.mark.parametrize("config", [AutoencoderKL((8, 8)), VQModel((8, 8), codes=16)])
def test_the_regulariser_is_weighted_once(config):
    """Twice the weight is twice the loss of the same pictures; noise alone moves KL's."""
    torch.manual_seed(0)
    net, x = config.build((1, 8, 8)), torch.rand(2, 1, 8, 8)
    moments = net.encode(x)
    mean, quiet = net.regularised(moments, None), net.regularised(moments, torch.zeros)
    assert torch.equal(mean.x_hat, quiet.x_hat) and torch.equal(mean.loss, quiet.loss)
    assert torch.equal(mean.x_hat, net.decode(moments.chunk(2, 1)[0])) and mean.watched
    name = "codebook_weight" if net.codes else "kl_weight"
    setattr(net, name, 2 * getattr(net, name))
    assert torch.allclose(net.regularised(moments, None).loss, 2 * mean.loss)


def test_idle_codes_go_onto_latents_of_the_step():
    net = VQModel((8, 8), codes=16, patience=2).build((1, 8, 8))
    moments, order = net.encode(torch.rand(4, 1, 8, 8)), torch.Generator()
    gather = lambda rows: rows[None]
    net.regularised(moments, torch.zeros)
    assert net.restart_idle(gather, order, every=True) == 16
    used = []
    for _ in range(2):
        net.regularised(moments, torch.zeros)
        used.append(int((net.used > 0).sum()))
        moved = net.restart_idle(gather, order, every=False)
    assert moved == 16 - used[0] and not net.used.any()


# -- checkpointing ---------------------------------------------------------------------------------
def answers(net, *given, **cond):
    """Output and gradients from one start, and the bytes that the forward pass keeps."""
    torch.manual_seed(1)
    net.zero_grad()
    with Alive(net.parameters()) as alive:
        out = net(*given, **cond)
    kept = alive.kept
    out.square().mean().backward()
    return out.detach(), [p.grad.clone() for p in net.parameters()], kept


@pytest.mark.parametrize("kind", ["plain", "dropout", "captions", "jets"])
def test_checkpointing_gives_the_same_bits_in_less_memory(kind):
    """Every layer of the U-Net, its dropout too, and the set transformer's blocks."""
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([10.0, 900.0])
    sizes, cond, built = dict(channels=(8, 16, 16), layers=2, attention=(-2,)), {}, {}
    if kind == "captions":
        built, cond = {"text": 12}, {"text": torch.randn(2, 5, 12)}
    if kind == "dropout":
        sizes["dropout"] = 0.3
    if kind == "jets":
        x, cond = torch.randn(2, 30, 3), {"mask": torch.arange(30) < torch.tensor([[30], [11]])}
        configs = [SetTransformer(layers=6, checkpointing=again) for again in (False, True)]
    else:
        configs = [UNet(**sizes, checkpointing=again) for again in (False, True)]
    plain, again = (config.build(tuple(x.shape[1:]), **built) for config in configs)
    for p in plain.parameters():  # what starts at 0 would hide what is before it
        torch.nn.init.normal_(p, std=0.1)
    again.load_state_dict(plain.state_dict())
    (out, grads, kept), (out2, grads2, kept2) = (
        answers(net.train(), x, t, **cond) for net in (plain, again)
    )
    assert torch.equal(out, out2) and all(map(torch.equal, grads, grads2))
    assert kept2 < (0.6 if kind == "jets" else 0.4) * kept, (kept, kept2)


def test_a_dry_run_counts_what_checkpointing_saves():
    from helpers import run_config

    from ldm.training.arithmetic import activations
    from ldm.training.diffusion import DiffusionModule

    small, large = (
        activations(
            DiffusionModule(run_config("pixel", "x", f"network.checkpointing={v}"), (1, 8, 8), ())
        )
        for v in ("true", "false")
    )
    assert 0 < small < 0.4 * large
