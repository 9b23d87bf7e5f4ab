"""Stage 1 of a latent run: its config, named by `space.autoencoder`, with what it shares with the run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ldm.config.options import check_options
from ldm.config.runs import AutoencoderConfig, Config, DiffusionConfig, from_dict
from ldm.config.schema import merge, read
from ldm.config.shipped import shipped
from ldm.errors import Refusal
from ldm.pictures.space import Latents

ON_ONE_MACHINE = (
    "accelerator",
    "devices",
    "num_nodes",
    "threads",
)  # of the trainer: stage 1's are the run's


OF_STAGE_1 = ("batch_size", "flip", "workers")  # of the data: all else is the run's


def stage1_of(run: Config) -> AutoencoderConfig | None:
    """Stage 1's config where the run names it by config: that file, and the run's `stage1:` over it.

    It is named after the run (`name_after`), so that another run trains its own. Data, output, boards and machine are the
    run's. Refusal where `stage1:` says what could have no effect.
    """
    told = run.stage1 if isinstance(run, DiffusionConfig) else {}
    if not named_by_config(run):
        for key in told:
            raise Refusal(
                f"stage1.{key}: no stage 1 is trained here; space.autoencoder=FILE.yaml names the config of one"
            )
        return None
    _check_told(told)
    raw, where = stage1_file(run), f"stage 1, {run.space.autoencoder}"
    stage1 = from_dict(merge(raw, {"name": name_after(run.name)} | told, top=True), where)
    if not isinstance(stage1, AutoencoderConfig):
        raise Refusal(
            f"space.autoencoder: {run.space.autoencoder} is a config of stage '{stage1.stage}', not autoencoder"
        )
    check_options(stage1.trainer.options, where)
    return _as_in(run, stage1)


def named_by_config(run: Config) -> bool:
    """Whether the run has a stage 1 that is named by its config, not by a checkpoint or a folder."""
    latent = isinstance(run, DiffusionConfig) and isinstance(run.space, Latents)
    return latent and run.space.autoencoder.endswith((".yaml", ".yml"))


def stage1_file(run: DiffusionConfig) -> dict[str, Any]:
    """What the file that `space.autoencoder` names says, as plain dicts."""
    return read(shipped(Path(run.space.autoencoder)))


def name_after(name: str) -> str:
    """What stage 1 of a run is called: digits-latent has digits-autoencoder, and other has other-autoencoder."""
    return name.replace("latent", "autoencoder") if "latent" in name else f"{name}-autoencoder"


def _check_told(told: dict[str, Any]) -> None:
    for key in ("output", "logger", "stage"):
        if key in told:
            raise Refusal(
                f"stage1.{key}: "
                + ("it is autoencoder" if key == "stage" else f"both stages have one; set {key}")
            )
    data = told.get("data")
    for key in data if isinstance(data, dict) else ():
        if key not in OF_STAGE_1:
            raise Refusal(f"stage1.data.{key}: both stages have the same data; set data.{key}")


def _as_in(run: DiffusionConfig, stage1: AutoencoderConfig) -> AutoencoderConfig:
    """Stage 1 with what it shares with the run."""
    if run.data.configured and type(stage1.data) is not type(run.data):
        names = type(stage1.data).__name__, type(run.data).__name__
        raise Refusal(
            f"space.autoencoder: {run.space.autoencoder} is for {names[0]}, this run's data is {names[1]}"
        )
    told = run.stage1.get("data", {}), run.stage1.get("trainer", {})
    workers = stage1.data.workers if "workers" in told[0] else run.data.workers
    data = replace(
        run.data, batch_size=stage1.data.batch_size, flip=stage1.data.flip, workers=workers
    )
    machine = {key: getattr(run.trainer, key) for key in ON_ONE_MACHINE if key not in told[1]}
    # shown where stage 2 is, in one group with it
    logger = replace(
        run.logger, group=run.logger.group or run.name, tags=stage1.logger.tags or run.logger.tags
    )
    return replace(
        stage1,
        output=run.output,
        data=data,
        trainer=replace(stage1.trainer, **machine),
        logger=logger,
    )
