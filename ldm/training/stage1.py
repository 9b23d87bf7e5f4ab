"""Whose stage 1 a latent run stands on: one of its own, one that other runs share, or a file's."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ldm import config
from ldm.checkpoints import checkpoint
from ldm.checkpoints.finding import find_checkpoint
from ldm.checkpoints.weights import load_strict, under
from ldm.config import AutoencoderConfig, DiffusionConfig, RunConfig, schema
from ldm.diffusion.space import Shape
from ldm.errors import Refusal
from ldm.networks import imported
from ldm.networks.autoencoder import Autoencoder
from ldm.sampling.model import load_autoencoder
from ldm.system.data import DataSet
from ldm.training.ranks import announce
from ldm.training.resume import changed, data_name, other_data

# stage 1's own data settings; the others are compared by the data's identity
OWN_DATA = ("data.batch_size", "data.flip")


@dataclass(frozen=True)
class Stage1:
    """The autoencoder under a latent run, and the config that it was trained by."""

    autoencoder: Autoencoder
    config: AutoencoderConfig


def is_finished(stage1: RunConfig) -> bool:
    """Whether its last checkpoint is of its last step."""
    path = stage1.folder / "last.ckpt"
    return (
        path.exists()
        and checkpoint.read_checkpoint(path)["global_step"] >= stage1.trainer.max_steps
    )


def _stale(trained_as: RunConfig, stage1: RunConfig) -> list[str]:
    """Keys of stage 1's config that made it what it is, and that have changed since."""
    keys = changed(schema.to_dict(trained_as), schema.to_dict(stage1))
    mine = lambda key: key in OWN_DATA or not key.startswith("data.")  # noqa: E731
    return [key for key in keys if key != "name" and mine(key)]


def shared_stage1(
    run: DiffusionConfig, images: DataSet, stage1: AutoencoderConfig, resume: bool
) -> AutoencoderConfig:
    """Stage 1 under the name in its own config, where that is what the run would train.

    So runs on the same data share the hours of one stage 1, and a run on other data trains its own.
    """
    if "name" in run.stage1 or (stage1.folder / "last.ckpt").exists():
        return stage1
    try:
        own = replace(stage1, name=str(config.stage1_file(run).get("name", stage1.name)))
        if not (own.folder / "last.ckpt").exists() or not (resume or is_finished(own)):
            return stage1
        meta = checkpoint.read_checkpoint(own.folder / "last.ckpt")["ldm"]
        trained_as = config.from_dict(meta["config"], str(own.folder))
    except (Refusal, ValueError):
        # no plain name, or a damaged file: what lies there is not to be used, and not ours
        return stage1
    same = trained_as.stage == own.stage and not _stale(trained_as, own)
    return own if same and meta.get("data") and not other_data(meta, images) else stage1


def stage1_inside(state: dict[str, Any], start: Path, shape: Shape) -> Stage1 | None:
    """The stage 1 of a checkpoint to resume from, whatever has become of its own file since."""
    inside = state["ldm"]["autoencoder"]
    if inside is None:
        return None
    trained_as = cast(AutoencoderConfig, config.from_dict(inside["config"], str(start)))
    autoencoder = trained_as.network.build(shape)
    found = under(state["state_dict"], "space.autoencoder.")
    load_strict(autoencoder, found, str(start))
    return Stage1(autoencoder, trained_as)


def find_stage1(
    run: DiffusionConfig, images: DataSet, stage1: AutoencoderConfig | None
) -> Stage1 | None:
    """Stage 1 as `space.autoencoder` names it, by its config, file or folder; None without one."""
    where = run.autoencoder
    if where is None:
        return None
    if stage1 is None and (folder := imported.find_imported(where)):
        autoencoder, network = imported.load_imported(folder, images.shape)
        about = AutoencoderConfig(run.name, "autoencoder", data=run.data, network=network)
        return Stage1(autoencoder, about)
    path = find_checkpoint(stage1.folder if stage1 else where, prefer="best")
    autoencoder, trained_as, meta = load_autoencoder(path)
    if tuple(meta["shape"]) != tuple(images.shape):
        given = f"{path} is for pictures of {tuple(meta['shape'])}"
        raise Refusal(f"space.autoencoder: {given}, the data has {images.shape}")
    _expect_fit(run, stage1, Stage1(autoencoder, trained_as), path, other_data(meta, images))
    return Stage1(autoencoder, trained_as)


def _expect_fit(
    run: DiffusionConfig, stage1: AutoencoderConfig | None, found: Stage1, path: Path, other: str
) -> None:
    """Refusal of other settings or data (`other`: how they differ) than those that made it.

    A checkpoint that the user named, and not its config, may be of other data: that is announced.
    """
    why = f"is of other data than {data_name(run)}: {other}" if other else ""
    if stage1 is None:
        if why:
            announce(f"stage 1    {path} {why}; used, as space.autoencoder names it")
        return
    if keys := _stale(found.config, stage1):
        why = f"is stale, {keys[0]} differs from {run.autoencoder}"
    if why:
        take = f"space.autoencoder={stage1.folder} takes it as it is"
        raise Refusal(f"space.autoencoder: {path} {why}; name=OTHER trains another, {take}")
