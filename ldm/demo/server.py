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

from ldm.checkpoints.checkpoint import find_checkpoint
from ldm.demo.kinds import KINDS
from ldm.demo.limits import Limits
from ldm.errors import Refusal, say
from ldm.sampling.model import Model
from ldm.sampling.requests import Source, taken


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

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise Refusal(f"--port: {self.port} is not in 1 ... 65535")

    @classmethod
    def parse(cls, words: Mapping[str, Any]) -> "DemoRequest":
        """From the words of a command line. Refusal for what cannot be, whatever the model."""
        most = {key: words[f"max_{key}"] for key in ("steps", "seconds", "upload")}
        limits = Limits(**most | {"upload": most["upload"] * 1_000_000})
        return cls(taken(Source, words), limits, words["host"], words["port"], words["max_count"])

    def of(self, model: Model) -> Limits:
        """The limits for a model. Refusal where so many samples cannot be."""
        usual = KINDS[model.space.modality].most
        return replace(self.limits, count=usual if self.count is None else self.count)


def serve(model: Model, file: Path, limits: Limits, where: DemoRequest) -> Any:
    """Start the page in threads of its own: Gradio's Blocks, with `local_url` and `close()`.

    Refusal if the port is taken.
    """
    from starlette.middleware import Middleware

    from ldm.demo.fence import Fence
    from ldm.demo.page import THEME, build

    host, port = where.host, where.port
    page = build(model, file.resolve().parent.name, limits)
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
    limits = request.of(model)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="ldm-demo-") as folder:
        prepare(folder, limits)
        file = find_checkpoint(request.source.checkpoint)
        page = serve(model, file, limits, request)
        say(f"{request.source.describe(model)}\npage: {page.local_url} (Ctrl-C ends it)")
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)
