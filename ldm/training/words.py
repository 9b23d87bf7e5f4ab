"""What a user reads of a plan."""

from collections.abc import Iterator, Sequence

from ldm.config import RunConfig
from ldm.system.progress import span
from ldm.training.arithmetic import SHARE, TRAINED, activations, hours_on_h100, work
from ldm.training.boards.loggers import where_shown
from ldm.training.legs import Leg
from ldm.training.machine import on_gpu, precision, strategy, world_size
from ldm.training.stage import Stage

GPUS_ALONE = 3600.0  # seconds on H100s that are weeks on a CPU


def describe_plan(legs: Sequence[Leg], dry: bool = False, for_cpu: str | None = None) -> str:
    """The plan in words, of every stage that it trains; in a dry run with its arithmetic.

    `for_cpu`: the config that does the same on a CPU, named where there is no GPU.
    """
    parts = []
    for number, leg in enumerate(legs, 1):
        head = [f"stage      {number} of {len(legs)}"] if len(legs) > 1 else []
        parts.append("\n".join([*head, *_lines(leg, dry, for_cpu is not None)]))
    if for_cpu and not on_gpu(legs[-1].run.trainer):
        parts[-1] += f"\nnote       this config is for a GPU; {for_cpu} is made for a CPU"
    return "\n\n".join(parts)


def _lines(leg: Leg, dry: bool, for_gpus: bool) -> Iterator[str]:
    run, images = leg.run, leg.images
    yield f"run        {run.name} ({leg.module.describe()})"
    yield from leg.notes()
    yield (
        f"data       {type(run.data).__name__}: {len(images.train)} training, "
        f"{len(images.test)} held out, {tuple(images.shape)}, {len(images.classes)} classes"
    )
    yield f"network    {_size(leg.module)}"
    yield from _work(leg)
    if leg.start is not None:
        yield f"resume     from step {leg.state['global_step']}: {leg.start}"
    if dry:
        yield from _arithmetic(leg, for_gpus)
    yield f"output     {run.folder}/"
    yield from where_shown(run)
    yield from _slow_start(run)
    if leg.refused:
        yield f"note       as it stands: {leg.refused}"


def _size(module: Stage) -> str:
    """Memory: weights, gradients, two moments and the average; a frozen stage 1's weights."""
    count = sum(p.numel() for p in module.net.parameters())
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    held = count * 4 * (4 + bool(module.ema)) + 4 * frozen
    memory = f"{held / 1e9:.2f} GB for weights, gradients, optimiser, average"
    return f"{count / 1e6:.2f} M parameters; {memory}"


def _slow_start(run: RunConfig) -> Iterator[str]:
    """A warm-up that the run does not outlast."""
    warmup, steps = run.optim.warmup, run.trainer.max_steps
    if warmup >= steps:
        why = f"optim.warmup={warmup} is not below trainer.max_steps={steps}"
        never = f"the learning rate never reaches {run.optim.lr:g}"
        yield f"note       {never}: {why}; optim.warmup={steps // 10} would do"


def _arithmetic(leg: Leg, for_gpus: bool) -> Iterator[str]:
    """docs/scale.md has the formulas and what they assume.

    The time on H100s is of no use beside a CPU, unless the config is for GPUs.
    """
    batch, steps = leg.run.data.batch_size, leg.run.trainer.max_steps
    held = activations(leg.module)
    yield f"memory     {held / 1e9:.3g} GB for the activations of {batch} rows in float32"
    step = work(leg.module)
    seconds = 3600 * hours_on_h100(step, steps)
    shown = for_gpus or seconds >= GPUS_ALONE or on_gpu(leg.run.trainer)
    counted = f"{step / 1e12:.3g} TFLOP a step and device, {TRAINED} x forward"
    time = f"; {steps} steps are {span(seconds)} on H100s at {SHARE:.0%} of their peak"
    yield f"work       {counted}{time * shown}"


def _work(leg: Leg) -> Iterator[str]:
    run, settings, size = leg.run, leg.run.trainer, leg.run.data.batch_size
    world, steps = world_size(settings), settings.max_steps
    batch = size * settings.accumulate * world
    shares = f"{size} a device x {world} devices x {settings.accumulate} accumulated"
    yield f"batch      {batch} = {shares}; lr {run.optim.lr:g}"
    yield f"length     {steps} steps = {steps * batch / len(leg.images.train):.1f} epochs"
    device = "GPU" if on_gpu(settings) else "CPU"
    yield f"device     {world} x {device}, {precision(settings)}, strategy {strategy(run)}"
