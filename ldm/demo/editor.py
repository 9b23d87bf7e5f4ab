"""The tab on which a picture is changed: taken or uploaded, drawn on, given to a task."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import numpy as np
import torch

from ldm.demo.edits import CANVAS, change, enlarged, parts, upload
from ldm.demo.guarded import bounded
from ldm.demo.limits import Limits, apart, whole
from ldm.diffusion.solvers import DPMpp2MSDE
from ldm.errors import Refusal
from ldm.sampling.model import Model
from ldm.tasks.cases import image_shape

NO_CLASS = "not told"
WORDS = {
    "inpaint": "In-paint: draw over what is to be made anew",
    "super-resolve": "Super-resolve: the picture is shrunk, and made large again",
    "denoise": "De-noise",
    "edit": "Edit: half-way to noise, and back as another",
}


def tab(
    model: Model,
    limits: Limits,
    made: gr.State,
    numbers: Callable[..., Any],
    refusing: Callable[..., Any],
) -> None:
    """All of it; `made` holds the samples of the other tab, `numbers` makes the controls that both have."""
    methods, factors = parts(model)
    side = max(image_shape(model)[1:])
    canvas = side * max(1, CANVAS // side)
    picture, none = gr.State(None), apart(NO_CLASS, model.classes)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                nth = gr.Number(1, label="Sample no.", precision=0, min_width=80, scale=1)
                take = gr.Button("Take this sample", elem_id="take", scale=2)
            file = gr.UploadButton("or upload a picture", file_types=["image"], elem_id="upload")
            task = gr.Radio(
                [(text, key) for key, text in WORDS.items()], value="inpaint", label="What to do"
            )
            factor = gr.Dropdown(
                factors,
                value=4 if 4 in factors else factors[0],
                label="Times larger",
                visible=False,
            )
            noise = gr.Slider(
                0,
                2,
                0.5,
                step=0.05,
                label="Noise",
                info="of the range -1 ... 1; 0: estimated",
                visible=False,
            )
            add = gr.Checkbox(True, label="Add this noise first", visible=False)
            strength = gr.Slider(
                0.05,
                1,
                0.6,
                step=0.05,
                label="Strength",
                info="0 keeps all, 1 nothing",
                visible=False,
            )
            method = gr.Dropdown(methods["inpaint"], value=methods["inpaint"][0], label="Method")
            label = gr.Dropdown(
                [none, *model.classes], value=none, label="Class", visible=bool(model.classes)
            )
            asked = numbers(solver=DPMpp2MSDE.__name__, count=4, opened=False)
            with gr.Row():
                go = gr.Button("Change it", variant="primary", elem_id="change")
                stop = gr.Button("Stop")
        with gr.Column(scale=3, min_width=320):
            drawn = bounded(
                gr.ImageEditor(
                    label="Picture: draw over what is to be made anew",
                    sources=(),
                    transforms=(),
                    canvas_size=(canvas, canvas),
                    layers=False,
                    brush=gr.Brush(
                        default_size=max(8, canvas // 8), colors=["#ff5a36"], color_mode="fixed"
                    ),
                    format="png",
                    height=canvas + 110,
                    elem_id="editor",
                    buttons=[],
                )
            )
            status = gr.Markdown(
                "Take a sample or upload a picture, draw on it, press **Change it**.",
                elem_id="changed",
            )
    result = gr.Image(
        show_label=False,
        elem_id="result",
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
    )

    def show(pixels: torch.Tensor) -> tuple[Any, Any]:
        return pixels.numpy(), {"background": enlarged(pixels), "layers": [], "composite": None}

    def take_sample(samples: np.ndarray | None, nth: Any) -> Iterator[tuple[Any, Any]]:
        if samples is None:
            raise Refusal("sample: none yet; make some on the first tab")
        yield show(torch.from_numpy(samples[whole("sample", nth, 1, len(samples)) - 1]))

    def take_file(path: str) -> Iterator[tuple[Any, Any]]:
        yield show(upload(model, limits, path))

    def choose(task: str) -> list[dict[str, Any]]:
        wanted = {"super-resolve": (factor,), "denoise": (noise, add), "edit": (strength,)}.get(
            task, ()
        )
        shown = [gr.update(visible=one in wanted) for one in (factor, noise, add, strength)]
        return [gr.update(choices=methods[task], value=methods[task][0]), *shown]

    def run(
        picture: np.ndarray | None, drawn: Any, task: str, method: str, label: str, *rest: Any
    ) -> Iterator[tuple[Any, ...]]:
        options = dict(zip(("factor", "noise", "add", "strength"), rest, strict=False))
        pixels, layers = (
            None if picture is None else torch.from_numpy(picture),
            (drawn or {}).get("layers", []),
        )
        kind = None if label == none else label
        for at in change(model, limits, pixels, layers, task, method, kind, options, *rest[4:]):
            yield at.picture, at.status

    private = {"api_visibility": "private"}
    take.click(refusing(take_sample), [made, nth], [picture, drawn], api_name="take")
    file.upload(refusing(take_file), [file], [picture, drawn], api_name="upload_picture")
    task.change(choose, [task], [method, factor, noise, add, strength], **private)
    inputs = [picture, drawn, task, method, label, factor, noise, add, strength, *asked]
    how = {"concurrency_id": "model", "show_progress": "hidden", "api_name": "change"}
    event = go.click(refusing(run), inputs, [result, status], **how)
    stop.click(None, cancels=[event], **private)
