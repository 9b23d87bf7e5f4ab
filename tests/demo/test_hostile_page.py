"""A real server of the page, talked to by those who mean no good: a message for each, and no
traceback in its log.
"""

import io
import os
import queue
import re
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import ROOT
from page_inputs import EDIT, NUMBERS
from PIL import Image
from processes import port

from ldm.demo.base import GUESS

if find_spec("gradio") is None:  # it takes seconds to import, and another process does that
    pytest.skip("the page needs gradio: pip install '.[demo]'", allow_module_level=True)

import httpx

from ldm.demo.fence import CLOSED, Uploads, own_names

pytestmark = [pytest.mark.page, pytest.mark.xdist_group("hostile-page")]  # one server
SAMPLE = ["each class in turn", "", GUESS, *NUMBERS]
CHANGE = [None, None, "inpaint", "project", "3", *EDIT, "DDIM", 3, 1.0, 0, 1, False]


class Server:
    """python -m ldm.demo, and all that it said."""

    def __init__(self, checkpoint, folder, *more):
        at = port()
        self.path = folder / "log"
        command = [
            sys.executable,
            "-m",
            "ldm.demo",
            "--checkpoint",
            str(checkpoint),
            "--device",
            "cpu",
            "--port",
            str(at),
        ]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        with open(self.path, "wb") as log:
            self.process = subprocess.Popen(
                [*command, *more], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.lines, first = [], queue.SimpleQueue()
        threading.Thread(
            target=lambda: [(self.lines.append(x), first.put(x)) for x in self.process.stdout],
            daemon=True,
        ).start()
        while not (line := first.get(timeout=200)).startswith("page: http"):
            pass
        self.url = line.split()[1].rstrip("/")
        self.http = httpx.Client(base_url=self.url, timeout=100)

    def said(self):
        return self.path.read_text() + "".join(self.lines)

    def memory(self):
        """The most it ever held, bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024

    def call(self, name, data):
        """What the queue answers: the data, or the message of the error."""
        got = self.http.post(f"/gradio_api/call/{name}", json={"data": data})
        if got.status_code != 200:
            return f"{got.status_code}: {got.text}"
        return self.http.get(f"/gradio_api/call/{name}/{got.json()['event_id']}").text

    def upload(self, *pictures):
        files = [("files", (f"{i}.png", picture)) for i, picture in enumerate(pictures)]
        return self.http.post("/gradio_api/upload", files=files)


@pytest.fixture(scope="module")
def server(pixel_run, tmp_path_factory):
    server = Server(pixel_run, tmp_path_factory.mktemp("page"), "--max-upload", "1")
    yield server
    server.process.terminate()
    server.process.wait(60)
    assert "Traceback" not in server.said(), server.said()[-5000:]


def png(width, height, mode="RGBA"):
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG")
    return file.getvalue()


def claiming(width, height):
    """A PNG of a kilobyte that says it is so large."""
    import struct
    import zlib

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def file_of(path):
    return {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "0.png"}


def drawing(layers, background=None, composite=None, **more):
    return {"background": background, "layers": layers, "composite": composite} | more


# -- who may talk to it ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.",
        "",
        "[::2]",
        "10.0.0.1",
        "a b",
    ],
)
def test_a_name_that_is_not_the_pages_own_is_refused(host, server):
    for path in ("/", "/config", "/gradio_api/info"):
        assert server.http.get(path, headers={"host": host}).status_code in (400, 403), host
    assert server.http.post(
        "/gradio_api/queue/join", headers={"host": host}, json={}
    ).status_code in (400, 403)


def test_its_own_names_are_taken(server):
    port = server.url.rsplit(":", 1)[1]
    for host in (
        f"127.0.0.1:{port}",
        "localhost",
        f"LOCALHOST:{port}",
        "localhost:9999",
        f"[::1]:{port}",
    ):
        assert server.http.get("/config", headers={"host": host}).status_code == 200, host


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "file://"]
)
def test_another_pages_script_is_refused(origin, server):
    body = {"data": SAMPLE, "session_hash": "x", "fn_index": 0}
    assert (
        server.http.post(
            "/gradio_api/queue/join", json=body, headers={"origin": origin}
        ).status_code
        == 403
    )
    assert (
        server.http.post(
            "/gradio_api/upload", files={"files": b"x"}, headers={"origin": origin}
        ).status_code
        == 403
    )
    own = server.http.get("/config", headers={"origin": server.url})
    assert own.status_code == 200


def test_names_of_a_page_that_everybody_may_reach():
    names, everywhere = own_names("0.0.0.0")
    assert (
        everywhere and "localhost" in names and own_names("box.example") == ({"box.example"}, False)
    )


# -- routes ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["sample", "take", "change", "upload_picture", "nonsense"])
def test_no_route_goes_past_the_queue(name, server):
    for prefix in ("/gradio_api/run/", "/gradio_api/api/", "/run/", "/api/"):
        for end in ("", "/"):
            assert server.http.post(f"{prefix}{name}{end}", json={"data": SAMPLE}).status_code in (
                403,
                404,
                405,
            )


@pytest.mark.parametrize(
    "path",
    ["process_recording", "vibe-edit", "undo-vibe-edit/", "run-history/connect", "run/", "runs"],
)
def test_what_the_page_has_no_use_for_is_closed(path, server):
    assert server.http.post(f"/gradio_api/{path}", json={}).status_code == 403
    assert CLOSED.match("/gradio_api/proxy=http://x") and not CLOSED.match(
        "/gradio_api/file=/tmp/run/api/x.png"
    )


# -- too much --------------------------------------------------------------------------------------
def test_one_picture_as_eighty_layers_takes_no_memory(server):
    """The issue's own: 12 kB that took 4.7 GB."""
    path = server.upload(png(2000, 2000)).json()[0]
    before = server.memory()
    value = drawing([file_of(path)] * 80, file_of(path))
    assert "4 layers and 8 files at most" in server.call("change", [value, *CHANGE[2:]])
    assert "million pixels are not taken" in server.call(
        "change", [drawing([file_of(path)]), *CHANGE[2:]]
    )
    assert server.memory() - before < 50e6


@pytest.mark.parametrize("size", [(1_000_000, 1), (60_000, 60_000), (5000, 5000)])
def test_pictures_that_claim_much_are_not_decoded(size, server):
    path = server.upload(claiming(*size)).json()[0]
    before = server.memory()
    for name, data in (
        ("upload_picture", [file_of(path)]),
        ("change", [drawing([file_of(path)]), *CHANGE[2:]]),
    ):
        assert "event: error" in server.call(name, data)
    assert server.memory() - before < 50e6


def test_bodies_are_bounded_before_they_are_read(server):
    assert server.http.post("/gradio_api/queue/join", content=b"[" * 1_100_000).status_code == 413
    assert (
        server.http.post("/gradio_api/upload", files={"files": bytes(2_000_000)}).status_code == 413
    )

    unknown = (b"x" * 1000 for _ in range(10))
    assert server.http.post("/gradio_api/queue/join", content=unknown).status_code == 411


def test_strokes_that_arrive_one_by_one_are_bounded(server):
    config = server.http.get("/config").json()
    editor = next(c["id"] for c in config["components"] if c["type"] == "imageeditor")

    def send(index, content, kind="layer"):
        fields = {
            "component_id": str(editor),
            "fn_name": "accept_blobs",
            "session_hash": "s",
            "id": "1",
            "type": kind,
        }
        return server.http.post(
            "/gradio_api/component_server", data=fields | {"index": index}, files={"file": content}
        )

    assert send("0", png(448, 448)).status_code == 200
    for index, content in (
        ("9" * 9, png(8, 8)),
        ("-1", png(8, 8)),
        ("0", png(4000, 4000, "L")),
        ("0", b"x"),
        ("x", png(8, 8)),
    ):
        assert send(index, content).status_code == 400, index
    assert send("0", png(8, 8), "nonsense").status_code == 400


def test_uploads_have_a_total():
    clock = [0.0]
    uploads = Uploads(10, 25, lambda: clock[0])
    assert [bool(uploads.take(who, 5)) for who in "aabbcc"] == [
        False,
        False,
        False,
        False,
        False,
        True,
    ]
    assert "you sent" in uploads.take("a", 5) and "all visitors" in uploads.take("d", 6)
    clock[0] = 5000
    assert not uploads.take("a", 10) and len(uploads.sent) == 1


# -- wrong types -----------------------------------------------------------------------------------
WRONG = [
    None,
    "x",
    -1,
    1e300,
    [],
    {},
    [[[[]]]],
    {"a": 1},
    True,
    "\x1b[2J",
    "x" * 100_000,
    ["x"] * 1000,
]


@pytest.mark.parametrize("place", range(len(SAMPLE)))
def test_wrong_types_get_a_message(place, server):
    for wrong in WRONG:
        data = [*SAMPLE[:4], 2, *SAMPLE[5:7], 1, False]
        data[place] = wrong
        answer = server.call("sample", data)
        assert len(answer) < 20_000 and "Traceback" not in answer
        assert "event: complete" in answer or (
            "event: error" in answer and len(answer.split("data: ")[-1].strip()) > 8
        ), answer


@pytest.mark.parametrize("place", range(len(CHANGE)))
def test_wrong_types_of_a_change_get_a_message(place, server):
    for wrong in [
        *WRONG,
        drawing("x"),
        drawing([None]),
        drawing([{"path": 3}]),
        drawing([file_of("/dev/zero")]),
        drawing([], id="x"),
    ]:
        answer = server.call("change", [wrong if i == place else v for i, v in enumerate(CHANGE)])
        assert "event: complete" not in answer and len(answer) < 20_000 and len(answer) > 25, answer


@pytest.mark.parametrize(
    "wrong",
    [
        *WRONG,
        file_of("/etc/passwd"),
        file_of("/dev/zero"),
        file_of("../x"),
        {"path": None},
        {"url": "file:///etc/passwd"},
    ],
)
def test_wrong_uploads_get_a_message(wrong, server):
    assert "event: complete" not in server.call("upload_picture", [wrong])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"data": 3}',
        b'{"data": []}',
        b'{"data": null, "fn_index": 10}',
        b"\xff",
        b"[" * 10_000,
    ],
)
def test_bodies_that_are_no_request(body, server):
    kind = {"content-type": "application/json"}
    for path in (
        "queue/join",
        "call/sample",
        "call/nonsense",
        "call/v2/sample",
        "cancel",
        "component_server",
        "upload",
        "reset",
    ):
        assert server.http.post(f"/gradio_api/{path}", content=body, headers=kind).status_code < 600
    for index in (-1, 10**9, "x", None):
        server.http.post(
            "/gradio_api/queue/join", json={"data": SAMPLE, "fn_index": index, "session_hash": "x"}
        )


def test_it_still_works_after_all_of_this(server):
    assert "event: complete" in server.call("sample", SAMPLE) and server.memory() < 2e9
