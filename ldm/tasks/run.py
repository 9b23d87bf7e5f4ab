"""sample.py --task: from the command line to a folder of results."""

import dataclasses
from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ldm.checkpoints.checkpoint import find
from ldm.config import SampleConfig
from ldm.config.schema import to_dict
from ldm.diffusion import tasks
from ldm.diffusion.solvers import DPMpp2MSDE, Watch
from ldm.errors import Refusal, say
from ldm.sampling.folder import new_folder
from ldm.sampling.model import Model, restore
from ldm.sampling.prompts import prompts_from
from ldm.sampling.requests import Seeds, pick_device
from ldm.sampling.run import SampleRequest
from ldm.sampling.run import run as sample
from ldm.sampling.settings import Overrides
from ldm.tasks import solve
from ldm.tasks.cases import Case, Task, build, read
from ldm.tasks.output import Result, write


def batch(task: Task, prior: solve.Prior, cases: list[Case]) -> Tensor:
    """One sample for each row of cases."""
    given = torch.stack([case.given for case in cases]).to(prior.device)
    known = (
        torch.stack([case.known for case in cases]).to(prior.device)
        if task.name == "inpaint"
        else None
    )
    if task.method == "trained":
        return solve.trained(prior, given, known)
    if task.name == "inpaint":
        return solve.inpaint(prior, given, known, task.method, task.resamples)
    if task.name == "super-resolve":
        return solve.super_resolve(prior, given, task.factor, task.method)
    if task.name == "denoise":
        return solve.denoise(prior, given, cases[0].noise_std, task.method)
    return solve.edit(prior, given, task.strength)


@torch.no_grad()
def samples(
    task: Task,
    model: Model,
    settings: SampleConfig,
    cases: list[Case],
    seeds: list[int],
    label: int | None = None,
    prompts: list[str] | None = None,
    progress: Callable[[int], Any] = lambda n: None,
    watch: Watch | None = None,
) -> Tensor:
    """(len(cases), len(seeds), C, H, W) on the CPU: a sample is a function of its case, its seed and the seed's prompt.

    Rows of one noise level share a batch, and the last one is filled up by repeats, as when sampling without a task.
    `progress(n)` is told of every finished batch, `watch` of every step of the first.
    """
    rows = sorted(
        ((i, seed) for i in range(len(cases)) for seed in seeds),
        key=lambda row: cases[row[0]].noise_std,
    )
    done: dict[tuple[int, int], Tensor] = {}
    heard = dict(zip(seeds, prompts, strict=True)) if prompts else {}
    for _, group in groupby(rows, key=lambda row: cases[row[0]].noise_std):
        members = list(group)
        size = min(settings.batch_size, len(members))
        for start in range(0, len(members), size):
            part = members[start : start + size]
            filled = (part * size)[:size]
            told = [heard[seed] for _, seed in filled] if prompts else None
            prior = solve.Prior(model, settings, [seed for _, seed in filled], label, told, watch)
            watch = None
            made = batch(task, prior, [cases[i] for i, _ in filled]).cpu()
            done |= dict(zip(part, made, strict=False))
            progress(len(part))
    return torch.stack([torch.stack([done[i, seed] for seed in seeds]) for i in range(len(cases))])


@torch.no_grad()
def result(
    task: Task,
    model: Model,
    settings: SampleConfig,
    case: Case,
    made: Tensor,
    seeds: list[int],
    label: int | None = None,
    prompts: list[str] | None = None,
) -> Result:
    """A case and its samples, ready to be shown and written."""
    before = {"truth": case.truth} if case.truth is not None else {}
    if (
        task.name != "inpaint" or case.truth is None
    ):  # or the input, of which the mask shows what is used, is the truth
        before["input"] = case.given
    found = Result(
        case.name, before, made, seeds, made.mean(0) if len(made) > 1 else None, prompts=prompts
    )
    if task.name == "inpaint":
        before["mask"] = torch.where(case.known > 0, case.given, 1.0)
        if (
            task.method == "trained" or solve.kind(model) == "latent"
        ):  # otherwise the known pixels are met already
            found.samples, found.raw = solve.paste(made, case.given, case.known), made
            found.mean = found.samples.mean(0) if len(made) > 1 else None
    if task.name == "denoise":
        found.notes["noise_std"] = round(case.noise_std, 4)
        if task.method == "restore" and solve.kind(model) == "pixel":
            prior = solve.Prior(model, settings, [0], label, prompts and prompts[:1])
            found.mean = solve.denoised_mean(
                prior, case.given[None].to(prior.device), case.noise_std
            )[0].cpu()
    return found


@torch.no_grad()
def frames(
    model: Model,
    settings: SampleConfig,
    cases: list[Case],
    count: int,
    label: int | None,
    prompts: list[str] | None,
) -> Result:
    """The way from one picture to another, `count` frames with both ends."""
    weights = torch.linspace(0, 1, count).tolist()
    prior = solve.Prior(model, settings, [0], label, prompts and prompts[:1])
    ends = [case.given[None].to(prior.device) for case in cases]
    made = solve.interpolate(prior, *ends, weights, settings.batch_size).cpu()
    name, before = (
        f"{cases[0].name}-{cases[1].name}",
        {"from": cases[0].given, "to": cases[1].given},
    )
    told = prompts and prompts[:1] * len(made)
    return Result(name, before, made, list(range(len(made))), prompts=told, frames=True)


