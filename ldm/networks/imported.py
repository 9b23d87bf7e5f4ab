"""Stage 1 by others: a diffusers `AutoencoderKL` folder, Stable Diffusion's say, as one of ours.

Safetensors alone are opened, and nothing is downloaded. What comes out is an ordinary
`AutoencoderKL` of this project: its config and weights travel in stage 2's checkpoint, and the
folder is not needed again. Its scaling_factor plays no part: latents are whitened here by what is
measured.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL as DiffusersKL
from torch import Tensor, nn

from ldm.checkpoints.weights import load_strict
from ldm.errors import Refusal
from ldm.networks.autoencoder import Autoencoder, AutoencoderKL, Shape

CONFIG = "config.json"
# bytes of a config.json; weights that may lie in no file (they are named missing)
LARGEST, SMALL = (
    1_000_000,
    10_000_000,
)
ABSENT = {
    "act_fn": "silu",
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
}

USED = {
    *ABSENT,
    "block_out_channels",
    "layers_per_block",
    "latent_channels",
    "norm_num_groups",
    "in_channels",
    "out_channels",
}
USED |= {"mid_block_add_attention", "use_quant_conv", "use_post_quant_conv"}


def find_imported(path: str | Path) -> Path | None:
    """The autoencoder's folder in a path (itself, or a pipeline's `vae`, `vqvae`), or None."""
    inside = (Path(path, part) for part in ("", "vae", "vqvae"))
    return next((folder for folder in inside if (folder / CONFIG).is_file()), None)


def load_imported(folder: Path, shape: Shape) -> tuple[Autoencoder, AutoencoderKL]:
    """The autoencoder for pictures of `shape`, and its config.

    Refusal if it is of another kind, damaged or of other channels.
    """
    about = _config(folder)
    if not about["in_channels"] == about["out_channels"] == shape[0]:
        both = f"{about['in_channels']} channels in and {about['out_channels']} out"
        raise Refusal(
            f"space.autoencoder: {folder} is for pictures of {both}, the data has {shape[0]}"
        )
    try:
        config = AutoencoderKL(
            channels=tuple(about["block_out_channels"]),
            layers=about["layers_per_block"],
            latent_channels=about["latent_channels"],
            attention=about["mid_block_add_attention"],
            norm_groups=about["norm_num_groups"],
        )
    except ValueError as error:
        raise Refusal(f"space.autoencoder: {folder / CONFIG}: {error}") from None
    _expect_room(folder, config, shape)
    ours = config.build(shape)
    load_strict(
        ours.net,
        _weights(folder, about) | _identities(ours.net, about),
        f"space.autoencoder: {folder}",
    )
    return ours.eval(), config


def _expect_room(folder: Path, config: AutoencoderKL, shape: Shape) -> None:
    """Refusal of a config.json of more weights than the files beside it have bytes, unallocated."""
    try:
        with torch.device("meta"):
            wanted = sum(w.numel() for w in config.build(shape).state_dict().values())
    except RuntimeError as error:  # sizes that no memory has
        raise Refusal(f"space.autoencoder: {folder / CONFIG}: {error!s:.200}") from None
    there = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if wanted > there + SMALL:
        raise Refusal(
            f"space.autoencoder: {folder / CONFIG} is of {wanted / 1e6:.1f} M weights, and the "
            "folder's safetensors have "
            f"{there / 1e6:.1f} MB: it is cut short, or of another model"
        )


def _config(folder: Path) -> dict[str, Any]:
    """Its config.json with diffusers' defaults.

    Refusal of what is not an AutoencoderKL of the usual blocks.
    """
    try:
        if (folder / CONFIG).stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST / 1e6:.0f} MB")
        given = json.loads((folder / CONFIG).read_text())
        if not isinstance(given, dict) or "quantization_config" in given:
            raise ValueError("it is not of plain weights")
        about = _defaults() | given
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise Refusal(f"space.autoencoder: {folder / CONFIG} is not readable ({error})") from None
    if about.get("_class_name") != "AutoencoderKL":
        raise Refusal(
            f"space.autoencoder: {folder} holds diffusers' {about.get('_class_name')}; an "
            "AutoencoderKL is wanted"
        )
    for key, default in _defaults().items():
        if key in USED and not _alike(about[key], default):
            raise Refusal(
                f"space.autoencoder: {folder / CONFIG}: {key} = {about[key]!r} is not of the kind "
                f"of {default!r}"
            )
    for key, only in ABSENT.items():
        if set([about[key]] if isinstance(about[key], str) else about[key]) != {only}:
            raise Refusal(
                f"space.autoencoder: {folder}: {key} = {about[key]}; only {only} is known here"
            )
    return about


def _defaults() -> dict[str, Any]:
    """Of diffusers' AutoencoderKL."""
    net: Any = DiffusersKL()
    return dict(net.config)


def _alike(value: Any, default: Any) -> bool:
    """Of one type; of a list, each of its items."""
    if isinstance(default, (list, tuple)):
        return (
            isinstance(value, (list, tuple))
            and bool(value)
            and all(type(v) is type(default[0]) for v in value)
        )
    return type(value) is type(default)


def _weights(folder: Path, about: dict[str, Any]) -> dict[str, Tensor]:
    """Every weight, by diffusers' own reader, which knows old names and halves."""
    try:
        net, found = DiffusersKL.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
        )
    except Exception as error:  # diffusers, safetensors and json each raise what they like
        why = " ".join(str(error).split())[:160]
        raise Refusal(
            f"space.autoencoder: {folder} cannot be read ({why}); safetensors are wanted, whole"
        ) from None
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[kind]:
            raise Refusal(
                f"space.autoencoder: {folder}: {kind.replace('_', ' ')}: "
                f"{next(iter(found[kind]))}; of another model"
            )
    return net.state_dict()


def _identities(net: nn.Module, about: dict[str, Any]) -> dict[str, Tensor]:
    """1 x 1 convolutions that do nothing, where it has none (Stable Diffusion 3, Flux)."""
    weights = {}
    for name in ("quant_conv", "post_quant_conv"):
        if not about[f"use_{name}"]:
            layer = getattr(net, name)
            weights[f"{name}.weight"] = torch.eye(layer.out_channels)[:, :, None, None]
            weights[f"{name}.bias"] = torch.zeros(layer.out_channels)
    return weights
