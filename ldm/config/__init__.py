"""What a run is: typed configs of both stages, from YAML files and the command line. See `files.load`."""

from ldm.config.files import load, made, save
from ldm.config.runs import (
    STAGES,
    AutoencoderConfig,
    Config,
    Data,
    DiffusionConfig,
    RunConfig,
    from_dict,
)
from ldm.config.sections import (
    AnySolver,
    Discriminator,
    Evaluate,
    LoggerConfig,
    Optim,
    Perceptual,
    SampleConfig,
    TrainerConfig,
)
from ldm.config.shipped import SHIPPED, shipped
from ldm.config.stage1 import name_after, named_by_config, stage1_file, stage1_of

__all__ = [
    "SHIPPED",
    "STAGES",
    "AnySolver",
    "AutoencoderConfig",
    "Config",
    "Data",
    "DiffusionConfig",
    "Discriminator",
    "Evaluate",
    "LoggerConfig",
    "Optim",
    "Perceptual",
    "RunConfig",
    "SampleConfig",
    "TrainerConfig",
    "from_dict",
    "load",
    "made",
    "name_after",
    "named_by_config",
    "save",
    "shipped",
    "stage1_file",
    "stage1_of",
]
