"""A checkpoint as a folder that diffusers loads, in pixels or in latents.

U-Net, scheduler, autoencoder and text encoder are diffusers' and transformers' own, in safetensors
and JSON. What ours do besides is folded into their weights. An unconditional model, whose sizes the
network's levels divide, is a stock DDIMPipeline or LDMPipeline; else the folder has a pipeline.py
(hence trust_remote_code), which needs diffusers alone: it pads and crops, and guides by the null
class and the empty caption.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError

from ldm.errors import Refusal, printable, say

if TYPE_CHECKING:  # torch is imported once the arguments are right
    from torch import Tensor

    from ldm.sampling.model import Model

TABLE = 1000  # entry i of the scheduler is t = (i + 1) / TABLE
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
# schedulers of diffusers that make our data on the exported table, by tests on exact networks for
# every law and prediction
SCHEDULERS = [
    "DDIM",
    "DDPM",
    "DPMSolverMultistep",
    "UniPCMultistep",
    "EulerDiscrete",
]  # whatever the law
FINITE = [
    "DPMSolverSinglestep",
    "DEISMultistep",
    "LMSDiscrete",
    "SASolver",
]  # divide by alpha_1: not with zero terminal SNR
NOISY = ["EulerAncestralDiscrete"]  # knows no predict = x0
WHY = """`pipeline.py` is in the folder, and needs no package but diffusers (and transformers for
captions), because no stock pipeline pads and crops odd sizes, or guides by a null class or \
an empty caption."""
PIPELINE = Path(__file__).with_name("pipeline.py")


def export(checkpoint: str, output: str, weights: str = "ema") -> Path:
    """Write the folder, whole or not at all; Refusal for what diffusers does not support."""
    from ldm.sampling.model import restore

    folder, model = Path(output), restore(checkpoint, weights)
    expect_exportable(model)
    if folder.exists():
        raise Refusal(f"--output: {folder} is there already; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        write_pipeline(model, partial)
        (partial / "README.md").write_text(pipeline_card(model, checkpoint, weights, folder))
        partial.chmod(0o755)
        partial.rename(folder)
        if left := left_out(model):
            say(f"warning: export: {left}")
    except SafetensorError as error:  # its word for a full disk
        raise Refusal(f"--output: {folder} could not be written ({error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def expect_exportable(model: Model) -> None:
    """Refusal with the reason."""
    predict, law, use = model.denoiser.loss_config.predict, model.schedule, model.purpose.use
    codes, known = getattr(model.space.first_stage, "codes", 0), ", ".join(PREDICTIONS)
    wrong = {
        "clouds and points have no pipeline in diffusers": model.space.modality != "pictures",
        "its network has no pipeline in diffusers": not getattr(model.denoiser.net, "unet", None),
        f"a model trained for {use} is not exported yet": use is not None,
        "a VQ autoencoder is not exported yet": codes > 0,
        f"diffusers' schedulers know {known}, not predict = {predict}": predict not in PREDICTIONS,
        "diffusers' tables want alpha^2 + sigma^2 = 1, not " + type(law).__name__: (
            not law.variance_preserving
        ),
    }
    for reason, holds in wrong.items():
        if holds:
            raise Refusal(f"export: {reason}")


def left_out(model: Model) -> str:
    """What sample.py does with this model and the folder does not; empty where there is nothing."""
    guide = model.settings.guide
    if not guide.chosen:
        return ""
    which = f"a guide ({guide.describe()}), which no pipeline of diffusers has"
    return f"the model is sampled with {which}: the folder makes pictures without it"


def ours(model: Model) -> Any:
    """The network: a PaddedUNet, once `expect_exportable` has seen it."""
    return model.denoiser.net


def write_pipeline(model: Model, folder: Path) -> None:
    """A folder a part, pipeline.py where no stock pipeline does, and model_index.json."""
    import diffusers

    name, space = stock(model), cast(Any, model.space)  # pixels, or latents with an autoencoder
    parts: dict[str, Any] = {"unet": unet(model), "scheduler": scheduler(model)}
    if autoencoder := getattr(space, "autoencoder", None):
        parts["vqvae" if name else "vae"] = whitened(autoencoder.net, space.mean, space.std)
    if model.text:
        parts |= {"text_encoder": model.text.model, "tokenizer": model.text.pretrained}
    for part, value in parts.items():
        value.save_pretrained(folder / part)
    index: dict[str, Any] = {
        "_class_name": name or ["pipeline", "LDMPipeline"],
        "_diffusers_version": diffusers.__version__,
    }
    if name is None:
        shutil.copy(PIPELINE, folder / "pipeline.py")
        index |= {"about": json.dumps(pipeline_settings(model))} | {
            part: [None, None] for part in ("vae", "text_encoder", "tokenizer")
        }
    index |= {
        part: [type(value).__module__.split(".")[0], type(value).__name__]
        for part, value in parts.items()
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def stock(model: Model) -> str | None:
    """The stock pipeline of diffusers for an unconditional model of whole levels, if it is one."""
    if model.settings.solver.few:  # its scheduler is not DDIM
        return None
    x, autoencoder = model.space.shape, getattr(model.space, "autoencoder", None)
    picture = autoencoder.shape if autoencoder else x
    cut = autoencoder is not None and any(side % autoencoder.multiple for side in picture[1:])
    if model.classes or model.text or cut or x[1] != x[2] or x[1] % ours(model).factor:
        return None
    return "LDMPipeline" if autoencoder else "DDIMPipeline"


def pipeline_settings(model: Model) -> dict[str, Any]:
    """The model's settings that pipeline.py needs."""
    return {
        "classes": list(model.classes),
        "shape": list(model.space.shape),
        "factor": ours(model).factor,
        "picture": list(getattr(model.space, "autoencoder", model.space).shape),
        "steps": model.settings.steps,
        # a guide is another network, which no pipeline of diffusers has
        "guidance": 1.0 if model.settings.guide.chosen else model.settings.guidance,
        "prompts": list(model.prompts),
        "length": model.text.length if model.text else 0,
        "timesteps": student_times(model) if model.settings.solver.few else None,
    }


