"""What diffusion is for, from any checkpoint of pictures: one class a task, listed here.

base: what every task has. prior: a model as the prior of a task. inputs, cases: files to pictures.
output: folders and panels. request: what is asked by sample.py --task, and its run.
"""

from collections.abc import Mapping
from typing import Any

from ldm.errors import Refusal, one_of
from ldm.tasks.base import TRAINED, Task
from ldm.tasks.denoising import Denoising
from ldm.tasks.editing import Editing
from ldm.tasks.inpainting import InPainting
from ldm.tasks.interpolation import Interpolation
from ldm.tasks.options import Flag, flags
from ldm.tasks.super_resolution import SuperResolution

TASKS: tuple[type[Task], ...] = (
    InPainting,
    SuperResolution,
    Denoising,
    Editing,
    Interpolation,
)


def task_named(name: str) -> type[Task]:
    """The task of this name; Refusal where there is none."""
    found = {task.name: task for task in TASKS}
    if name not in found:
        raise Refusal(one_of("task", name, found))
    return found[name]


def every_flag() -> dict[Flag, list[str]]:
    """The options of all tasks, each once, and whose they are; an empty list: everyone's."""
    common = flags(Task)
    found: dict[Flag, list[str]] = {}
    for task in TASKS:
        for flag in flags(task):
            found.setdefault(flag, []).extend([] if flag in common else [task.name])
    return found


def every_method() -> str:
    """The methods of all tasks, and that of a model trained for one."""
    ways = {task.name: [one for of in task.methods.values() for one in of] for task in TASKS}
    listed = (f"{name}: {', '.join(dict.fromkeys(of))}" for name, of in ways.items())
    return f"{'; '.join(listed)}; {TRAINED}: by a model trained for the task"


def without_task(words: Mapping[str, Any]) -> None:
    """Refusal of what sample.py was given that is a task's, where none is named."""
    names = ["image", "mask", *(flag.name for flag in every_flag())]
    if given := [name for name in names if words.get(name) is not None]:
        *most, last = [task.name for task in TASKS]
        raise Refusal(
            f"--{given[0].replace('_', '-')} belongs to a task: add --task {', '.join(most)} "
            f"or {last}"
        )


def tasks_table() -> str:
    """The tasks for the docs, in Markdown."""
    lines = ["| `--task` | what it does | `--method`: in pixels; in latents | its own flags |"]
    lines.append("|---|---|---|---|")
    common = flags(Task)
    for task in TASKS:
        ways = "; ".join(", ".join(f"`{one}`" for one in of) for of in task.methods.values())
        own = [f"`{flag.text}`: {flag.help}" for flag in flags(task) if flag not in common]
        needs = ["`--mask`"] if task.mask else []
        needs += [f"`--image` {task.pictures} times"] if task.pictures > 1 else []
        lines.append(f"| `{task.name}` | {task.about} | {ways} | {'; '.join(needs + own)} |")
    return "\n".join(lines)
