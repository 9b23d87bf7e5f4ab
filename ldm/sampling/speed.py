"""How a model is made to sample quickly: precision, compilation, memory format, batches, by device.

On a CPU nothing is done unless it is asked for: a sample keeps its bits there.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ldm.config import SampleConfig
from ldm.errors import Refusal, one_of
from ldm.networks.quick import compile_in_place, lay_channels_last
from ldm.sampling.model import Model

PRECISIONS = ("auto", "32-true", "bf16")
# calls of the network from which compiling is worth it: about a minute of it, against an estimated
# 15 ms that a call of some hundred launches is shorter by
WORTH = 4000
# batches on a GPU where none is asked for, the largest of fewer numbers than this
BATCHES, NUMBERS = (1024, 256), 2**22


def check_precision(precision: str) -> str:
    """The precision; Refusal of an unknown one."""
    if precision not in PRECISIONS:
        raise Refusal(one_of("--precision", precision, PRECISIONS))
    return precision


def usual_precision(model: Model) -> str:
    """What auto is for samples: bf16 for pictures on a GPU that has it, else 32-true.

    It moves a grey level by 0.2 to 0.3 of 255 in the mean, less than rounding to bytes does. Jets
    and all that is measured or goes through gradients stay in float32.
    """
    on_gpu = model.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if on_gpu and model.space.modality == "pictures" else "32-true"


def in_precision(model: Model, precision: str) -> Model:
    """The model in a precision, `auto`: that of samples."""
    return replace(model, precision=usual_precision(model) if precision == "auto" else precision)


def on_its_device(model: Model) -> Model:
    """The model in the memory format of its device."""
    if model.device.type == "cuda" and model.space.modality == "pictures":
        lay_channels_last(model.denoiser)
        lay_channels_last(model.space)
    return model


def compiled(
    model: Model, asked: bool | None, settings: SampleConfig, seeds: Sequence[int]
) -> bool:
    """Compile network and decoder if that is asked, or by default worth it; whether it was done."""
    calls = -(-len(seeds) // settings.batch_size) * settings.steps
    if not (asked if asked is not None else model.device.type == "cuda" and calls >= WORTH):
        return False
    compile_in_place(model.denoiser.net)
    if model.space.first_stage is not None:
        compile_in_place(model.space.first_stage)
    return True


def roomy(model: Model, settings: SampleConfig, count: int) -> SampleConfig:
    """Settings whose batch of the usual 64 fills a GPU, for at least as many samples."""
    numbers = torch.Size(model.space.data_shape).numel()
    if model.device.type != "cuda" or settings.batch_size != SampleConfig.batch_size:
        return settings
    fits = (size for size in BATCHES if size <= count and size * numbers <= NUMBERS)
    return replace(settings, batch_size=next(fits, settings.batch_size))
