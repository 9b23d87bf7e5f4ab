"""The page: its parts for a checkpoint of pictures or of jets, and what its buttons call."""

import functools
import html
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gradio as gr

from ldm.config import AnySolver
from ldm.demo import editor
from ldm.demo.base import GUESS, STATE, Click, Kind, Shown
from ldm.demo.guarded import Page
from ldm.demo.kinds import KINDS
from ldm.demo.limits import Asked, Limits, apart
from ldm.errors import Refusal, printable
from ldm.sampling.model import Model

# fonts of the reader's own machine: Gradio's themes would fetch theirs
FONTS: dict[str, Any] = {
    "font": ["system-ui", "sans-serif"],
    "font_mono": ["ui-monospace", "monospace"],
}
CSS = """
.gradio-container {max-width: 1180px !important; margin: auto !important}
#samples img, #result img, #more img {object-fit: contain}
"""
THEME: dict[str, Any] = {"theme": gr.themes.Default(primary_hue="indigo", **FONTS), "css": CSS}
PICTURE: dict[str, Any] = {
    "format": "png",
    "interactive": False,
    "buttons": ["download", "fullscreen"],
}
IN_TURN = "each class in turn"


class Numbers(NamedTuple):
    """The settings that every kind of work takes, in the order of `Asked.of`."""

    solver: gr.Dropdown
    steps: gr.Slider
    guidance: gr.Slider
    seed: gr.Number
    many: gr.Slider


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


def build(model: Model, name: str, limits: Limits) -> gr.Blocks:
    """The page for one checkpoint."""
    title, kind = printable(name), KINDS[model.space.modality]
    kept_for = (600, 3600)
    with Page(
        limits, title=f"ldm: {title}", analytics_enabled=False, delete_cache=kept_for
    ) as page:
        gr.Markdown(f"# {html.escape(title)}\n{introduction(model)}")
        if not kind.edited:
            sample_tab(kind, model, name, limits)
        else:
            with gr.Tab("Sample"):
                made = sample_tab(kind, model, name, limits)
            with gr.Tab("Change a picture"):
                editor.tab(model, limits, made, functools.partial(numbers, model, limits), refusing)
    return page


def introduction(model: Model) -> str:
    """What the checkpoint is, for a stranger."""
    given = f", given one of {len(model.classes)} classes" if model.classes else ""
    given += ", given what to show in words" if model.text is not None else ""
    made = KINDS[model.space.modality].about(model)
    return f"A diffusion model of {made}, trained for {model.step:,} steps{given}."


def numbers(
    model: Model, limits: Limits, solver: str, count: int, *, opened: bool = True
) -> Numbers:
    """The controls of solver, steps, guidance, seed and count."""
    solvers = [kind.__name__ for kind in AnySolver.__args__]
    guided, settings = bool(model.classes) or model.text is not None, model.settings
    few, most = min(count, limits.count), limits.guidance
    with gr.Row():
        text = "of the first sample; the next ones count on"
        seed = gr.Number(0, label="Seed", info=text, precision=0, min_width=120)
        many = gr.Slider(1, limits.count, few, step=1, label="Samples", min_width=120)
    with gr.Accordion("How it is solved", open=opened):
        choice = gr.Dropdown(solvers, value=solver, label="Solver")
        steps = gr.Slider(1, limits.steps, min(settings.steps, limits.steps), step=1, label="Steps")
        text = "1: the model as it is; more: closer to the class or the words, less varied"
        start = min(settings.guidance, most)
        guidance = gr.Slider(0, most, start, step=0.1, label="Guidance", info=text, visible=guided)
    return Numbers(choice, steps, guidance, seed, many)


class Outputs(NamedTuple):
    """What a click on Sample shows."""

    picture: gr.Image
    status: gr.Markdown
    more: gr.Image
    command: gr.Textbox


def sample_tab(kind: Kind, model: Model, name: str, limits: Limits) -> gr.State:
    """Samples of seeds, classes and the like; the state that holds the last ones."""
    last, turn = gr.State(None), apart(IN_TURN, model.classes)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            shown_for = bool(model.classes)
            choices = [turn, *model.classes]
            label = gr.Dropdown(choices, value=turn, label="Class", visible=shown_for)
            control = kind.control(model, limits)
            asked = numbers(model, limits, type(model.settings.solver).__name__, kind.first)
            shown = gr.Radio([GUESS, STATE], value=GUESS, label="Show on the way")
            with gr.Row():
                go = gr.Button("Sample", variant="primary", elem_id="sample")
                stop = gr.Button("Stop", elem_id="stop")
        with gr.Column(scale=3, min_width=320):
            picture, status, line = results(kind)
    gr.Markdown(f"### {kind.heading}\n{kind.legend}")
    outputs = Outputs(picture, status, gr.Image(show_label=False, elem_id="more", **PICTURE), line)

    def sample(label: str, control: Any, shown: str, *numbers: Any) -> Iterator[tuple[Any, ...]]:
        chosen = None if label == turn else label
        click = Click(model, limits, Asked.of(limits, *numbers), chosen, control, shown, name)
        for at in kind.made(click):
            yield at.picture, at.status, at.more or gr.skip(), at.command or gr.skip(), kept(at)

    how: dict[str, Any] = {
        "concurrency_id": "model",
        "show_progress": "hidden",
        "api_name": "sample",
    }
    event = go.click(refusing(sample), [label, control, shown, *asked], [*outputs, last], **how)
    stop.click(None, cancels=[event], api_visibility="private")
    return last


def results(kind: Kind) -> tuple[gr.Image, gr.Markdown, gr.Textbox]:
    """The picture, what is said of it, and the same by sample.py."""
    style: dict[str, Any] = {} if kind.height is None else {"height": kind.height}
    text = "Press **Sample**: the picture appears out of noise, step by step."
    return (
        gr.Image(show_label=False, elem_id="samples", **style, **PICTURE),
        gr.Markdown(text, elem_id="status"),
        gr.Textbox(
            label="The same from the command line",
            interactive=False,
            buttons=["copy"],
            elem_id="command",
        ),
    )


def kept(at: Shown) -> Any:
    """The samples for the other tab, when they are finished."""
    return gr.skip() if at.samples is None else at.samples.numpy()
