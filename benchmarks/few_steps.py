"""Pictures a second of a student of few steps, over its teacher's by default and over diffusers'.

python -m benchmarks.few_steps --student checkpoints/fashion-few --teacher checkpoints/fashion-latent

Timed in turn: the student and the teacher, each with its checkpoint's own settings, and the student
exported by `ldm.export`, in diffusers with the scheduler that its folder has. Student and export
start from the same noise, and their pictures are compared. What each picture is worth,
`evaluate.py` says.
"""

import tempfile
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from benchmarks.clock import arguments, in_turn, line, ratio, start, write
from ldm.diffusion.solvers import start as prior
from ldm.export.folder import export
from ldm.sampling.generate import generate
from ldm.sampling.model import Model, restore
from ldm.system.randomness import SampleNoise


def exported(checkpoint: str, device: str) -> Any:
    """The folder's pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        export(checkpoint, f"{folder}/out")
        pipe = DiffusionPipeline.from_pretrained(f"{folder}/out", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def noise_of(model: Model, batch: int, device: str) -> torch.Tensor:
    """What seeds 0 ... batch - 1 start from."""
    randn = SampleNoise(range(batch), model.space.shape, torch.device(device))
    return prior(model.schedule, torch.ones((), dtype=torch.float64), randn())


def main() -> None:
    parser = arguments(__doc__, rounds=7, steps=0)
    parser.add_argument("--student", required=True, metavar="CKPT")
    parser.add_argument("--teacher", required=True, metavar="CKPT")
    parser.add_argument("--batch", type=int, default=64)
    args = start(parser)
    student, teacher = (
        restore(which, device=args.device) for which in (args.student, args.teacher)
    )
    pipe, labels = exported(args.student, args.device), list(range(len(student.classes)))

    def ours(model: Model) -> np.ndarray:
        settings = replace(model.settings, batch_size=args.batch)
        return generate(model, settings, range(args.batch)).numpy()

    def theirs() -> np.ndarray:
        noise = noise_of(student, args.batch, args.device)
        seen = [labels[i % len(labels)] for i in range(args.batch)] if labels else None
        images = pipe(latents=noise, class_labels=seen, output_type="np").images
        return np.round(255 * images).transpose(0, 3, 1, 2)

    apart = np.abs(ours(student) - theirs())
    print(f"largest difference of the pictures {apart.max():g} of 255, mean {apart.mean():.4f}")
    works = {
        "student": lambda: ours(student),
        "teacher": lambda: ours(teacher),
        "diffusers": theirs,
    }
    times = in_turn(works, args.rounds, args.device)
    rates = {name: args.batch / min(spans) for name, spans in times.items()}
    print("pictures/s, best: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()))
    found = {
        "pictures/s over the teacher's": ratio(times["teacher"], times["student"]),
        "pictures/s over diffusers'": ratio(times["diffusers"], times["student"]),
    }
    line("pictures/s over the teacher's", found["pictures/s over the teacher's"], "15")
    line("pictures/s over diffusers'", found["pictures/s over diffusers'"], "1.0")
    most = float(apart.max())
    write(args, ratios=found, seconds=times, pictures_per_second=rates, largest_difference=most)


if __name__ == "__main__":
    main()
