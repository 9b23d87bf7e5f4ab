"""Stage 1 by others: diffusers' AutoencoderKL folders."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL
from helpers import load, run_config
from safetensors.torch import load_file, save_file

from ldm.errors import Refusal
from ldm.export.folder import export
from ldm.networks import imported
from ldm.sampling.generate import generate
from ldm.sampling.model import restore
from ldm.training.run import train_run

FILE = "diffusion_pytorch_model.safetensors"


def foreign(folder, **more):
    """A small autoencoder of random weights, saved by diffusers."""
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    sizes = dict(
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        latent_channels=2,
        norm_num_groups=4,
    )
    net = AutoencoderKL(**blocks | sizes | more)
    net.save_pretrained(folder)
    return net


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"use_quant_conv": False, "use_post_quant_conv": False},
        {"mid_block_add_attention": False},
    ],
)
def test_it_encodes_and_decodes_as_in_diffusers(tmp_path, more):
    net, image = foreign(tmp_path / "vae", **more), torch.rand(3, 1, 8, 8) * 2 - 1
    autoencoder, config = imported.load_imported(imported.find_imported(tmp_path), (1, 8, 8))
    posterior = net.encode(image).latent_dist
    assert torch.allclose(
        autoencoder.encode(image), torch.cat([posterior.mean, posterior.logvar], 1), atol=1e-6
    )
    assert torch.allclose(
        autoencoder.decode(posterior.mean), net.decode(posterior.mean).sample, atol=1e-6
    )
    assert config.channels == (8, 16) and autoencoder.latent_shape == (2, 4, 4)


def test_half_precision_and_old_names_of_attention(tmp_path):
    """As Stable Diffusion's are stored."""
    net, old = (
        foreign(tmp_path),
        {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"},
    )
    weights = load_file(tmp_path / FILE)
    for new, name in old.items():
        weights = {key.replace(new, name): tensor.half() for key, tensor in weights.items()}
    assert "encoder.mid_block.attentions.0.query.weight" in weights
    save_file(weights, tmp_path / FILE, {"format": "pt"})
    image = torch.rand(3, 1, 8, 8) * 2 - 1
    mean = imported.load_imported(tmp_path, (1, 8, 8))[0].encode(image)[:, :2]
    assert mean.dtype == torch.float32 and torch.allclose(
        mean, net.encode(image).latent_dist.mean, atol=5e-3
    )


def test_what_was_exported_serves_as_stage_1(latent_run, tmp_path):
    """Whitening is folded into it: measured again, it is 0 and 1; the run needs the folder no more."""
    folder = export(str(latent_run), str(tmp_path / "exported"))
    run = train_run(run_config("latent", tmp_path, f"space.autoencoder={folder}"))
    shutil.rmtree(folder)
    model = restore(run)
    assert model.space.mean.abs().max() < 1e-3 and (model.space.std - 1).abs().max() < 1e-3
    assert generate(model, model.settings, range(4)).float().std() > 10
    ends = load(latent_run / "last.ckpt")["state_dict"], load(run / "last.ckpt")["state_dict"]
    assert ends[0].keys() == ends[1].keys()


def test_what_is_refused(tmp_path):
    folder = tmp_path / "vae"
    foreign(folder)
    about, weights = json.loads((folder / "config.json").read_text()), (folder / FILE).read_bytes()

    def refused(reason, shape=(1, 8, 8)):
        with pytest.raises(Refusal, match=reason):
            imported.load_imported(folder, shape)

    refused("for pictures of 1 channels in and 1 out, the data has 3", (3, 8, 8))
    for change, reason in (
        ({"_class_name": "VQModel"}, "holds diffusers' VQModel"),
        ({"act_fn": "relu"}, "only silu is known"),
        (
            {"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]},
            "only DownEncoderBlock2D",
        ),
        ({"block_out_channels": [8, 18]}, "must be multiples of norm_groups"),
        ({"block_out_channels": 16}, "not of the kind"),
        ({"block_out_channels": [8, "16"]}, "not of the kind"),
        ({"latent_channels": 2.0}, "not of the kind"),
        ({"layers_per_block": None}, "not of the kind"),
        ({"down_block_types": 5}, "not of the kind"),
        ({"out_channels": 3}, "1 channels in and 3 out, the data has 1"),
        ({"latent_channels": 3}, "cannot be read|mismatched"),
    ):
        (folder / "config.json").write_text(json.dumps(about | change))
        refused(reason)
    for text in ("{", "[" * 100_000, "[1]"):
        (folder / "config.json").write_text(text)
        refused("is not readable")
    (folder / "config.json").write_text(json.dumps(about))
    (folder / FILE).write_bytes(weights[:-10])
    refused("cannot be read")
    save_file(
        {k: v for k, v in load_bytes(weights).items() if "conv_out" not in k},
        folder / FILE,
        {"format": "pt"},
    )
    refused("missing keys: .*conv_out")
    (folder / FILE).unlink()
    torch.save({}, folder / "diffusion_pytorch_model.bin")
    refused("safetensors are wanted")


def load_bytes(data):
    from safetensors.torch import load as from_bytes

    return from_bytes(data)
