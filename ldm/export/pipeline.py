"""Samples of a model that ldm exported.

Needs diffusers alone, and transformers for captions. No stock pipeline pads and crops odd sizes,
or guides by a null class or an empty caption.
"""
# mypy: disable-error-code="attr-defined,arg-type"
# diffusers has no types, and makes most attributes of a pipeline by name

import inspect
import json
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn import functional as F


class LDMPipeline(DiffusionPipeline):
    _optional_components = ["vae", "text_encoder", "tokenizer"]  # noqa: RUF012 - diffusers'

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        vae: Any = None,
        text_encoder: Any = None,
        tokenizer: Any = None,
        about: str = "",
    ):
        super().__init__()
        self.register_modules(
            unet=unet, scheduler=scheduler, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer
        )
        self.register_to_config(about=about)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        class_labels: int | Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_images_per_prompt: int = 1,
        return_dict: bool = True,
        **old: Any,
    ) -> ImagePipelineOutput | tuple:
        """num_images_per_prompt pictures of each prompt, or of each class number.

        Steps and guidance are by default the model's; guidance_scale 1 is the plain conditional
        model. The noise: `latents` (standard normal, one row per picture), a `generator` or one
        per picture, or `seeds`, by default 0, 1, ...; with more seeds than prompts or
        labels, these are taken in turn, and with none, seed modulo classes is the label. The older
        names prompts, labels, steps and guidance mean prompt, class_labels, num_inference_steps
        and guidance_scale. ValueError for what the model does not support.
        """
        given = {
            "prompt": prompt,
            "class_labels": class_labels,
            "num_inference_steps": num_inference_steps,
        }
        given = renamed(given | {"guidance_scale": guidance_scale}, old)
        about, device = json.loads(self.config.about), self._execution_device
        steps = (
            about["steps"] if given["num_inference_steps"] is None else given["num_inference_steps"]
        )
        weight = about["guidance"] if given["guidance_scale"] is None else given["guidance_scale"]
        prompts, labels = self.asked(about, given, num_images_per_prompt, steps)
        seeds = numbered(
            seeds,
            generator,
            latents,
            len(prompts or labels or [0] * num_images_per_prompt),
            num_images_per_prompt,
        )
        if generator is None and latents is None:
            generator = [torch.Generator().manual_seed(seed) for seed in seeds]
        cond, null = self.conditions(about, seeds, labels, prompts, device)
        times = about.get("timesteps")  # of a student of few steps
        if times and (steps != len(times) or weight != 1):
            raise ValueError(
                f"this student makes {len(times)} steps with its guidance inside: leave "
                "num_inference_steps and guidance_scale away"
            )
        how = {"timesteps": times} if times else {"num_inference_steps": steps}
        self.scheduler.set_timesteps(**how, device=device)
        if latents is None:
            latents = randn_tensor(
                (len(seeds), *about["shape"]),
                generator=generator,
                device=device,
                dtype=self.unet.dtype,
            )
        x = self.denoised(
            latents.to(device, self.unet.dtype) * self.scheduler.init_noise_sigma,
            cond,
            null,
            weight,
            generator,
        )
        picture = ((self.decode(x) / 2 + 0.5).clamp(0, 1)).permute(0, 2, 3, 1).float().cpu().numpy()
        images = self.numpy_to_pil(picture) if output_type == "pil" else picture
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def denoised(self, x: Tensor, cond: dict, null: dict, weight: float, generator: Any) -> Tensor:
        """The loop, from the scheduler's first noise to data."""
        takes = "generator" in inspect.signature(self.scheduler.step).parameters
        extra = {"generator": generator} if takes else {}
        for t in self.progress_bar(self.scheduler.timesteps):
            seen = self.scheduler.scale_model_input(x, t)
            out = self.predict(seen, t, cond)
            if cond and weight != 1:  # guidance on every channel (Ho & Salimans 2022, eq. 6)
                free = self.predict(seen, t, null)
                out = free + weight * (out - free)
            x = self.scheduler.step(out, t, x, **extra).prev_sample.to(x.dtype)
        return x

    def asked(
        self, about: dict, given: dict, images: int, steps: int
    ) -> tuple[list[str] | None, list[int] | None]:
        """Prompts and labels, each `images` times. ValueError for what cannot be."""
        for name, number in (("num_inference_steps", steps), ("num_images_per_prompt", images)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        prompts, labels = given["prompt"], given["class_labels"]
        if prompts is not None and self.text_encoder is None:
            raise ValueError("this model does not support captions: leave prompt away")
        if labels is not None and not about["classes"]:
            raise ValueError("this model has no classes: leave class_labels away")
        prompts = [prompts] if isinstance(prompts, str) else prompts
        labels = [labels] if isinstance(labels, int) else labels
        often = lambda values: (  # noqa: E731
            None if values is None else [v for v in values for _ in range(images)]
        )
        return often(prompts), often(labels)

    def conditions(
        self, about: dict, seeds: Sequence[int], labels: Any, prompts: Any, device: Any
    ) -> tuple[dict, dict]:
        """The condition, and the null condition that guidance leads away from."""
        cond, null, classes, count = {}, {}, len(about["classes"]), len(seeds)
        if classes:
            chosen = (
                [labels[i % len(labels)] for i in range(count)]
                if labels
                else [seed % classes for seed in seeds]
            )
            if not 0 <= min(chosen) <= max(chosen) < classes:
                raise ValueError(f"labels must be 0 ... {classes - 1}, got {chosen}")
            cond["class_labels"] = torch.tensor(chosen, device=device)
            null["class_labels"] = torch.full_like(cond["class_labels"], classes)
        if self.text_encoder is not None:
            chosen = prompts or about["prompts"]
            cond |= self.states(
                [chosen[i % len(chosen)] for i in range(count)], about["length"], device
            )
            null |= self.states([""] * count, about["length"], device)
        return cond, null

    def states(self, captions: Sequence[str], length: int, device: Any) -> dict[str, Tensor]:
        """Token states, 0 beyond a caption's end.

        The first is never masked; a 0 there is the empty caption.
        """
        dim = self.text_encoder.config.hidden_size
        states = torch.zeros(len(captions), length, dim, device=device, dtype=self.unet.dtype)
        mask = torch.arange(length, device=device).expand(len(captions), length) == 0
        for i, caption in enumerate(captions):
            if caption := " ".join(caption.split()):
                ids = self.tokenizer(caption, truncation=True, max_length=length)["input_ids"]
                states[i, : len(ids)] = self.text_encoder(
                    torch.tensor([ids], device=device)
                ).last_hidden_state[0]
                mask[i, : len(ids)] = True
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}

    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        h, w = (-side % json.loads(self.config.about)["factor"] for side in x.shape[-2:])
        wide = F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2), mode="replicate") if h or w else x
        return crop(self.unet(wide, t, **cond).sample, *x.shape[-2:])

    def decode(self, x: Tensor) -> Tensor:
        return (
            x
            if self.vae is None
            else crop(self.vae.decode(x).sample, *json.loads(self.config.about)["picture"][1:])
        )


