"""Pictures of a model that ldm exported. Needs diffusers alone, and transformers for captions; no stock pipeline pads and crops
odd sizes, or guides by a null class or an untold caption."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor
from torch.nn import functional as F


class LDMPipeline(DiffusionPipeline):
    _optional_components = ["vae", "text_encoder", "tokenizer"]  # noqa: RUF012 - diffusers reads it so

    def __init__(
        self, unet: Any, scheduler: Any, vae: Any = None, text_encoder: Any = None, tokenizer: Any = None, about: str = ""
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_to_config(about=about)

    @torch.no_grad()
    def __call__(
        self,
        prompts: str | Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """A picture a seed (or a row of `latents`, standard normal noise), by default one a prompt or a label.

        labels: class numbers, by default seed modulo classes. Labels and prompts are taken in turn. ValueError: no such class.
        """
        about, device = json.loads(self.config.about), self._execution_device
        weight = about["guidance"] if guidance is None else guidance
        prompts = [prompts] if isinstance(prompts, str) else prompts
        if seeds is None:
            seeds = range(len(prompts or labels or [0]) if latents is None else len(latents))
        if latents is None:
            draws = [torch.randn(about["shape"], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            latents = torch.stack(draws)
        x = latents.to(device, self.unet.dtype)
        told, untold = self.told(about, seeds, labels, prompts, device)
        self.scheduler.set_timesteps(steps or about["steps"], device=device)
        for t in self.progress_bar(self.scheduler.timesteps):
            out = self.predict(x, t, told)
            if told and weight != 1:  # guidance on every channel (Ho & Salimans 2022, eq. 6)
                nothing = self.predict(x, t, untold)
                out = nothing + weight * (out - nothing)
            x = self.scheduler.step(out, t, x).prev_sample
        picture = ((self.decode(x) / 2 + 0.5).clamp(0, 1)).permute(0, 2, 3, 1).float().cpu().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(picture) if output_type == "pil" else picture)

    def told(self, about: dict, seeds: Sequence[int], labels: Any, prompts: Any, device: Any) -> tuple[dict, dict]:
        """What the network is told, and what it is told for guidance: the class after the last, no caption."""
        told, untold, classes, count = {}, {}, len(about["classes"]), len(seeds)
        if classes:
            chosen = [labels[i % len(labels)] for i in range(count)] if labels else [seed % classes for seed in seeds]
            if not 0 <= min(chosen) <= max(chosen) < classes:
                raise ValueError(f"labels must be 0 ... {classes - 1}, got {chosen}")
            told["class_labels"] = torch.tensor(chosen, device=device)
            untold["class_labels"] = torch.full_like(told["class_labels"], classes)
        if self.text_encoder is not None:
            chosen = prompts or about["prompts"]
            told |= self.heard([chosen[i % len(chosen)] for i in range(count)], about["length"], device)
            untold |= self.heard([""] * count, about["length"], device)
        return told, untold

    def heard(self, captions: Sequence[str], length: int, device: Any) -> dict[str, Tensor]:
        """Token states, 0 beyond a caption's end. The first is always seen; where it is 0 it adds nothing: no caption."""
        dim = self.text_encoder.config.hidden_size
        states = torch.zeros(len(captions), length, dim, device=device, dtype=self.unet.dtype)
        mask = torch.arange(length, device=device).expand(len(captions), length) == 0
        for i, caption in enumerate(captions):
            if caption := " ".join(caption.split()):
                ids = self.tokenizer(caption, truncation=True, max_length=length)["input_ids"]
                states[i, : len(ids)] = self.text_encoder(torch.tensor([ids], device=device)).last_hidden_state[0]
                mask[i, : len(ids)] = True
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}

    def predict(self, x: Tensor, t: Tensor, told: dict[str, Tensor]) -> Tensor:
        h, w = (-side % json.loads(self.config.about)["factor"] for side in x.shape[-2:])
        wide = F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2), mode="replicate") if h or w else x
        return crop(self.unet(wide, t, **told).sample, *x.shape[-2:])

    def decode(self, x: Tensor) -> Tensor:
        return x if self.vae is None else crop(self.vae.decode(x).sample, *json.loads(self.config.about)["picture"][1:])


def crop(x: Tensor, height: int, width: int) -> Tensor:
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
