"""A checkpoint as a small folder: model.safetensors in half precision, and a model card.

python -m ldm.pack --checkpoint checkpoints/fashion-latent-cpu --output checkpoints/fashion-latent
python sample.py --checkpoint checkpoints/fashion-latent
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.errors import Refusal, printable

if TYPE_CHECKING:
    from ldm.sampling.worse import Worse


def pack(checkpoint: str | Path, output: str | Path, weights: str = "ema") -> Path:
    """Write the folder and return the file; Refusal where one is there already."""
    from ldm.checkpoints import packed
    from ldm.checkpoints.checkpoint import read_checkpoint
    from ldm.checkpoints.finding import PACKED, find_checkpoint

    source, folder = find_checkpoint(checkpoint), Path(output).resolve()
    file = folder / PACKED
    if file.exists() or (folder.exists() and not folder.is_dir()):
        raise Refusal(
            f"--output: {file if file.exists() else folder} is there already; name another folder"
        )
    kept, about = contents(read_checkpoint(source), weights, source)
    folder.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".partial")
    try:
        packed.write_packed(kept, about, beside)
        beside.rename(file)
    finally:
        beside.unlink(missing_ok=True)
    readme = folder / "README.md"
    if not readme.exists():
        readme.write_text(model_card(about, kept, file))
    return file


def contents(
    state: dict[str, Any], which: str, source: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights that sampling needs, and the metadata without this machine's paths and ids."""
    from ldm.checkpoints import checkpoint, packed
    from ldm.checkpoints.weights import hash_of_weights, under

    meta = dict(state["ldm"])
    kept = {
        f"{meta['trained']}.{key}": tensor
        for key, tensor in checkpoint.weights(state, which, source).items()
    }
    beside = ("space.", "guide.")
    kept |= {key: tensor for key, tensor in state["state_dict"].items() if key.startswith(beside)}
    if own := own_guide(meta["config"], which, source):
        kept |= own.state()
        meta["guide"] = own.about
    kept = {key: packed.halve(tensor) for key, tensor in kept.items()}
    found = {key: packed.in_full(tensor) for key, tensor in kept.items()}  # as it will be read
    if inside := meta["autoencoder"]:  # rounded it is another one, with another hash
        digest = hash_of_weights(under(found, "space.autoencoder.").items())
        meta["autoencoder"] = {"config": anonymous(inside["config"]), "hash": digest}
    if guide := meta.get("guide"):
        digest = hash_of_weights(under(found, "guide.").items())
        meta["guide"] = guide | {"config": anonymous(guide["config"]), "hash": digest}
    meta |= {"config": anonymous(meta["config"]), "ema": None}
    meta.pop("wandb_id", None)
    about = {
        "ldm": meta,
        "global_step": state["global_step"],
        "weights": state.get("weights", which),
    }
    return kept, about | {"hash": hash_of_weights(found.items())}


def own_guide(config: dict[str, Any], which: str, source: Path) -> Worse | None:
    """Other weights of the run that its samples are led away from: a packed file has but one."""
    from ldm.sampling.guides import guide_of
    from ldm.sampling.model import restore

    guide = config.get("sample", {}).get("guide") or {}
    if guide.get("run") is not None or guide.get("weights") is None:
        return None
    model = restore(source, which)
    return guide_of(model, model.settings.guide)


def anonymous(config: dict[str, Any]) -> dict[str, Any]:
    """A resolved config with its own defaults where it names places of this machine."""
    from ldm.config import Evaluate, LoggerConfig, RunConfig, from_dict
    from ldm.config.schema import to_dict

    run = from_dict(config)
    run.output, run.logger, run.evaluate, run.trainer.options = (
        RunConfig.output,
        LoggerConfig(),
        Evaluate(),
        {},
    )
    sample = getattr(run, "sample", None)
    if sample is not None and sample.guide.chosen:
        sample.guide = replace(sample.guide, run="inside", weights=None)
    if hasattr(run.data, "root"):
        run.data.root = type(run.data).root
    for part, key in (("space", "autoencoder"), ("text", "model")):
        named = getattr(getattr(run, part, None), key, None)
        if named and (part == "space" or Path(named).is_absolute()):
            setattr(getattr(run, part), key, Path(named).name)
    return to_dict(run)


def model_card(about: dict[str, Any], kept: dict[str, Any], file: Path) -> str:
    """The model card, with what a person has to add."""
    from omegaconf import OmegaConf

    meta, config, name = about["ldm"], about["ldm"]["config"], file.parent.name
    count = sum(t.numel() for key, t in kept.items() if key.startswith(meta["trained"]))
    stage1 = meta["stage"] == "autoencoder"
    kind = "autoencoder" if stage1 else config["space"]["name"].lower()
    use = (
        f"train.py --config CONFIG space.autoencoder={name}"
        if stage1
        else f"sample.py --checkpoint {name} --output samples/{name}"
    )
    data = f"{config['data']['name']} {tuple(meta['shape'])}"
    return f"""---
library_name: ldm
tags: [{"autoencoder" if stage1 else f"diffusion, {kind}"}]
---
# {name}

Model ({kind}) of {data}: {count / 1e6:.2f} M parameters after {about["global_step"]} steps,
{about["weights"]} weights in half precision, {file.stat().st_size / 1e6:.1f} MB.
Classes: {printable(", ".join(meta["classes"])) or "none"}.

    python {use}

Say here: the data and their licence, the training command, figures with the seeds and commands
that gave them, what it cannot do.

## Config

```yaml
{OmegaConf.to_yaml(OmegaConf.create(config)).strip()}
```
"""
