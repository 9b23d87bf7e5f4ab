"""A checkpoint as a folder that diffusers loads: pictures of classes or of nothing, in pixels or in latents.

python -m ldm.export --checkpoint checkpoints/digits-latent --output exported/digits
    >>> pipe = DiffusionPipeline.from_pretrained("exported/digits", trust_remote_code=True)
    >>> pipe(labels=[3, 7], seeds=[0, 1], steps=25, guidance=1.5).images

U-Net, scheduler and autoencoder are diffusers' own, in safetensors and JSON. pipeline.py in the folder (hence
trust_remote_code) needs diffusers alone: it pads odd sizes, knows the null class, and undoes the whitening of latents.
"""

import argparse
import json
import shutil
from pathlib import Path

from ldm.errors import Refusal, guard

TABLE = 1000  # entry i of the scheduler is t = (i + 1) / TABLE
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
PIPELINE = Path(__file__).with_name("diffusers_pipeline.py")


def parse() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m ldm.export", description=__doc__, formatter_class=formatter)
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="a run's folder or a checkpoint file")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--weights", metavar="W", default="ema", help="as of sample.py (default: ema)")
    return parser.parse_args()


def export(checkpoint: str, output: str, weights: str = "ema") -> Path:
    """Write the folder, whole or not at all; Refusal for what diffusers cannot be told."""
    from ldm.model import restore

    folder, model = Path(output), restore(checkpoint, weights)
    expect_exportable(model)
    if folder.exists():
        raise Refusal(f"--output: {folder} is there already; name a new folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write(model, partial)
    (partial / "README.md").write_text(card(model, checkpoint, weights, folder))
    partial.rename(folder)
    return folder


def expect_exportable(model: "Model") -> None:  # noqa: F821 - torch is imported once the arguments are right
    """Refusal with the reason."""
    from ldm.diffusion.schedules import VariancePreserving
    from ldm.networks.autoencoder import VQAutoencoder
    from ldm.networks.unet import PaddedUNet

    predict = model.denoiser.loss_config.predict
    wrong = {
        "clouds have no pipeline in diffusers": not isinstance(model.denoiser.net, PaddedUNet),
        "a model of captions is not exported yet": model.text is not None,
        f"a model trained for {model.task.use} is not exported yet": model.task.use is not None,
        "a VQ autoencoder is not exported yet": isinstance(getattr(model.space, "autoencoder", None), VQAutoencoder),
        f"diffusers' schedulers know {', '.join(PREDICTIONS)}, not predict = {predict}": predict not in PREDICTIONS,
        f"diffusers' tables want alpha^2 + sigma^2 = 1, not {type(model.denoiser.schedule).__name__}": not isinstance(
            model.denoiser.schedule, VariancePreserving
        ),
    }
    for reason, holds in wrong.items():
        if holds:
            raise Refusal(f"export: {reason}")


def write(model: "Model", folder: Path) -> None:  # noqa: F821
    """unet/, scheduler/, vae/ of latent models, pipeline.py and model_index.json."""
    import diffusers

    parts = {"unet": model.denoiser.net.unet, "scheduler": scheduler(model)}
    if autoencoder := getattr(model.space, "autoencoder", None):
        parts["vae"] = autoencoder.net
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    shutil.copy(PIPELINE, folder / "pipeline.py")
    about = {
        "classes": list(model.classes),
        "shape": list(model.space.shape),
        "factor": model.denoiser.net.factor,
        "mean": model.space.mean.tolist() if autoencoder else [0.0],
        "std": model.space.std.tolist() if autoencoder else [1.0],
        "picture": list((autoencoder or model.space).shape),
        "steps": model.settings.steps,
        "guidance": model.settings.guidance,
    }
    index = {"_class_name": ["pipeline", "LDMPipeline"], "_diffusers_version": diffusers.__version__, "about": json.dumps(about)}
    index |= {"vae": [None, None]} | {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def scheduler(model: "Model") -> "DDIMScheduler":  # noqa: F821
    """DDIM on the table of the model's own law, its betas in float64: 1 - beta_i = (alpha_i / alpha_{i-1})^2."""
    import torch
    from diffusers import DDIMScheduler

    alpha2 = model.denoiser.schedule(torch.arange(TABLE + 1, dtype=torch.float64) / TABLE)[0].square()
    betas = (1 - alpha2[1:] / alpha2[:-1]).tolist()
    return DDIMScheduler(
        num_train_timesteps=TABLE,
        trained_betas=betas,
        prediction_type=PREDICTIONS[model.denoiser.loss_config.predict],
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def card(model: "Model", checkpoint: str, weights: str, folder: Path) -> str:  # noqa: F821
    """The model card."""
    kind = "latent" if hasattr(model.space, "autoencoder") else "pixel"
    return f"""---
library_name: diffusers
tags: [diffusion, {kind}]
---
A {kind} diffusion model of pictures {tuple(model.space.shape)}, exported from `{Path(checkpoint).name}` at step {model.step}
({weights} weights) by `python -m ldm.export`. Classes: {", ".join(model.classes) or "none"}.

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{folder.name}", trust_remote_code=True)
pipe(seeds=[0, 1, 2, 3]).images[0].show()
```

`pipeline.py` is in the folder, and needs no package but diffusers, because no stock pipeline pads odd sizes, guides by a
null class or whitens latents a channel at a time. Any scheduler of diffusers takes the place of DDIM:
`DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)`. Say here what it was trained on and under which licence.
"""


def main() -> None:
    print(f"exported to {export(**vars(parse()))}")


if __name__ == "__main__":
    guard(main)