OLD = {
    "prompts": "prompt",
    "labels": "class_labels",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
}


def renamed(given: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """The arguments, older names replaced. TypeError for an unknown name, or for both at once."""
    for name, value in old.items():
        if name not in OLD:
            raise TypeError(f"no argument '{name}': there are {', '.join([*given, *OLD])}")
        if given[OLD[name]] is not None:
            raise TypeError(f"{name} is the older name of {OLD[name]}: give one of the two")
        given[OLD[name]] = value
    return given


def numbered(seeds: Any, generator: Any, latents: Any, count: int, images: int) -> Sequence[int]:
    """A seed for each picture; its place where generators or latents are given.

    ValueError where the numbers disagree.
    """
    if seeds is not None and generator is not None:
        raise ValueError("the noise is of seeds or of a generator: give one of the two")
    rows = {len(noise) for noise in (seeds, latents) if noise is not None}
    if len(rows) > 1 or (rows and images > 1 and rows != {count}):
        raise ValueError(
            f"{count} pictures are asked for, "
            f"and noise for {', '.join(map(str, sorted(rows)))} is given"
        )
    count = rows.pop() if rows else count
    if isinstance(generator, list) and len(generator) != count:
        raise ValueError(
            f"a list of {len(generator)} generators for {count} pictures: one for each"
        )
    return range(count) if seeds is None else seeds


def crop(x: Tensor, height: int, width: int) -> Tensor:
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