def unet(model: Model) -> Any:
    """Our U-Net for entry i of the table, where ours takes i + 1.

    The first layer of the time's embedding takes the shift: cos(f (i + 1)) and sin(f (i + 1)) are
    the rotation of cos(f i) and sin(f i) by the angle f.
    """
    import torch

    net = copy.deepcopy(ours(model).unet)
    weight = net.time_embedding.linear_1.weight.data
    cos, sin = net.time_proj(torch.ones(1)).chunk(
        2, -1
    )  # diffusers' flip_sin_to_cos: cosines first
    by_cos, by_sin = weight.chunk(2, 1)
    weight.copy_(torch.cat([by_cos * cos + by_sin * sin, by_sin * cos - by_cos * sin], 1))
    return net


def whitened(net: Any, mean: Tensor, std: Tensor) -> Any:
    """The autoencoder of (z - mean) / std, taken by the 1 x 1 convolutions beside the latents."""
    import torch

    net = copy.deepcopy(net)
    before, after = net.quant_conv, net.post_quant_conv
    shift, scale = (
        torch.cat([mean, 2 * std.log()]),
        torch.cat([std, torch.ones_like(std)]),
    )  # of means and log-variances
    before.weight.data.div_(scale[:, None, None, None])
    before.bias.data.sub_(shift).div_(scale)
    after.bias.data.add_(after.weight.data[:, :, 0, 0] @ mean)
    after.weight.data.mul_(std[None, :, None, None])
    net.register_to_config(scaling_factor=1.0)
    return net


