"""How the page is served: on this machine, with its own files alone."""

import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.checkpoints.finding import find_checkpoint
from ldm.demo.base import Site
from ldm.demo.fence import LOCAL
from ldm.demo.kinds import KINDS
from ldm.demo.limits import Limits
from ldm.errors import Refusal, say
from ldm.sampling.model import Model
from ldm.sampling.requests import Source, taken

SESSIONS = 100  # visitors whose samples and history are kept, below 1 MB each


def prepare(folder: str, limits: Limits) -> None:
    """Set what Gradio reads at import: its own folder for files, and no telemetry."""
    for key in [
        key for key in os.environ if key.startswith("GRADIO_")
    ]:  # GRADIO_SHARE, GRADIO_ALLOWED_PATHS and their like
        del os.environ[key]
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
    if find_spec("gradio") is None:
        raise Refusal("the page needs the package gradio; pip install 'ldm[demo]'")
    Image.MAX_IMAGE_PIXELS = (
        limits.pixels // 2
    )  # Pillow refuses at twice that, also where Gradio opens a picture before us
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@dataclass(frozen=True)
class DemoRequest:
    """Which model is shown, where, and the most that a visitor may ask for at once."""

    source: Source
    limits: Limits
    host: str = "127.0.0.1"
    port: int | None = None
    count: int | None = None  # samples at once, None: as is usual for what is made
    data_root: str | None = None  # real data to show beside the samples

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise Refusal(f"--port: {self.port} is not in 1 ... 65535")

    @classmethod
    def parse(cls, words: Mapping[str, Any]) -> "DemoRequest":
        """From the words of a command line. Refusal for what cannot be, whatever the model."""
        most = {key: words[f"max_{key}"] for key in ("steps", "seconds", "upload")}
        limits = Limits(**most | {"upload": most["upload"] * 1_000_000})
        place = {key: words[key] for key in ("host", "port", "data_root")}
        return cls(taken(Source, words), limits, count=words["max_count"], **place)

    def of(self, model: Model, file: Path) -> Site:
        """What the page is of. Refusal where so many samples, or such real data, cannot be."""
        kind = KINDS[model.space.modality]
        limits = replace(self.limits, count=kind.most if self.count is None else self.count)
        path, script = self.path, sample_script()
        return Site(
            model, limits, path, self.source.weights, script, kind.real(file, self.data_root)
        )

    @property
    def path(self) -> str:
        """The checkpoint as sample.py finds it from the folder in which the page was started.

        Where others can reach the page they are not told of folders beyond that one.
        """
        whole, here = Path(self.source.checkpoint).absolute(), Path.cwd()
        if whole.is_relative_to(here):
            return str(whole.relative_to(here))
        return str(whole) if self.host in LOCAL else whole.name


def sample_script() -> str:
    """How sample.py is called in this folder: itself in a checkout, else as it was installed."""
    return "python sample.py" if Path("sample.py").is_file() else "ldm-sample"


def serve(site: Site, file: Path, where: DemoRequest) -> Any:
    """Start the page in threads of its own: Gradio's Blocks, with `local_url` and `close()`.

    Refusal if the port is taken.
    """
    from starlette.middleware import Middleware

    from ldm.demo.fence import Fence
    from ldm.demo.page import THEME, build

    host, port = where.host, where.port
    page, limits = build(site), site.limits
    page.queue(default_concurrency_limit=1, max_size=32, api_open=False)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            inbrowser=False,
            prevent_thread_lock=True,
            show_error=False,
            allowed_paths=[],
            blocked_paths=[str(file), str(file.resolve())],
            max_file_size=limits.upload,
            app_kwargs={"middleware": [Middleware(Fence, host=host, limits=limits)]},
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            run_history=False,
            state_session_capacity=SESSIONS,
            footer_links=[],
            **THEME,
        )
    except OSError:
        raise Refusal(
            f"--port: nothing can listen at {host}:{port or '7860 ... 7959'}; name another"
        ) from None
    return page


def serve_page(request: DemoRequest) -> None:
    """python -m ldm.demo: until Ctrl-C."""
    model = request.source.restore()
    file = find_checkpoint(request.source.checkpoint)
    site = request.of(model, file)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="ldm-demo-") as folder:
        prepare(folder, site.limits)
        page = serve(site, file, request)
        say(f"{request.source.describe(model)}\npage: {page.local_url} (Ctrl-C ends it)")
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)