OPTIONS = ("factor", "noise_std", "strength", "resamples", "degrade")
MINE = ("image", "mask", "method", *OPTIONS)


def run(task: str | None, count: int | None, **args: Any) -> None:
    """sample.py: a task, or samples of nothing but seeds."""
    mine = {key: args.pop(key) for key in MINE}
    if task is not None:
        return run_task(task, 4 if count is None else count, **args, **mine)
    given = [key.replace("_", "-") for key in MINE if mine[key] is not None]
    if given:
        raise Refusal(
            f"--{given[0]} belongs to a task: add --task inpaint, super-resolve, denoise, edit or interpolate"
        )
    sample(SampleRequest.parse(args | {"count": count}))


def run_task(
    task: str,
    count: int,
    checkpoint: str,
    output: str,
    image: list[str] | None,
    mask: str | None,
    method: str | None,
    seed: int,
    label: str | None,
    weights: str,
    device: str | None,
    devices: int,
    trajectory: int = 0,
    prompt: str | None = None,
    prompt_file: str | None = None,
    constituents: str | None = None,
    jet: list[str] | None = None,
    **given: Any,
) -> None:
    """Everything from the command line to the folder of results."""
    Seeds(count, seed)
    if devices != 1:
        raise Refusal(
            "--devices: a task runs on one process; start several commands on parts of a folder"
        )
    if trajectory:
        raise Refusal("--trajectory draws samples of no task: leave --task out")
    if task == "interpolate":
        expect_flow(count, prompt_file, given)
    if constituents is not None or jet is not None:
        raise Refusal(
            f"--{'jet' if constituents is None else 'constituents'} is of jets, a task of pictures: leave one out"
        )
    if not image:
        raise Refusal(f"--task {task} needs --image FILE or --image FOLDER")
    device = pick_device(device)
    model = restore(checkpoint, weights, device)
    if model.space.modality == "jets":
        raise Refusal("--task: tasks are of pictures, this checkpoint makes clouds")
    asked = build(model, task, method, **{key: given.pop(key) for key in OPTIONS})
    settings = settings_of(model, asked, Overrides(**given))
    chosen = model.label(label) if label is not None else None
    seeds, told = list(range(seed, seed + count)), prompt is not None or prompt_file is not None
    prompts = (
        prompts_from(model, prompt, prompt_file, seeds) if told else None
    )  # untold otherwise, as the class is
    cases = read(model, asked, image, mask, seed)
    record = {
        "checkpoint": str(find(checkpoint)),
        "step": model.step,
        "weights": weights,
        "count": count,
    }
    record |= {"label": label, "prompts": prompts} | dataclasses.asdict(asked)
    keys = ("guidance", "interval", "rescale", "batch_size")
    how = f"{type(settings.solver).__name__}, {settings.steps} steps"
    if task == "interpolate":
        how = f"dopri5 to {solve.FLOW.rtol:g}"
        record |= {"solver": {"name": "dopri5", "rtol": solve.FLOW.rtol, "atol": solve.FLOW.atol}}
    else:
        record |= {"seed": seed}
        keys += ("solver", "steps", "grid")
    say(f"{checkpoint}: step {model.step}, {task} by {asked.method}, {how}")
    with new_folder(output) as folder:
        if task == "interpolate":
            results = [frames(model, settings, cases, count, chosen, prompts)]
        else:
            with tqdm(total=len(cases) * count, desc=task, unit="image") as bar:
                made = samples(asked, model, settings, cases, seeds, chosen, prompts, bar.update)
            pairs = zip(cases, made, strict=True)
            results = [
                result(asked, model, settings, *pair, seeds, chosen, prompts) for pair in pairs
            ]
        write(folder, results, record | {key: to_dict(settings)[key] for key in keys})
    say(f"wrote {sum(len(r.samples) for r in results)} results and panel.png to {folder}/")


def expect_flow(count: int, prompt_file: str | None, given: dict[str, Any]) -> None:
    """Refusal of what cannot be between two pictures, and a line of what is not heard there."""
    if count < 2:
        raise Refusal("--count: the way between two pictures has two ends; give at least 2 frames")
    if prompt_file is not None:
        raise Refusal("--prompt-file: all of --task interpolate hears one prompt, --prompt TEXT")
    unheard = [
        key
        for key in ("solver", "solver_option", "eta", "steps", "grid")
        if given.get(key) is not None
    ]
    if unheard:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in unheard)
        say(
            f"{flags}: not heard, --task interpolate follows the flow by an adaptive solver of its own"
        )


def settings_of(model: Model, task: Task, given: Overrides) -> SampleConfig:
    """The checkpoint's settings, with a stochastic solver unless one is named: by a deterministic one all seeds of a noisy
    picture would give the same. Refusal if the solver cannot run on the schedule or be taken twice."""
    schedule = model.denoiser.schedule
    defaults = dataclasses.replace(model.settings, solver=DPMpp2MSDE())
    settings = given.over(defaults, schedule)
    try:
        if task.method == "repaint":
            tasks.Repaint(settings.solver, task.resamples)
        settings.solver.bind(schedule, schedule.grid(settings.steps, settings.grid))
    except ValueError as error:
        raise Refusal(f"sample: {error}") from None
    return settings