def scheduler(model: Model) -> Any:
    """DDIM on the law's own table, float64: 1 - beta_i = (alpha_i / alpha_{i-1})^2.

    Of a student LCM, whose c_skip and c_out beside ours are made 0 and 1; of one of several
    segments DPM++ of order 1, which is DDIM at any times.
    """
    import torch
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler

    alpha2 = model.denoiser.schedule(torch.arange(TABLE + 1, dtype=torch.float64) / TABLE)[
        0
    ].square()
    of_all: dict[str, Any] = {
        "num_train_timesteps": TABLE,
        "trained_betas": (1 - alpha2[1:] / alpha2[:-1]).tolist(),
        "prediction_type": PREDICTIONS[model.denoiser.loss_config.predict],
        # leaves our table as it is; those made of this config then know that its last sigma / alpha
        # is infinite
        "rescale_betas_zero_snr": bool(alpha2[-1] == 0),
    }
    if not model.settings.solver.few:
        ours = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
        return DDIMScheduler(**of_all, **ours)
    if model.settings.solver.pieces == 1:
        return LCMScheduler(
            **of_all, original_inference_steps=TABLE, timestep_scaling=1e6, clip_sample=False
        )
    return DPMSolverMultistepScheduler(**of_all, solver_order=1, final_sigmas_type="zero")


def student_times(model: Model) -> list[int]:
    """The entries of the table nearest to the times of a student's steps."""
    settings = model.settings
    times = model.schedule.grid(settings.steps, settings.grid)[:-1]
    return [round(t) - 1 for t in (times * TABLE).tolist()]


def schedulers(model: Model) -> list[str]:
    """Names, less `Scheduler`, of diffusers' schedulers that can stand in place of DDIM."""
    if model.settings.solver.few:
        return [type(scheduler(model)).__name__.removesuffix("Scheduler")]
    if stock(model) == "DDIMPipeline":  # makes a DDIMScheduler of whatever it is given
        return ["DDIM"]
    forgets = bool(scheduler(model).config.rescale_betas_zero_snr)
    return (
        SCHEDULERS
        + ([] if forgets else FINITE)
        + ([] if model.denoiser.loss_config.predict == "x0" else NOISY)
    )


def others(model: Model) -> str:
    """The card's lines on schedulers."""
    names = schedulers(model)
    if len(names) == 1:
        return f"This pipeline knows no scheduler but {names[0]}."
    table = "with zero terminal SNR " if scheduler(model).config.rescale_betas_zero_snr else ""
    listed = ", ".join(f"`{name}Scheduler`" for name in names[1:])
    return f"""In place of DDIM it takes, as tested for its noise law {table}and prediction,
{listed}: `pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)`.
No other, and keep the settings of that config: `trained_betas`, `prediction_type`, \
`timestep_spacing="trailing"`, `rescale_betas_zero_snr`."""


def pipeline_card(model: Model, checkpoint: str, weights: str, folder: Path) -> str:
    """The model card."""
    kind, name = "latent" if hasattr(model.space, "autoencoder") else "pixel", stock(model)
    call = "class_labels=[0, 1], guidance_scale=2" if model.classes else "num_images_per_prompt=2"
    call = 'prompt=["a red heart"], guidance_scale=3' if model.text else call
    if model.settings.solver.few:  # its guidance is inside
        call = call.rsplit(", ", 1)[0] if model.classes or model.text else call
    call = "batch_size=2, num_inference_steps=25" if name else call
    trusted = "" if name else ", trust_remote_code=True"
    classes, shape = printable(", ".join(model.classes)) or "none", tuple(model.space.shape)
    why = f"A stock {name}: no code of ours is in the folder." if name else WHY
    left = f"Left out: {left}.\n" if (left := left_out(model)) else ""
    return f"""---
library_name: diffusers
tags: [diffusion, {kind}]
---
A {kind} diffusion model of pictures {shape}, exported from `{Path(checkpoint).name}` at step
{model.step} ({weights} weights) by `python -m ldm.export`. Classes: {classes}.

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{folder.name}"{trusted})
pipe({call}).images[0].show()
```

{why} {others(model)}
{left}Say here what it was trained on and under which licence.
"""
