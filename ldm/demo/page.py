"""The page: its parts for a checkpoint of pictures or of jets."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

from ldm.demo import editor, sampler
from ldm.demo.base import Site
from ldm.demo.guarded import Page
from ldm.demo.kinds import KINDS
from ldm.errors import printable
from ldm.sampling.model import Model

# fonts of the reader's own machine: Gradio's themes would fetch theirs
FONTS: dict[str, Any] = {
    "font": ["system-ui", "sans-serif"],
    "font_mono": ["ui-monospace", "monospace"],
}
# beside each other where there is room; on a phone the samples follow the button, settings last
CSS = """
.gradio-container {max-width: 1180px !important; margin: auto !important}
#live img, #result img, #more img {object-fit: contain}
#live.pixels img, #samples.pixels img, #result img {image-rendering: pixelated}
.grid-wrap {max-height: none !important; min-height: 0 !important; height: auto !important;
  overflow: visible !important}
.grid-container {align-items: start}
.grid-container .gallery-item {height: auto !important}
.grid-container .thumbnail-item {aspect-ratio: auto !important; height: auto !important;
  display: block !important}
.grid-container .thumbnail-item img {width: 100% !important; height: auto !important}
.grid-container .caption-label {position: static !important; max-width: 100% !important;
  border: 0 !important; white-space: normal !important; text-align: center !important}
#sheet {display: grid !important; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr);
  grid-template-rows: auto 1fr; grid-template-areas: "ask results" "settings results"}
#ask {grid-area: ask} #results {grid-area: results} #settings {grid-area: settings}
#ask, #results, #settings {min-width: 0 !important}
@media (max-width: 760px) {
  #sheet {grid-template-columns: minmax(0, 1fr); grid-template-rows: auto;
    grid-template-areas: "ask" "results" "settings"}
  .plots .grid-container {grid-template-columns: minmax(0, 1fr) !important}
  #history .grid-container {grid-template-columns: repeat(3, minmax(0, 1fr)) !important}
}
"""
THEME: dict[str, Any] = {"theme": gr.themes.Default(primary_hue="indigo", **FONTS), "css": CSS}


def build(site: Site) -> gr.Blocks:
    """The page for one checkpoint."""
    title, kind = printable(Path(site.path).name), KINDS[site.model.space.modality]
    kept_for = (600, 3600)
    with Page(
        site.limits, title=f"ldm: {title}", analytics_enabled=False, delete_cache=kept_for
    ) as page:
        gr.Markdown(f"# {html.escape(title)}\n{introduction(site.model)}")
        if not kind.edited or site.model.settings.solver.few:
            sampler.tab(kind, site, page)
        else:
            with gr.Tab("Sample"):
                made = sampler.tab(kind, site, page)
            with gr.Tab("Change a picture"):
                editor.tab(site, made)
    return page


def introduction(model: Model) -> str:
    """What the checkpoint is, for a stranger."""
    given = f", given one of {len(model.classes)} classes" if model.classes else ""
    given += ", given what to show in words" if model.text is not None else ""
    made = KINDS[model.space.modality].about(model)
    return f"A diffusion model of {made}, trained for {model.step:,} steps{given}."
