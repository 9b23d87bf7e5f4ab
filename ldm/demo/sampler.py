"""The tab on which samples are made: their settings, what is seen of them, history and links."""

import html
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import gradio as gr

from ldm.demo.base import GUESS, STATE, Click, Kind, Shown, Site
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
from ldm.demo.history import History, Run
from ldm.demo.limits import apart
from ldm.demo.links import Settings, harmless, keys_of, link, read_query, settings_of
from ldm.errors import Refusal

IN_TURN = "each class in turn"
FIRST = "first"  # in the place of a step: the page was opened without a link
OPENING = "**Making** the first samples …"
KEPT = (
    "The unfinished samples stay in view until the next run. Finished ones of this session are in "
    "the history."
)
Update = dict[Any, Any]


class Sampler:
    """The tab's parts, and what its buttons do."""

    def __init__(self, kind: Kind, site: Site):
        self.kind, self.site = kind, site
        self.turn = apart(IN_TURN, site.model.classes)
        self.opened: Shown | None = None  # the first samples, the same for every visitor
        self.last, self.way = gr.State(None), gr.State(None)
        self.history = gr.State(History())
        with gr.Row(elem_id="sheet"):
            with gr.Column(elem_id="ask", min_width=280):
                self.wishes()
                self.go, self.stop = buttons("Sample", "sample")
            with gr.Column(elem_id="results", min_width=280):
                self.results()
            with gr.Column(elem_id="settings", min_width=280):
                solver = type(site.model.settings.solver).__name__
                self.numbers = number_fields(site, solver, kind.first)
                self.shown = gr.Radio([GUESS, STATE], value=GUESS, label="While sampling, show")
        gr.Markdown(f"### {kind.heading}\n{kind.legend(site)}")
        self.more = kind.details()
        self.fields = dict(
            zip(
                keys_of(kind),
                [self.label, self.control, *self.numbers.inputs[:5]],
                strict=True,
            )
        )

    def wishes(self) -> None:
        """The class, the prompt or the like, and prompts to click on."""
        classes, model = self.site.model.classes, self.site.model
        choices = [self.turn, *classes]
        self.label = gr.Dropdown(choices, value=self.turn, label="Class", visible=bool(classes))
        self.control = self.kind.control(model, self.site.limits)
        listed = self.kind.examples(model)
        self.examples = gr.Dataset(
            label="Examples: click on one",
            components=[gr.Textbox(visible=False)],
            samples=[[one] for one in listed] or [[""]],
            visible=bool(listed),
            elem_id="examples",
        )

    def results(self) -> None:
        """The picture on the way, the finished samples, what is said of them, history, links."""
        self.notice = gr.HTML(visible=False, elem_id="notice")
        self.status = gr.Markdown(OPENING, elem_id="status")
        pixels: list[str] = ["pixels"] if self.kind.edited else []
        self.live = gr.Image(
            show_label=False, elem_id="live", elem_classes=pixels, visible=False, **PICTURE
        )
        gallery: dict[str, Any] = {"show_label": False, "object_fit": "contain", "height": "auto"}
        gallery |= PICTURE | {"fit_columns": False}
        self.gallery = gr.Gallery(elem_id="samples", elem_classes=pixels, columns=3, **gallery)
        with gr.Accordion("Use these settings elsewhere", open=True):
            self.command = gr.Textbox(
                label="The same from the command line",
                interactive=False,
                buttons=["copy"],
                elem_id="command",
            )
            self.link = gr.HTML(elem_id="share")
        with gr.Accordion("History: click on a run to restore its settings", open=True):
            self.runs = gr.Gallery(
                elem_id="history", columns=6, **gallery | {"buttons": [], "allow_preview": False}
            )

    @property
    def outputs(self) -> list[Any]:
        """Everything that a run can change."""
        seen = [self.gallery, self.status, self.more, self.command, self.link, self.numbers.seed]
        return [*seen, self.live, self.runs, self.notice, self.history, self.last, self.way]

    def click_of(self, label: Any, control: Any, shown: Any, numbers: tuple[Any, ...]) -> Click:
        """What was chosen, its numbers checked."""
        chosen = None if label == self.turn else label
        return Click(self.site, asked(self.site, numbers), chosen, control, shown)

    def sample(
        self, history: History, label: Any, control: Any, shown: Any, *numbers: Any
    ) -> Iterator[Update]:
        """A click on Sample."""
        try:
            yield from self.run(self.click_of(label, control, shown, numbers), history)
        except Refusal:
            yield {self.status: NOT_DONE, self.way: None}
            raise

    def run(self, click: Click, history: History) -> Generator[Update, None, Shown | None]:
        """What there is to see of a click, added to the history; returns the finished samples."""
        start = {self.numbers.seed: click.asked.seed, self.way: (0, click.asked.steps)}
        yield start | {self.notice: gr.update(visible=False)}
        last: Shown | None = None
        for at in self.kind.made(click):
            if at.step is not None:
                yield self.on_the_way(at)
                continue
            yield self.done(at, click, history if last is None else None)
            last = at
        return last

    def on_the_way(self, at: Shown) -> Update:
        """A moment: the picture so far, in the place of the last finished samples."""
        live = gr.update(value=at.picture, visible=True)
        hidden = gr.update(visible=False)
        return {self.live: live, self.gallery: hidden, self.status: at.status, self.way: at.step}

    def done(self, at: Shown, click: Click, history: History | None) -> Update:
        """Finished samples; `history`: what they are added to, once."""
        settings = settings_of(click, self.kind)
        update: Update = {
            self.gallery: gr.update(value=at.gallery, visible=True),
            self.live: gr.update(visible=False),
            self.status: at.status,
            self.command: at.command,
            self.link: link(settings),
            self.numbers.seed: click.asked.seed,
            self.way: None,
        }
        if at.more is not None:
            update[self.more] = at.more
        if at.samples is not None:
            update[self.last] = at.samples.numpy()
        if history is not None:
            history = history.with_run(Run.of(at, settings))
            update |= {self.history: history, self.runs: history.gallery()}
        return update

    # -- opening ----------------------------------------------------------------------------------
    def opening(self, request: gr.Request) -> Update:
        """The settings of the page's link; nothing is made of them before Sample is pressed."""
        found, problems = read_query(dict(request.query_params), self.site, self.kind)
        if not found and not problems:
            return {self.way: FIRST}
        lines = [html.escape(f"{line}.") for line in problems]
        text = "<br>".join(["Of this link something is left out.", *lines])
        status = "**Settings** of the link are filled in. Press **Sample**."
        notice = gr.update(value=text, visible=bool(problems))
        restored = self.restored(found)
        return restored | {self.notice: notice, self.status: status, self.way: None}

    def first(self, way: Any, history: History) -> Iterator[Update]:
        """Samples at once for whoever opens the page: made once, then kept for the next ones."""
        if way != FIRST:
            yield {self.way: None}  # a generator without a value would empty every output
            return
        five = [field.value for field in self.numbers.inputs[:5]]
        click = Click(self.site, asked(self.site, [*five, False]), control=self.control.value)
        if self.opened is not None:
            yield self.done(self.opened, click, history)
            return
        try:
            self.opened = yield from self.run(click, history)
        except Refusal as error:  # nobody asked: no message pops up
            yield {self.status: f"No first samples: {harmless(str(error), 200)}", self.way: None}

    def example(self, listed: list[str]) -> Update:
        """A prompt that was clicked on."""
        return {self.control: listed[0], self.status: WAITING}

    def restored(self, settings: Settings) -> Update:
        """The fields filled in; a seed that is asked for is not replaced by a new one."""
        update = {self.fields[key]: value for key, value in settings.items()}
        return update | ({self.numbers.fresh: False} if "seed" in settings else {})

    def again(self, history: History, event: gr.SelectData) -> Update:
        """The settings of a run of the history that was clicked on."""
        settings: Mapping[str, Any] = history.settings(event.index)
        empty = {"label": self.turn, self.kind.key: self.control.value}
        status = f"**Settings** of seed {settings['seed']} are filled in. Press **Sample**."
        return self.restored(empty | dict(settings)) | {self.status: status}


