"""The page as it is served: over HTTP as a program talks to it, and in Chromium as a person does.

LDM_DEMO_CHECKPOINT=RUN LDM_DEMO_SCREENSHOT=FILE.png pytest -m slow tests/demo/test_demo_page.py
makes the README's picture.
"""

import io
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import pytest
from helpers import ROOT
from page_inputs import EDIT, NUMBERS
from PIL import Image
from processes import port

if find_spec("gradio") is None:  # it takes seconds to import, and another process does that
    pytest.skip("the page needs gradio: pip install '.[demo]'", allow_module_level=True)

import httpx
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from ldm.demo.base import GUESS
from ldm.scripts import sample

# in one process of several: its page and its browser are started once
pytestmark = [pytest.mark.page, pytest.mark.xdist_group("page")]
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
WAIT = 120_000  # ms


@contextmanager
def page(checkpoint, *more):
    """python -m ldm.demo in a process of its own; its address."""
    command = [
        sys.executable,
        "-m",
        "ldm.demo",
        "--checkpoint",
        str(checkpoint),
        "--device",
        "cpu",
        "--port",
        str(port()),
    ]
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "GRADIO_SHARE": "True",
        "GRADIO_ALLOWED_PATHS": "/etc",
    }
    process = subprocess.Popen(
        [*command, *more], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    )
    lines = queue.SimpleQueue()
    threading.Thread(
        target=lambda: [lines.put(line) for line in process.stdout], daemon=True
    ).start()
    try:
        while not (line := lines.get(timeout=120)).startswith("page: "):
            pass
        yield line.split()[1]
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 143


@pytest.fixture(scope="module")
def address(pixel_run):
    with page(pixel_run, "--max-upload", "1", "--max-steps", "2000") as found:
        yield found


def by_sample_py(checkpoint, folder, *more):
    """The pictures that sample.py makes, by seed."""
    before, sys.argv = (
        sys.argv,
        ["sample.py", "--checkpoint", str(checkpoint), "--output", str(folder), *map(str, more)],
    )
    try:
        sample.main()
    finally:
        sys.argv = before
    return [grey(path) for path in sorted(folder.glob("0*.png"))]


def grey(source):
    return np.asarray(Image.open(source).convert("L")).astype(int)


