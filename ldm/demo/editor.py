"""The tab on which a picture is changed: taken or uploaded, drawn on, given to a task."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
import torch

from ldm.demo.base import Site
from ldm.demo.edits import CANVAS, Wanted, change, enlarged, on_page, upload
from ldm.demo.fields import (
    NOT_DONE,
    PICTURE,
    QUICK,
    WAITING,
    asked,
    buttons,
    number_fields,
    refusing,
    stopping,
)
from ldm.demo.guarded import bounded
from ldm.demo.limits import apart, whole_number
from ldm.demo.samples import prompt_box
from ldm.diffusion.solvers import DPMpp2MSDE
from ldm.errors import Refusal
from ldm.sampling.model import Model
from ldm.tasks.base import Task
from ldm.tasks.options import Control

NO_CLASS = "without a class"
KEPT = "The unfinished result stays in view until the next run; the picture and the strokes stay."
FIRST = "Take a sample or upload a picture, draw on it, press **Change it**."


def component(kind: type[Task], control: Control, model: Model) -> gr.components.Component:
    """What a control is on the page; only the chosen task's are seen."""
    if control.kind == "tick":
        return gr.Checkbox(bool(control.value), label=control.label, visible=False)
    if control.kind == "choice":
        choices = kind.choices(model)
        value = control.value if control.value in choices else choices[0]
        return gr.Dropdown(choices, value=value, label=control.label, visible=False)
    (low, high), label = control.bounds, control.label
    return gr.Slider(
        low, high, control.value, step=0.05, label=label, info=control.info, visible=False
    )


class Editor:
    """The tab's parts, and what its buttons do."""

    def __init__(self, site: Site):
        self.site, self.model, self.limits = site, site.model, site.limits
        self.tasks, self.way = on_page(), gr.State(None)
        self.none = apart(NO_CLASS, site.model.classes)
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                self.inputs()
                self.choices(next(iter(self.tasks)))
                self.go, self.stop = buttons("Change it", "change")
                self.numbers = number_fields(site, DPMpp2MSDE.__name__, 4, opened=False)
            with gr.Column(scale=3, min_width=280):
                self.drawn = self.canvas()
                self.status = gr.Markdown(FIRST, elem_id="changed")
                self.result = gr.Image(show_label=False, elem_id="result", **PICTURE)

    def inputs(self) -> None:
        """Where the picture comes from."""
        self.picture = gr.State(None)
        with gr.Row():
            self.nth = gr.Number(1, label="Sample no.", precision=0, min_width=80, scale=1)
            self.take = gr.Button("Take this sample", elem_id="take", scale=2)
        self.file = gr.UploadButton("or upload a picture", file_types=["image"], elem_id="upload")

    def choices(self, first: str) -> None:
        """The task, its options, its methods, and the class."""
        titles = [(kind.page, name) for name, kind in self.tasks.items()]
        self.task = gr.Radio(titles, value=first, label="What to do")
        self.options = {
            (name, key): component(kind, control, self.model)
            for name, kind in self.tasks.items()
            for key, control in kind.controls.items()
        }
        self.method = gr.Dropdown(**self.methods(first), label="Method")
        classes = self.model.classes
        self.label = gr.Dropdown(
            [self.none, *classes], value=self.none, label="Class", visible=bool(classes)
        )
        self.prompt = prompt_box(self.model, self.limits, "what to show; may be empty", "words")

    def methods(self, task: str) -> dict[str, Any]:
        """The methods of a task, its default chosen."""
        ways = self.tasks[task].methods[self.model.space.kind]
        return {"choices": list(ways), "value": ways[0]}

    def canvas(self) -> gr.ImageEditor:
        """What is drawn on."""
        side = max(self.model.space.data_shape[1:])
        size = side * max(1, CANVAS // side)
        brush = gr.Brush(default_size=max(8, size // 8), colors=["#ff5a36"], color_mode="fixed")
        editor = gr.ImageEditor(
            label="Picture: draw over what is to be made anew",
            sources=(),
            transforms=(),
            canvas_size=(size, size),
            layers=False,
            brush=brush,
            format="png",
            height=size + 110,
            elem_id="editor",
            buttons=[],
        )
        return bounded(editor)

    def show(self, pixels: torch.Tensor) -> tuple[Any, Any]:
        return pixels.numpy(), {"background": enlarged(pixels), "layers": [], "composite": None}

    def take_sample(self, samples: np.ndarray | None, nth: Any) -> Iterator[tuple[Any, Any]]:
        if samples is None:
            raise Refusal("sample: none yet; make some on the first tab")
        yield self.show(torch.from_numpy(samples[whole_number("sample", nth, 1, len(samples)) - 1]))

    def take_file(self, path: str) -> Iterator[tuple[Any, Any]]:
        yield self.show(upload(self.model, self.limits, path))

    def choose(self, task: str) -> list[Any]:
        """The methods of a task, and its options alone."""
        shown = [gr.update(visible=name == task) for name, _ in self.options]
        return [gr.update(**self.methods(task)), *shown]

    def run(
        self, picture: np.ndarray | None, drawn: Any, task: str, method: str, *rest: Any
    ) -> Iterator[dict[Any, Any]]:
        """rest: the class, the prompt, the options of all tasks, and the numbers."""
        (label, prompt), values = rest[:2], rest[2 : 2 + len(self.options)]
        of = zip(self.options, values, strict=True)
        wanted = Wanted(
            None if picture is None else torch.from_numpy(picture),
            (drawn or {}).get("layers", []),
            task,
            method,
            None if label == self.none else label,
            {key: value for (name, key), value in of if name == task},
            prompt,
        )
        try:
            numbers = asked(self.site, rest[2 + len(self.options) :])
            yield {self.numbers.seed: numbers.seed, self.way: (0, numbers.steps)}
            for at in change(self.model, self.limits, wanted, numbers):
                yield {self.result: at.picture, self.status: at.status, self.way: at.step}
        except Refusal:
            yield {self.status: NOT_DONE, self.way: None}
            raise


def tab(site: Site, made: gr.State) -> None:
    """All of it; `made` holds the other tab's samples."""
    of = Editor(site)
    shown, options = [of.picture, of.drawn], list(of.options.values())
    of.take.click(refusing(of.take_sample), [made, of.nth], shown, api_name="take")
    of.file.upload(refusing(of.take_file), [of.file], shown, api_name="upload_picture")
    of.task.change(of.choose, [of.task], [of.method, *options], api_visibility="private")
    pressed = [of.go.click, of.prompt.submit, of.numbers.seed.submit]
    gr.on(pressed, fn=None, js=f"() => {WAITING!r}", outputs=[of.status], **QUICK)
    event = gr.on(
        pressed,
        refusing(of.run),
        [*shown, of.task, of.method, of.label, of.prompt, *options, *of.numbers.inputs],
        [of.result, of.status, of.numbers.seed, of.way],
        concurrency_id="model",
        show_progress="hidden",
        api_name="change",
    )
    stopping(of.stop, [event], of.way, of.status, KEPT)