def tab(kind: Kind, site: Site, page: gr.Blocks) -> gr.State:
    """All of it; the state that holds the last samples."""
    of = Sampler(kind, site)
    given = [of.history, of.label, of.control, of.shown, *of.numbers.inputs]
    model: dict[str, Any] = {"concurrency_id": "model", "show_progress": "hidden"}
    model["trigger_mode"] = "always_last"  # a click while details are drawn still counts
    private: dict[str, Any] = {"api_visibility": "private"}
    quick = QUICK
    fields = [*of.fields.values(), of.numbers.fresh]
    opened = page.load(of.opening, None, [*fields, of.notice, of.status, of.way], **quick)
    first = opened.then(of.first, [of.way, of.history], of.outputs, **model, **private)
    pressed = [of.go.click, of.numbers.seed.submit]
    pressed += [of.control.submit] if hasattr(of.control, "submit") else []
    waiting = {"fn": None, "js": f"() => {WAITING!r}", "outputs": [of.status]}
    gr.on(pressed, **waiting, **quick)
    run = gr.on(
        pressed, refusing(of.sample), given, of.outputs, cancels=[first], api_name="sample", **model
    )
    chosen = of.examples.click(of.example, [of.examples], [of.control, of.status], **quick)
    clicked = chosen.then(refusing(of.sample), given, of.outputs, **model, **private)
    stopping(of.stop, [first, run, clicked], of.way, of.status, KEPT)
    of.runs.select(of.again, [of.history], [*fields, of.status], **quick)
    return of.last