def in_panel(picture, columns, side=8):
    """The pictures of a panel of one row, at their own size; headings stand above."""
    step = (picture.shape[1] - 2) // columns
    row = picture[-step:-2]
    return [
        row[:: (step - 2) // side, 2 + i * step : (i + 1) * step : (step - 2) // side]
        for i in range(columns)
    ]


def largest(a, b):
    return max(np.abs(x - y).max() for x, y in zip(a, b, strict=True))


# -- over HTTP -------------------------------------------------------------------------------------
def test_a_click_streams_pictures_and_ends_with_those_of_sample_py(address, pixel_run, tmp_path):
    job = Client(address, verbose=False).submit(
        "each class in turn", "", GUESS, *NUMBERS, api_name="/sample"
    )
    gallery, status, more, line, link, seed, *_ = job.result(timeout=120)
    assert "**Done**" in status and "seeds 5 to 8" in status and grey(more).std() > 10
    assert seed == 5 and "seed=5" in link
    history = [made[7] for made in job.outputs() if isinstance(made[7], list)]
    assert [run["caption"][:6] for run in history[-1]] == ["seed 5"]
    frames = [made[6].get("value") for made in job.outputs() if isinstance(made[6], dict)]
    assert len({Image.open(frame).tobytes() for frame in frames if frame}) > 1
    expected = by_sample_py(pixel_run, tmp_path / "o", *line.split()[6:])
    made = [grey(one["image"]) for one in gallery["value"]]
    assert len(expected) == 4 and largest(made, expected) <= 1
    assert [one["caption"] for one in gallery["value"]] == [f"{i}, seed {i}" for i in range(5, 9)]


def test_a_sample_is_drawn_on_and_filled_in(address, tmp_path):
    client = Client(address, verbose=False)
    with pytest.raises(AppError, match="none yet; make some"):
        client.predict(1, api_name="/take")
    client.predict("3", "", GUESS, *NUMBERS, api_name="/sample")
    canvas = client.predict(2, api_name="/take")["background"]
    layer = np.zeros((448, 448, 4), np.uint8)
    layer[112:280, 168:336] = 255
    Image.fromarray(layer).save(tmp_path / "layer.png")
    value = {
        "background": handle_file(canvas),
        "layers": [handle_file(tmp_path / "layer.png")],
        "composite": None,
    }
    given = "inpaint", "project", "3", *EDIT, "DDIM", 12, 1.0, 0, 2, False
    panel, status, _ = client.predict(value, *given, api_name="/change")
    assert "inpaint by project" in status
    given, mask, first, second, _mean, _spread = in_panel(grey(panel), 6)
    hole = np.zeros((8, 8), bool)
    hole[2:5, 3:6] = True
    assert (mask[hole] == 255).all() and np.array_equal(mask[~hole], given[~hole])
    for made in (first, second):
        assert np.abs(made - given)[~hole].max() <= 1 and np.abs(made - given)[hole].max() > 5
    value["layers"] = []
    with pytest.raises(AppError, match="nothing is drawn"):
        client.predict(
            value,
            "inpaint",
            "project",
            "3",
            *EDIT,
            "DDIM",
            12,
            1.0,
            0,
            2,
            False,
            api_name="/change",
        )


@pytest.mark.parametrize(
    "place, bad, message",
    [
        (3, "Nonsense", "Nonsense"),
        (4, 9999, "maximum value"),
        (6, -1, "seed: -1 is not a whole number"),
        (7, 99, "maximum value"),
        (0, "<b>", "&lt;b&gt;|choices"),
    ],
)
def test_bad_settings_are_one_line(address, place, bad, message):
    given = ["each class in turn", "", GUESS, *NUMBERS]
    given[place] = bad
    with pytest.raises(AppError, match=message) as error:
        Client(address, verbose=False).predict(*given, api_name="/sample")
    assert "Traceback" not in str(error.value) and "\n" not in str(error.value)


def test_what_is_too_large_is_not_taken(address, tmp_path):
    client = Client(address, verbose=False)
    noise = np.random.default_rng(0).integers(0, 255, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "heavy.png")
    assert (tmp_path / "heavy.png").stat().st_size > 1_000_000
    files = {"files": ("heavy.png", (tmp_path / "heavy.png").read_bytes())}
    assert httpx.post(f"{address}gradio_api/upload", files=files).status_code == 413
    Image.new("1", (4100, 4100)).save(tmp_path / "wide.png")
    with pytest.raises(AppError, match="upload: more than 16 million pixels are not taken"):
        client.predict(handle_file(tmp_path / "wide.png"), api_name="/upload_picture")
    Image.fromarray(noise[:300, :300]).save(tmp_path / "fits.png")
    assert client.predict(handle_file(tmp_path / "fits.png"), api_name="/upload_picture")[
        "background"
    ]


def test_no_file_is_served_that_is_not_the_pages_own(address, pixel_run, tmp_path):
    Image.new("L", (8, 8), 200).save(tmp_path / "private.png")
    with httpx.Client(base_url=address, follow_redirects=False) as http:
        got = http.get("/")
        assert (
            got.status_code == 200
            and "default-src 'self'" in got.headers["content-security-policy"]
        )
        paths = (
            "/etc/passwd",
            pixel_run / "last.ckpt",
            pixel_run / "config.yaml",
            tmp_path / "private.png",
            ROOT / "README.md",
        )
        foreign = (
            "pyproject.toml",
            "../../etc/passwd",
            "%2e%2e/%2e%2e/etc/passwd",
            "file:///etc/passwd",
            f"{address}config",
        )
        for path in (*paths, *foreign):
            for route in ("/gradio_api/file=", "/gradio_api/file/", "/file="):
                assert http.get(f"{route}{path}").status_code in (403, 404), path
        assert http.get(f"/gradio_api/proxy={address}config").status_code == 403
        # nor read for a visitor, by a path that says it was uploaded
        for path in (tmp_path / "private.png", f"{address}logo.png"):
            data = {"path": str(path), "url": str(path), "meta": {"_type": "gradio.FileData"}}
            event = http.post("/gradio_api/call/upload_picture", json={"data": [data]}).json()[
                "event_id"
            ]
            assert (
                "event: error"
                in http.get(f"/gradio_api/call/upload_picture/{event}", timeout=60).text
            )


def test_the_page_listens_here_alone(address):
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    assert address.startswith("http://127.0.0.1:")
    with socket.socket() as s, pytest.raises(OSError):
        s.settimeout(2)
        s.connect((own_address(), port))


def own_address():
    """An address of this machine that is not the loop's own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))  # of documentation: nothing is sent
        except OSError:
            pytest.skip("this machine has no address but 127.0.0.1")
        return s.getsockname()[0]


@pytest.mark.slow
def test_a_page_of_jets(jets_run):
    with page(jets_run, "--max-count", "30") as found:
        job = Client(found, verbose=False).submit(
            "each class in turn", 12, GUESS, "Heun", 10, 1.0, 0, 30, False, api_name="/sample"
        )
        gallery, status, more, line, *_ = job.result(timeout=120)
    assert "30 jets of 12.0 constituents" in status and line.endswith("--constituents 12")
    assert "No real jets are at hand: start the page with --data-root FILE" in status
    jets = gallery["value"]
    assert len(jets) == 8 and len(more) == 11
    assert all(grey(one["image"]).std() > 10 for one in [*jets, *more])


# -- in a browser ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install '.[browser]'"
    )
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def opened(browser, address, width=1200, height=1250):
    """A tab with the page, which may load nothing from elsewhere; it keeps what it asked for, and
    what went wrong.
    """
    tab = browser.new_page(viewport={"width": width, "height": height})
    tab.foreign, tab.wrong = [], []
    tab.on(
        "request",
        lambda r: (
            None
            if r.url.startswith((address.partition("?")[0], "data:", "blob:"))
            else tab.foreign.append(r.url)
        ),
    )
    tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
    tab.goto(address)
    tab.wait_for_selector("#sample")
    return tab


def shown(tab, where):
    """The bytes of the picture in an element."""
    return tab.request.get(tab.get_attribute(f"{where} img", "src")).body()


def says(tab, text, where="#status"):
    """Wait until an element says so; all that it says."""
    script = "([where, text]) => document.querySelector(where).innerText.includes(text)"
    tab.wait_for_function(script, arg=[where, text], timeout=WAIT)
    return tab.inner_text(where)


def first_samples(tab):
    """Those that the page shows when it is opened, to the last picture."""
    for where in ("#samples", "#history", "#more"):
        tab.wait_for_selector(f"{where} img", timeout=WAIT, state="attached")


def captions(tab, where="#samples"):
    return [one.inner_text() for one in tab.query_selector_all(f"{where} .caption-label")]


def field(tab, label):
    return tab.get_by_label(label, exact=True).first


def steps(tab, count):
    tab.get_by_label("number input for Steps").first.fill(str(count))
    tab.keyboard.press("Tab")


@pytest.mark.slow
def test_in_a_browser_samples_appear(browser, address, pixel_run, tmp_path):
    given, folder = os.environ.get("LDM_DEMO_CHECKPOINT"), tmp_path / "o"
    if given:
        with page(given) as found:
            clicked(browser, found, given, folder, 28)
    else:
        clicked(browser, address, pixel_run, folder, 8)


def clicked(browser, address, checkpoint, folder, side):
    tab, frames = opened(browser, address), set()
    first_samples(tab)
    if side == 8:  # or the tiny model is done before anyone looks
        steps(tab, 60)
    tab.click("#sample")
    says(tab, "Waiting")
    deadline = time.monotonic() + 120
    while "Done" not in tab.inner_text("#status") and time.monotonic() < deadline:
        image = tab.query_selector("#live img")
        frames |= {image.get_attribute("src")} if image else set()
        time.sleep(0.02)
    says(tab, "Done")
    tab.wait_for_selector("#samples img")
    pictures = [grey(io.BytesIO(tab.request.get(src).body())) for src in sources(tab)]
    assert len(frames) > 1 and not tab.foreign and not tab.wrong
    line = tab.input_value("#command textarea").split()
    expected = by_sample_py(checkpoint, folder, *line[6:])
    assert np.std(pictures) > 10 and len(expected) == 9 and largest(pictures, expected) <= 1
    seed = int(field(tab, "Seed").input_value())
    assert [one.split(", ")[1] for one in captions(tab)] == [f"seed {seed + i}" for i in range(9)]
    if path := os.environ.get("LDM_DEMO_SCREENSHOT"):
        says(tab, "seed", "#history")
        time.sleep(2)
        whole = Image.open(io.BytesIO(tab.screenshot(full_page=True))).convert("RGB")
        whole.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    tab.close()


def sources(tab, where="#samples"):
    return [one.get_attribute("src") for one in tab.query_selector_all(f"{where} img")]


@pytest.mark.slow
def test_in_a_browser_a_run_takes_a_new_seed_unless_it_is_off(browser, address):
    tab, seeds = opened(browser, address), []
    first_samples(tab)
    assert field(tab, "New seed").is_checked() and len(captions(tab, "#history")) == 1
    for runs in (2, 3, 4):
        if runs == 4:
            field(tab, "New seed").uncheck()
        field(tab, "Seed").press("Enter")
        tab.wait_for_function(
            "n => document.querySelectorAll('#history img').length === n", arg=runs, timeout=WAIT
        )
        seeds.append(field(tab, "Seed").input_value())
        assert f"seed {seeds[-1]}" in captions(tab)[0]
    assert seeds[0] != seeds[1] == seeds[2]
    tab.close()


@pytest.mark.slow
def test_in_a_browser_stop_says_stopped_and_what_is_kept(browser, address):
    tab = opened(browser, address)
    first_samples(tab)
    steps(tab, 2000)
    for _ in range(3):  # it was a race once
        tab.click("#sample")
        tab.wait_for_function("() => !document.querySelector('#status').innerText.match('Stopped')")
        says(tab, "step")
        tab.click("#stop-sample")
        said = says(tab, "Stopped at step")
        assert "of 2000" in said and "unfinished samples stay in view" in said
        time.sleep(2)
        assert "Stopped at step" in tab.inner_text("#status") and tab.query_selector("#live img")
        assert len(captions(tab, "#history")) == 1
    tab.click("#stop-sample")
    says(tab, "Nothing is being made")
    tab.close()


@pytest.mark.slow
def test_in_a_browser_history_and_links_restore_settings(browser, address):
    """And make nothing of them: a link is a stranger's."""
    tab = opened(browser, f"{address}?label=3&steps=7&count=2&seed=11&foo=1&guidance=<b>9")
    assert "Settings of the link" in says(tab, "Settings")
    notice = tab.inner_text("#notice")
    assert "foo is not a setting; known are" in notice and "guidance: '?b?9' is not" in notice
    assert not tab.query_selector("#samples img")
    tab.click("#sample")
    first_samples(tab)
    assert captions(tab) == ["3, seed 11", "3, seed 12"]
    assert not field(tab, "New seed").is_checked()
    href = tab.get_attribute("#link", "href")
    steps(tab, 9)
    field(tab, "Seed").fill("5")
    tab.click("#history button.thumbnail-item")
    says(tab, "Settings of seed 11")
    for restored in (tab, opened(browser, address + href)):
        says(restored, "Settings of")
        assert field(restored, "Seed").input_value() == "11"
        assert restored.get_by_label("number input for Steps").first.input_value() == "7"
        assert field(restored, "Class").input_value() == "3"
        assert not restored.wrong and not restored.foreign
        restored.close()


@pytest.mark.slow
@pytest.mark.parametrize("width, height", [(1280, 900), (390, 844)])
def test_in_a_browser_the_button_is_in_sight_and_nothing_is_wider(browser, address, width, height):
    tab = opened(browser, address, width, height)
    for button, name in (("#sample", "Sample"), ("#change", "Change a picture")):
        tab.get_by_role("tab", name=name).click()
        first_samples(tab) if button == "#sample" else tab.wait_for_selector("#editor canvas")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        box = tab.query_selector(button).bounding_box()
        if button == "#sample":
            tab.locator("#more").scroll_into_view_if_needed()
            tab.wait_for_selector("#more img", timeout=WAIT)  # lazily
            assert box["y"] + box["height"] < height / 2 and box["x"] + box["width"] < width
    tab.close()


@pytest.mark.slow
def test_in_a_browser_prompts_are_typed_or_clicked(browser, text_run):
    """Enter submits; a task takes a prompt too, and it makes a difference."""
    with page(text_run) as found:
        tab = opened(browser, found)
        first_samples(tab)
        tab.fill("#prompt textarea", "red")
        tab.press("#prompt textarea", "Enter")
        says(tab, "red", "#history")
        seed = int(field(tab, "Seed").input_value())
        assert captions(tab)[0] == f"“red”, seed {seed}"
        example = tab.query_selector("#examples button")
        words = example.inner_text()
        example.click()
        script = "words => document.querySelector('#samples').innerText.startsWith(words)"
        tab.wait_for_function(script, arg=f"“{words}”", timeout=WAIT)
        assert tab.input_value("#prompt textarea") == words
        tab.wait_for_function("document.querySelectorAll('#history img').length === 3")
        tab.get_by_role("tab", name="Change a picture").click()
        tab.click("#take")
        tab.get_by_label("edit", exact=False).first.check()
        made = []
        for words in ("red", "blue"):
            tab.fill("#words textarea", words)
            tab.press("#words textarea", "Enter")
            says(tab, "Waiting", "#changed")
            says(tab, "Done", "#changed")
            time.sleep(1)
            made.append(np.asarray(Image.open(io.BytesIO(shown(tab, "#result")))))
            tab.get_by_label("New seed").last.uncheck()
        assert not tab.wrong and not tab.foreign and not np.array_equal(*made)
        tab.close()


@pytest.mark.slow
def test_in_a_browser_a_bad_setting_is_one_line(browser, address):
    tab = opened(browser, address)
    first_samples(tab)
    field(tab, "New seed").uncheck()
    field(tab, "Seed").fill("-1")
    tab.click("#sample")
    tab.wait_for_selector(".toast-body", timeout=WAIT)
    lines = tab.inner_text(".toast-body").splitlines()
    assert [line for line in lines if "seed: -1 is not a whole number from 0 to" in line] and len(
        lines
    ) <= 4
    assert "Traceback" not in tab.inner_text("body") and len(captions(tab, "#history")) == 1
    assert "Not done" in says(tab, "Not done")
    tab.close()


@pytest.mark.slow
def test_in_a_browser_a_mask_is_drawn(browser, address):
    """A stroke across the middle: the panel has the hole where it was drawn, and the rest of the
    picture as it was.
    """
    tab = opened(browser, address)
    first_samples(tab)
    tab.get_by_role("tab", name="Change a picture").click()
    tab.click("#take")
    tab.wait_for_selector("#editor canvas")
    time.sleep(2)  # the canvas draws what it was given
    box = tab.query_selector("#editor canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x - 80, y)
    tab.mouse.down()
    for i in range(17):
        tab.mouse.move(x - 80 + 10 * i, y)
    tab.mouse.up()
    time.sleep(1)
    tab.click("#change")
    tab.wait_for_function(
        "document.querySelector('#changed').innerText.includes('Done')", timeout=WAIT
    )
    tab.wait_for_selector("#result img")
    given, mask, made, *_ = in_panel(grey(io.BytesIO(shown(tab, "#result"))), 8)
    hole = mask != given
    assert (
        2 <= hole.sum() <= 24 and hole[3:5, 2:6].any() and not hole[:2].any() and not hole[6:].any()
    )
    assert (
        np.abs(made - given)[~hole & (mask != 255)].max() <= 1
        and np.abs(made - given)[hole].max() > 5
    )
    tab.close()


@pytest.mark.slow
def test_in_a_browser_jets_are_plotted_over_real_ones(browser, jets_run):
    data = ROOT / "tests/fixtures/gluon30_400.hdf5"
    with page(jets_run, "--max-count", "30", "--data-root", str(data)) as found:
        tab = opened(browser, found, 390, 844)
        first_samples(tab)
        for where, count in (("#samples", 8), ("#more", 11)):
            assert len(sources(tab, where)) == count
            for src in sources(tab, where):
                picture = Image.open(io.BytesIO(tab.request.get(src).body())).convert("RGB")
                assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 50
        said = says(tab, "Real:")
        assert "30 jets" in said and "Real: 60 jets that were held out of training" in said
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert not tab.foreign and not tab.wrong
        tab.close()
