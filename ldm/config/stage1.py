"""The stage-1 config of a latent run, and what it shares with the run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ldm.config.options import check_options
from ldm.config.runs import AutoencoderConfig, Config, DiffusionConfig, from_dict
from ldm.config.schema import merge, read_config
from ldm.config.shipped import shipped
from ldm.errors import Refusal

# of the trainer: stage 1's are the run's
ON_ONE_MACHINE = ("accelerator", "devices", "num_nodes", "threads")
OF_STAGE_1 = ("batch_size", "flip", "workers")  # of the data: all else is the run's


def stage1_of(run: Config) -> AutoencoderConfig | None:
    """The stage-1 config that a run names, with the run's `stage1:` over it.

    It is named after the run (`name_after`), so that another run trains its own. Data, output,
    boards and machine are the run's. Refusal where `stage1:` says what could have no effect.
    """
    if not isinstance(run, DiffusionConfig):
        return None
    if not named_by_config(run):
        for key in run.stage1:
            what = "space.autoencoder=FILE.yaml names the config of one"
            raise Refusal(f"stage1.{key}: no stage 1 is trained here; {what}")
        return None
    _check_stated(run.stage1)
    named = run.space.first_stage
    raw, where = stage1_file(run), f"stage 1, {named}"
    whole = merge(raw, {"name": name_after(run.name)} | run.stage1, top=True)
    stage1 = from_dict(whole, where)
    if not isinstance(stage1, AutoencoderConfig):
        other = f"{named} is a config of stage '{stage1.stage}', not autoencoder"
        raise Refusal(f"space.autoencoder: {other}")
    check_options(stage1.trainer.options, where)
    return _as_in(run, stage1)


def named_by_config(run: DiffusionConfig) -> bool:
    """Whether the run names its stage 1 by a config, not by a checkpoint or a folder."""
    return str(run.autoencoder or "").endswith((".yaml", ".yml"))


def stage1_file(run: DiffusionConfig) -> dict[str, Any]:
    """What the file that `space.autoencoder` names says, as plain dicts."""
    return read_config(shipped(Path(str(run.space.first_stage))))


def name_after(name: str) -> str:
    """The name of a run's stage 1: digits-autoencoder for digits-latent, x-autoencoder for x."""
    return name.replace("latent", "autoencoder") if "latent" in name else f"{name}-autoencoder"


def _check_stated(stated: dict[str, Any]) -> None:
    for key in ("output", "logger", "stage"):
        if key in stated:
            why = "it is autoencoder" if key == "stage" else f"both stages have one; set {key}"
            raise Refusal(f"stage1.{key}: {why}")
    data = stated.get("data")
    for key in data if isinstance(data, dict) else ():
        if key not in OF_STAGE_1:
            raise Refusal(f"stage1.data.{key}: both stages have the same data; set data.{key}")


def _as_in(run: DiffusionConfig, stage1: AutoencoderConfig) -> AutoencoderConfig:
    """Stage 1 with what it shares with the run."""
    if run.data.configured and type(stage1.data) is not type(run.data):
        names = type(stage1.data).__name__, type(run.data).__name__
        what = f"{run.space.first_stage} is for {names[0]}, this run's data is {names[1]}"
        raise Refusal(f"space.autoencoder: {what}")
    data, trainer = run.stage1.get("data", {}), run.stage1.get("trainer", {})
    shared = OF_STAGE_1 if "workers" in data else OF_STAGE_1[:-1]
    machine = {key: getattr(run.trainer, key) for key in ON_ONE_MACHINE if key not in trainer}
    # shown where stage 2 is, in one group with it
    group, tags = run.logger.group or run.name, stage1.logger.tags or run.logger.tags
    return replace(
        stage1,
        output=run.output,
        data=replace(run.data, **{key: getattr(stage1.data, key) for key in shared}),
        trainer=replace(stage1.trainer, **machine),
        logger=replace(run.logger, group=group, tags=tags),
    )
