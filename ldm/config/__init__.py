"""Typed configs of both stages, from YAML files and the command line (`load`)."""

from ldm.config.choices import AnyData, AnySolver
from ldm.config.files import load, made, save_config
from ldm.config.runs import (
    STAGES,
    AutoencoderConfig,
    Config,
    DiffusionConfig,
    RunConfig,
    from_dict,
    of_stage,
)
from ldm.config.sections import (
    Discriminator,
    Evaluate,
    Guide,
    LoggerConfig,
    Optim,
    SampleConfig,
    TrainerConfig,
)
from ldm.config.shipped import SHIPPED, made_for_cpu, shipped
from ldm.config.stage1 import name_after, named_by_config, stage1_file, stage1_of

__all__ = [
    "SHIPPED",
    "STAGES",
    "AnyData",
    "AnySolver",
    "AutoencoderConfig",
    "Config",
    "DiffusionConfig",
    "Discriminator",
    "Evaluate",
    "Guide",
    "LoggerConfig",
    "Optim",
    "RunConfig",
    "SampleConfig",
    "TrainerConfig",
    "from_dict",
    "load",
    "made",
    "made_for_cpu",
    "name_after",
    "named_by_config",
    "of_stage",
    "save_config",
    "shipped",
    "stage1_file",
    "stage1_of",
]
