"""Pictures of a model that ldm exported. Needs diffusers alone; no stock pipeline pads odd sizes, guides by a null class, or
undoes the whitening of latents a channel at a time."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from torch.nn import functional as F


class LDMPipeline(DiffusionPipeline):
    _optional_components = ["vae"]  # noqa: RUF012 - diffusers reads it so

    def __init__(self, unet: Any, scheduler: Any, vae: Any = None, about: str = ""):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae)
        self.register_to_config(about=about)

    @torch.no_grad()
    def __call__(
        self,
        labels: Sequence[int] | None = None,
        seeds: Sequence[int] = (0,),
        steps: int | None = None,
        guidance: float | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """A picture a seed (or a row of `latents`, standard normal noise). labels: class numbers, default seed modulo classes."""
        about, device = json.loads(self.config.about), self._execution_device
        weight = about["guidance"] if guidance is None else guidance
        if latents is None:
            draws = [torch.randn(about["shape"], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            latents = torch.stack(draws)
        x, classes = latents.to(device, self.unet.dtype), len(about["classes"])
        if classes and labels is None:
            labels = [i % classes for i in range(len(x))]
        label = torch.tensor(labels, device=device) if classes else None
        self.scheduler.set_timesteps(steps or about["steps"], device=device)
        for t in self.progress_bar(self.scheduler.timesteps):
            out = self.predict(x, t, label)
            if classes and weight != 1:  # guidance on every channel (Ho & Salimans 2022, eq. 6)
                nothing = self.predict(x, t, torch.full_like(label, classes))
                out = nothing + weight * (out - nothing)
            x = self.scheduler.step(out, t, x).prev_sample
        picture = ((self.decode(x) / 2 + 0.5).clamp(0, 1)).permute(0, 2, 3, 1).float().cpu().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(picture) if output_type == "pil" else picture)

    def predict(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
        """The network, at its own time: entry i of the table is t = (i + 1) / 1000."""
        h, w = (-side % json.loads(self.config.about)["factor"] for side in x.shape[-2:])
        wide = F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2), mode="replicate") if h or w else x
        return crop(self.unet(wide, t + 1, class_labels=label).sample, *x.shape[-2:])

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        if self.vae is None:
            return x
        about = json.loads(self.config.about)
        mean, std = (torch.tensor(about[key], device=x.device, dtype=x.dtype)[:, None, None] for key in ("mean", "std"))
        return crop(self.vae.decode(x * std + mean).sample, *about["picture"][1:])


def crop(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
