"""What a user reads of a plan."""

from collections.abc import Iterator, Sequence

import torch

from ldm.system.progress import span
from ldm.training.arithmetic import SHARE, TRAINED, activations, hours_on_h100, work
from ldm.training.boards.loggers import where_shown
from ldm.training.legs import Leg
from ldm.training.machine import precision, strategy, world_size
from ldm.training.stage import Stage


def describe_plan(legs: Sequence[Leg], dry: bool = False) -> str:
    """The plan in words, of every stage that it trains; in a dry run with its arithmetic."""
    parts = []
    for number, leg in enumerate(legs, 1):
        head = [f"stage      {number} of {len(legs)}"] if len(legs) > 1 else []
        parts.append("\n".join([*head, *_lines(leg, dry)]))
    return "\n\n".join(parts)


def _lines(leg: Leg, dry: bool) -> Iterator[str]:
    run, images = leg.run, leg.images
    yield f"run        {run.name} ({leg.module.describe()})"
    yield from leg.notes()
    yield (
        f"data       {type(run.data).__name__}: {len(images.train)} training, "
        f"{len(images.test)} held out, {tuple(images.shape)}, {len(images.classes)} classes"
    )
    yield f"network    {_size(leg.module)}"
    yield from _work(leg)
    if dry:
        yield from _arithmetic(leg)
    yield f"output     {run.folder}/"
    yield from where_shown(run)
    if leg.refused:
        yield f"note       as it stands: {leg.refused}"


def _size(module: Stage) -> str:
    """Memory: weights, gradients, two moments and the average; a frozen stage 1's weights."""
    count = sum(p.numel() for p in module.net.parameters())
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    held = count * 4 * (4 + bool(module.ema)) + 4 * frozen
    memory = f"{held / 1e9:.2f} GB for weights, gradients, optimiser, average"
    return f"{count / 1e6:.2f} M parameters; {memory}"


def _arithmetic(leg: Leg) -> Iterator[str]:
    """docs/scale.md has the formulas and what they assume."""
    batch, steps = leg.run.data.batch_size, leg.run.trainer.max_steps
    held = activations(leg.module)
    yield f"memory     {held / 1e9:.3g} GB for the activations of {batch} rows in float32"
    step = work(leg.module)
    time = span(3600 * hours_on_h100(step, steps))
    counted = f"{step / 1e12:.3g} TFLOP a step and device, {TRAINED} x forward"
    yield f"work       {counted}; {steps} steps are {time} on H100s at {SHARE:.0%} of their peak"


def _work(leg: Leg) -> Iterator[str]:
    run, settings, size = leg.run, leg.run.trainer, leg.run.data.batch_size
    world, steps = world_size(settings), settings.max_steps
    batch = size * settings.accumulate * world
    shares = f"{size} a device x {world} devices x {settings.accumulate} accumulated"
    yield f"batch      {batch} = {shares}; lr {run.optim.lr:g}"
    yield f"length     {steps} steps = {steps * batch / len(leg.images.train):.1f} epochs"
    device = "GPU" if torch.cuda.is_available() and settings.accelerator != "cpu" else "CPU"
    yield f"device     {world} x {device}, {precision(settings)}, strategy {strategy(run)}"
