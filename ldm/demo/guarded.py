"""Gradio's Blocks, guarded: a request is counted and measured before it is decoded."""

import html
import os
from collections.abc import Iterator
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ldm.demo.limits import Limits
from ldm.errors import Refusal, say

LAYERS, FILES = 4, 8  # in one request
STROKES = 1_048_576  # pixels of a canvas or of a layer on it
KEPT = 32  # canvases whose strokes wait to be asked for
FOREIGN = "what was sent is not what this page sends"
REFUSED: dict[str, Any] = {"print_exception": False, "title": "This cannot be done"}


class Page(gr.Blocks):
    """Blocks with bounded requests, whose errors are one line on the page and in the log."""

    def __init__(self, limits: Limits, **given: Any):
        super().__init__(**given)
        self.limits = limits

    async def process_api(self, *args: Any, **given: Any) -> dict[str, Any]:
        try:
            return await super().process_api(*args, **given)
        except gr.Error as error:
            if error.print_exception:  # Gradio's own, which repeats what was sent
                raise gr.Error(
                    html.escape(str(error.message)[:300], quote=False), **REFUSED
                ) from None
            raise
        except Refusal as error:
            raise gr.Error(str(error), **REFUSED) from None
        except Exception as error:
            say(
                f"page: a request was not understood: {type(error).__name__}: "
                f"{' '.join(str(error).split()):.200}"
            )
            raise gr.Error(
                "what was sent is not what this page sends: a wrong type, or something is missing",
                **REFUSED,
            ) from None

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], *args: Any, **given: Any
    ) -> list[Any]:
        for block, value in zip(block_fn.inputs, inputs, strict=False):
            expect_few(value, self.limits.pixels if isinstance(block, gr.UploadButton) else STROKES)
        return await super().preprocess_data(block_fn, inputs, *args, **given)


def expect_few(value: Any, pixels: int) -> None:
    """Refusal of too many files, or of a picture whose header says more than `pixels`."""
    paths = list(paths_in(value))
    if len(paths) > FILES or (isinstance(value, dict) and len(value.get("layers") or []) > LAYERS):
        raise Refusal(f"picture: {LAYERS} layers and {FILES} files at most are taken at once")
    here = Path(os.environ.get("GRADIO_TEMP_DIR", "/nowhere")).resolve()
    for path in paths:
        file = Path(path).resolve() if len(path) < 1000 and "\0" not in path else here
        if file.is_relative_to(here) and file.is_file():  # Gradio refuses all others
            expect_size(file, pixels)


def paths_in(value: Any, depth: int = 8) -> Iterator[str]:
    """Of every file that is named in a request's value."""
    if isinstance(value, (dict, list)) and depth < 0:
        raise Refusal("what was sent is nested too deep")
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        yield value["path"]
    if isinstance(value, (dict, list)):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from paths_in(inside, depth - 1)


def expect_size(source: Any, pixels: int) -> None:
    """Refusal of a picture with more pixels, or that is none; nothing of it is decoded."""
    try:
        with Image.open(source) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        width = height = pixels
    except Exception:
        raise Refusal("upload: not a picture that can be read") from None
    if width * height > pixels:
        raise Refusal(
            f"upload: more than {pixels / 1e6:.3g} million pixels are not taken; shrink it"
        )


def bounded(editor: gr.ImageEditor) -> gr.ImageEditor:
    """The canvas, whose strokes arrive one by one: few, small, and none kept for ever."""
    accept = editor.accept_blobs

    @wraps(accept)  # with the mark by which Gradio lets a browser call it
    def accept_few(data: Any) -> Any:
        index, (_, content) = str(data.data.get("index") or 0), data.files[0]
        index = "0" if index == "null" else index
        if (
            data.data.get("type") not in ("layer", "background", "composite")
            or not index.isdecimal()
            or int(index) >= LAYERS
        ):
            raise ValueError("no layer of the canvas")
        expect_size(BytesIO(content), STROKES)
        while len(editor.blob_storage) >= KEPT and data.data.get("id") not in editor.blob_storage:
            editor.blob_storage.pop(next(iter(editor.blob_storage)))
        return accept(data)

    editor.accept_blobs = accept_few
    return editor
