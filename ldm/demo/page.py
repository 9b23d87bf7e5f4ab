"""The page: what is on it for a checkpoint of pictures or of jets, and which function each button calls."""

import functools
import html
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gradio as gr

from ldm.config import AnySolver
from ldm.demo import editor
from ldm.demo.guarded import Page
from ldm.demo.jets import jets
from ldm.demo.limits import Limits, apart
from ldm.demo.samples import GUESS, STATE, Shown, pictures
from ldm.errors import Refusal, printable
from ldm.sampling.model import Model
from ldm.tasks import solve
from ldm.tasks.cases import image_shape

# fonts of the reader's own machine: Gradio's themes would fetch theirs
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
CSS = """
.gradio-container {max-width: 1180px !important; margin: auto !important}
#samples img, #result img, #more img {object-fit: contain}
"""
THEME = {"theme": gr.themes.Default(primary_hue="indigo", **FONTS), "css": CSS}
PICTURE = {"format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
IN_TURN = "each class in turn"
LEGEND = {
    False: "The first two samples over time, three rows each. *First row*: from the finished picture to noise, as in training. "
    "*Second*: the way back, x_t, from noise to the picture. *Third*: x̂₀, what the model took x_t for at that moment.",
    True: "Histograms of every jet of the last click, where the panels above show the first few, a disc a constituent, "
    "its area the share of the jet's momentum.",
}


class Numbers(NamedTuple):
    """The settings that every kind of work takes, in the order of `Asked.of`."""

    solver: gr.Dropdown
    steps: gr.Slider
    guidance: gr.Slider
    seed: gr.Number
    count: gr.Slider


def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A Refusal becomes one line on the page; flags of sample.py are named without their dashes. For generators."""

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
    clouds = model.space.modality == "jets"
    with Page(
        limits, title=f"ldm: {printable(name)}", analytics_enabled=False, delete_cache=(600, 3600)
    ) as page:
        gr.Markdown(f"# {html.escape(printable(name))}\n{about(model)}")
        if clouds:
            sample_tab(model, name, limits, jets)
        else:
            with gr.Tab("Sample"):
                made = sample_tab(model, name, limits, pictures)
            with gr.Tab("Change a picture"):
                editor.tab(model, limits, made, functools.partial(numbers, model, limits), refusing)
    return page


def about(model: Model) -> str:
    """What the checkpoint is, for a stranger."""
    trained = f"trained for {model.step:,} steps"
    told = f", told one of {len(model.classes)} classes" if model.classes else ""
    told += ", told what to show in words" if model.text is not None else ""
    if model.space.modality == "jets":
        return f"A diffusion model of jets with up to {model.space.shape[0]} constituents, {trained}{told}."
    channels, height, width = image_shape(model)
    colour = "grey" if channels == 1 else "colour"
    shape = " x ".join(map(str, model.space.shape))
    where = (
        f", in latents of {shape}"
        if solve.kind(model) == "latent"
        else ", in the pixels themselves"
    )
    return f"A diffusion model of {colour} pictures of {width} x {height} pixels{where}, {trained}{told}."


def numbers(model: Model, limits: Limits, solver: str, count: int, opened: bool = True) -> Numbers:
    """The controls of solver, steps, guidance, seed and count."""
    solvers = [kind.__name__ for kind in AnySolver.__args__]
    guided = bool(model.classes) or model.text is not None
    settings = model.settings
    text = "1: the model as it is; more: closer to the class or the words, less varied"
    with gr.Row():
        seed = gr.Number(
            0,
            label="Seed",
            info="of the first sample; the next ones count on",
            precision=0,
            min_width=120,
        )
        many = gr.Slider(
            1, limits.count, min(count, limits.count), step=1, label="Samples", min_width=120
        )
    with gr.Accordion("How it is solved", open=opened):
        choice = gr.Dropdown(solvers, value=solver, label="Solver")
        steps = gr.Slider(1, limits.steps, min(settings.steps, limits.steps), step=1, label="Steps")
        most = limits.guidance
        guidance = gr.Slider(
            0,
            most,
            min(settings.guidance, most),
            step=0.1,
            label="Guidance",
            info=text,
            visible=guided,
        )
    return Numbers(choice, steps, guidance, seed, many)


def sample_tab(
    model: Model, name: str, limits: Limits, make: Callable[..., Iterator[Shown]]
) -> gr.State:
    """Samples of nothing but seeds; the state that holds the last ones."""
    clouds, last, turn = make is jets, gr.State(None), apart(IN_TURN, model.classes)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            label = gr.Dropdown(
                [turn, *model.classes], value=turn, label="Class", visible=bool(model.classes)
            )
            if clouds:
                most = model.space.shape[0]
                words = gr.Slider(
                    0,
                    most,
                    0,
                    step=1,
                    label="Constituents",
                    info="of every jet; 0: as many as in training",
                )
            else:
                words = gr.Textbox(
                    label="Prompt",
                    lines=2,
                    placeholder="what to show; empty: some captions of the data",
                    max_length=limits.prompt,
                    visible=model.text is not None,
                )
            asked = numbers(
                model, limits, type(model.settings.solver).__name__, 200 if clouds else 9
            )
            shown = gr.Radio([GUESS, STATE], value=GUESS, label="Show on the way")
            with gr.Row():
                go = gr.Button("Sample", variant="primary", elem_id="sample")
                stop = gr.Button("Stop", elem_id="stop")
        with gr.Column(scale=3, min_width=320):
            style = {} if clouds else {"height": 470}
            picture = gr.Image(show_label=False, elem_id="samples", **style, **PICTURE)
            status = gr.Markdown(
                "Press **Sample**: the picture appears out of noise, step by step.",
                elem_id="status",
            )
            line = gr.Textbox(
                label="The same from the command line",
                interactive=False,
                buttons=["copy"],
                elem_id="command",
            )
    gr.Markdown(f"### {'All of them' if clouds else 'How they came about'}\n{LEGEND[clouds]}")
    more = gr.Image(show_label=False, elem_id="more", **PICTURE)

    def sample(label: str, words: Any, shown: str, *numbers: Any) -> Iterator[tuple[Any, ...]]:
        chosen = None if label == turn else label
        for at in make(model, limits, name, chosen, words, shown, *numbers):
            yield at.picture, at.status, at.more or gr.skip(), at.command or gr.skip(), kept(at)

    event = go.click(
        refusing(sample),
        [label, words, shown, *asked],
        [picture, status, more, line, last],
        concurrency_id="model",
        show_progress="hidden",
        api_name="sample",
    )
    stop.click(None, cancels=[event], api_visibility="private")
    return last


def kept(at: Shown) -> Any:
    """The samples for the other tab, when they are finished."""
    return gr.skip() if at.samples is None else at.samples.numpy()
