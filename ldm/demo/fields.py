"""Fields and buttons that both tabs have, and how what they cannot do is said."""

import functools
import html
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ldm.demo.base import Site
from ldm.demo.limits import Asked, new_seed
from ldm.demo.links import solvers_of
from ldm.errors import Refusal

PICTURE: dict[str, Any] = {
    "format": "png",
    "interactive": False,
    "buttons": ["download", "fullscreen"],
}
# of events that do not wait for the model; they are queued too, as the way past it is closed
QUICK: dict[str, Any] = {
    "concurrency_id": "quick",
    "concurrency_limit": 4,
    "show_progress": "hidden",
    "api_visibility": "private",
}
ARRIVES = 0.5  # s, in which a step's message that is under way reaches the browser
WAITING = "**Waiting** for the model …"
NOT_DONE = "**Not done**: see the message."
IDLE = "Nothing is being made."


@dataclass(frozen=True)
class Numbers:
    """The settings that every kind of work takes."""

    solver: gr.Dropdown
    steps: gr.Slider
    guidance: gr.Slider
    seed: gr.Number
    fresh: gr.Checkbox
    count: gr.Slider

    @property
    def inputs(self) -> list[Any]:
        """In the order of `asked`."""
        return [self.solver, self.steps, self.guidance, self.seed, self.count, self.fresh]


def asked(site: Site, numbers: Sequence[Any]) -> Asked:
    """The numbers of a click, checked: solver, steps, guidance, seed, count, new seed or not."""
    *five, fresh = numbers
    if not isinstance(fresh, bool):
        raise Refusal("new seed: it is neither on nor off")
    if fresh:
        five[3] = new_seed()
    return Asked.of(site.limits, *five)


def number_fields(site: Site, solver: str, count: int, *, opened: bool = True) -> Numbers:
    """The controls of seed, count, steps, guidance and solver."""
    model, limits = site.model, site.limits
    settings = model.settings
    guided = (bool(model.classes) or model.text is not None) and not settings.solver.few
    few, most = min(count, limits.count), limits.guidance
    with gr.Row():
        text = "of the first sample; the next ones count on"
        seed = gr.Number(0, label="Seed", info=text, precision=0, min_width=120)
        many = gr.Slider(1, limits.count, few, step=1, label="Samples", min_width=120)
    text = "each run takes a new seed; off: the seed above again"
    fresh = gr.Checkbox(True, label="New seed", info=text)
    with gr.Accordion("Solver, steps and guidance", open=opened):
        choice = gr.Dropdown(solvers_of(model), value=solver, label="Solver")
        steps = gr.Slider(1, limits.steps, min(settings.steps, limits.steps), step=1, label="Steps")
        text = "1: the model as it is; more: closer to the class or the words, less varied"
        start = min(settings.guidance, most)
        guidance = gr.Slider(0, most, start, step=0.1, label="Guidance", info=text, visible=guided)
    return Numbers(choice, steps, guidance, seed, fresh, many)


def buttons(go: str, name: str) -> tuple[gr.Button, gr.Button]:
    """The one that starts, and Stop."""
    with gr.Row():
        start = gr.Button(go, variant="primary", elem_id=name, min_width=120)
        stop = gr.Button("Stop", elem_id=f"stop-{name}", min_width=80)
    return start, stop


def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A Refusal becomes one line on the page; flags of sample.py are named without their dashes.
    For generators."""

    @functools.wraps(function)
    def called(*args: Any) -> Iterator[Any]:
        try:
            yield from function(*args)
        except Refusal as error:
            line = re.sub(r"--([a-z])", r"\1", " ".join(str(error).split()))
            raise gr.Error(
                html.escape(line, quote=False), print_exception=False, title="This cannot be done"
            ) from None

    return called


def ended(way: tuple[int, int] | None, kept: str) -> tuple[str, None]:
    """What Stop says of a run that was `way` on its way, and that none is under way.

    Said after the run's own last message, which would otherwise take its place.
    """
    time.sleep(ARRIVES)
    if way is None:
        return f"**Stopped**. {IDLE}", None
    return f"**Stopped** at step {way[0]} of {way[1]}. {kept}", None


def stopping(
    stop: gr.Button, runs: list[Any], way: gr.State, status: gr.Markdown, kept: str
) -> None:
    """A click on `stop` ends `runs`, and then says so in `status`.

    In two events: a page sends the events of one click one after the other, each when the last has
    ended, and those that cancel come last. Ending and saying in one event would let the run go on
    until all was said.
    """
    cancelled = stop.click(None, cancels=runs)
    cancelled.then(functools.partial(ended, kept=kept), [way], [status, way], **QUICK)
