"""Whether all that a checkpoint holds fits the run that is to go on from it.

Lightning and PyTorch find out while they load: by a traceback, or, where a size broadcasts and no
one looks at a type, not at all. Here it is one line, before anything is changed.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.checkpoints.weights import expect_arrays, expect_fit
from ldm.errors import Refusal, out_of_memory
from ldm.system.ranks import first_of_node
from ldm.training.saving import Checkpoints
from ldm.training.stage import Stage
from ldm.training.watching import DiscriminatorBalance

State = Mapping[str, Any]
LIGHTNING = re.compile(r"([2-9]|[1-9]\d+)(\.\d+)*((a|b|rc|\.dev|\.post)\d+)*(\+\w+)?")  # versions

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, of each parameter
SET = ("betas", "eps", "weight_decay", "amsgrad", "maximize")  # by the config, and as they were
# what callbacks keep: ours, and Lightning's of trainer.options.max_time
KEPT: dict[str, Mapping[str, tuple[type, ...]]] = {
    "Checkpoints": Checkpoints.kept,
    "DiscriminatorBalance": DiscriminatorBalance.kept,
    "Timer": {"time_elapsed": (dict,)},
}


def expect_state(module: Stage, state: State, file: Path, trainer: pl.Trainer) -> None:
    """Refusal with the first that does not fit a new module, or a new Trainer's counters.

    The first process of a machine looks for all.
    """
    if not first_of_node():
        return
    try:
        _expect_meta(state)
        _expect_counters(module, state, trainer)
        _expect_callbacks(state["callbacks"])
        expect_fit(module, _without_guide(state["state_dict"]), "its weights")
        _expect_averages(module, state["ldm"]["ema"])
        _expect_optimizers(module, state)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a stranger's file may hold anything
        if out_of_memory(error):
            raise
        known = isinstance(error, Refusal | ValueError)
        why = str(error) if known else f"it is malformed ({type(error).__name__}: {error})"
        raise Refusal(f"--resume: {file} does not fit this run: {why}; {_advice(file)}") from error


def _advice(file: Path) -> str:
    others = (file.with_name(f"{name}.ckpt") for name in ("last", "previous", "best"))
    there = [other.name for other in others if other != file and other.exists()]
    away = f"move it away to go on from {' or '.join(there)}, or " if there else ""
    return f"{away}name=OTHER starts another run"


def _without_guide(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if not key.startswith("guide.")}


def _expect(holds: object, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _counted(value: object, least: int = 0) -> bool:
    return type(value) is int and value >= least


def _expect_meta(state: State) -> None:
    meta, version = state["ldm"], state.get("pytorch-lightning_version")
    known = isinstance(version, str) and LIGHTNING.fullmatch(version)
    _expect(known, f"it says that Lightning {version!r:.40} wrote it")
    skipped, text = meta.get("skipped", 0), meta.get("text")
    _expect(_counted(skipped), f"its number of skipped steps is {skipped!r:.40}")
    _expect(text is None or isinstance(text, dict), f"its text encoder is {text!r:.40}")
    schedulers = len(state["lr_schedulers"])
    _expect(not schedulers, f"it has the state of {schedulers} learning rate schedulers, not of 0")


def _expect_counters(module: Stage, state: State, trainer: pl.Trainer) -> None:
    """Lightning's counters are counts, and their step is the checkpoint's."""
    loop, found = trainer.fit_loop, state["loops"]["fit_loop"]
    loaders = found["state_dict"].get("combined_loader", [])
    fits = isinstance(loaders, list) and all(isinstance(one, dict) for one in loaders)
    _expect(fits and len(loaders) <= 1, "its place in the data is not that of one loader")
    for key, made in loop.state_dict().items():
        if key != "state_dict":
            _expect(key in found, f"it lacks the counter {key}")
            _expect_counts(found[key], made, key)
    by_hand = found["epoch_loop.manual_optimization.optim_step_progress"]
    by_itself = found["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    done = (by_itself if module.automatic_optimization else by_hand)["total"]["completed"]
    step = state["global_step"]
    _expect(done == step, f"its optimiser has made {done} steps, and it says {step}")


def _expect_counts(found: Any, made: Any, name: str) -> None:
    """Nested counts as Lightning makes them; a count that it had not yet may be missing."""
    if not isinstance(made, dict):
        fits = type(found) is type(made) and found >= 0
        return _expect(fits, f"its counter {name} is {found!r:.40}")
    _expect(isinstance(found, dict), f"its counter {name} is {found!r:.40}")
    for key, value in found.items():
        _expect(key in made, f"its counter {name} has {key!r:.40}, which is none of Lightning's")
        _expect_counts(value, made[key], f"{name}.{key}")
    lacks = [key for key, value in made.items() if isinstance(value, dict) and key not in found]
    _expect(not lacks, f"its counter {name} lacks {lacks[:1]}")


def _expect_callbacks(states: State) -> None:
    for name, found in states.items():
        _expect(isinstance(name, str), f"a callback is called {name!r:.40}")
        for key, kinds in KEPT.get(name, {}).items():
            _expect(isinstance(found, dict), f"the state of callback {name} is {found!r:.40}")
            value = found.get(key, ...)
            fits = isinstance(value, kinds) and not (float in kinds and isinstance(value, bool))
            shown = "missing" if value is ... else f"{value!r:.40}"
            _expect(fits, f"{key} of callback {name} is {shown}")
            inside = value.values() if isinstance(value, dict) else value
            for one in inside if isinstance(value, list | dict) else ():
                _expect(type(one) in (int, float), f"{key} of callback {name} has {one!r:.40}")


def _expect_averages(module: Stage, found: State | None) -> None:
    if module.ema is None:
        return
    if found is None:
        raise ValueError("it has no averaged weights, and this run keeps some")
    _expect(_counted(found.get("updates")), "its averages have no number of updates")
    for name, shadow, held in module.ema.pairs(found):
        expect_arrays(shadow, held, f"its average {name}")


# -- optimisers ------------------------------------------------------------------------------------
def _expect_optimizers(module: Stage, state: State) -> None:
    made: Any = module.configure_optimizers()
    optimizers: list[Optimizer] = made if isinstance(made, list) else [made]
    found, begun = state["optimizer_states"], module.stepped(state["global_step"])
    have = f"it has the state of {len(found)} optimisers, this run has {len(optimizers)}"
    _expect(len(found) == len(optimizers), have)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for optimizer, held, stepped in zip(optimizers, found, begun, strict=True):
        pairs = dict(_pairs(optimizer, held))
        unknown = held["state"].keys() - pairs.keys()
        _expect(not unknown, f"its optimiser knows a parameter {[*unknown][:1]} that is not there")
        if stepped or held["state"]:
            _expect_moments({key: (names[id(p)], p) for key, p in pairs.items()}, held["state"])


def _pairs(optimizer: Optimizer, held: State) -> Iterator[tuple[int, nn.Parameter]]:
    """The numbers that a state gives parameters, and the parameters; of groups that fit."""
    made, found = optimizer.param_groups, held["param_groups"]
    have = f"its optimiser has {len(found)} groups of parameters, this run {len(made)}"
    _expect(len(found) == len(made), have)
    for group, one in zip(made, found, strict=True):
        sizes = len(one["params"]), len(group["params"])
        _expect(sizes[0] == sizes[1], "its optimiser has {} parameters, not {}".format(*sizes))
        twice = len({*one["params"]}) < sizes[0]
        _expect(not twice, "its optimiser has a parameter twice")
        lr = one["lr"]
        _expect(
            isinstance(lr, float) and 0 <= lr < float("inf"), f"its learning rate is {lr!r:.40}"
        )
        for key in sorted(group.keys() & SET):
            here, there = group[key], one.get(key)
            same = here == (tuple(there) if isinstance(there, list) else there)
            _expect(same, f"its optimiser has {key} {there!r:.40}, not {here}")
        for key in sorted(group.keys() - {"lr", "params", *SET}):  # how it computes
            known = one.get(key) in (None, True, False)
            _expect(known, f"its optimiser has {key} {one.get(key)!r:.40}")
        yield from zip(one["params"], group["params"], strict=True)


def _expect_moments(
    parameters: dict[int, tuple[str, nn.Parameter]], held: Mapping[int, Any]
) -> None:
    expected: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    for number, (name, parameter) in parameters.items():
        _expect(number in held, f"its optimiser has no state of {name}")
        one = held[number]
        for key in MOMENTS:
            expected[f"{name}: {key}"] = parameter
            found |= {f"{name}: {key}": one[key]} if key in one else {}
        step = torch.as_tensor(one["step"])
        _expect(
            step.numel() == 1 and 0 <= float(step) < float("inf"),
            f"its optimiser has no number of steps for {name}",
        )
    expect_arrays(expected, found, "its optimiser", "state")
    for name, moment in found.items():
        negative = name.endswith("_sq") and bool((moment < 0).any())
        _expect(not negative, f"its optimiser: state '{name}' has numbers below 0")
