"""How the page is served: to this machine alone, its own files alone, with nothing from elsewhere."""

import os
import signal
import sys
import tempfile
import threading
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.demo.limits import JETS, PICTURES, Limits
from ldm.errors import Refusal, say
from ldm.sampling.model import Model, restore
from ldm.sampling.requests import pick_device


def prepare(folder: str, limits: Limits) -> None:
    """What must be set before Gradio is imported: its own folder for files, and no word to anybody."""
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


def serve(
    model: Model, name: str, limits: Limits, host: str, port: int | None, checkpoint: Path
) -> Any:
    """Start the page in threads of its own: Gradio's Blocks, with `local_url` and `close()`. Refusal if the port is taken."""
    from starlette.middleware import Middleware

    from ldm.demo.fence import Fence
    from ldm.demo.page import THEME, build

    page = build(model, name, limits)
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
            blocked_paths=[str(checkpoint), str(checkpoint.resolve())],
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


def run(
    checkpoint: str,
    weights: str,
    device: str | None,
    host: str,
    port: int | None,
    max_count: int | None,
    max_steps: int,
    max_seconds: int,
    max_upload: int,
) -> None:
    """python -m ldm.demo: until Ctrl-C."""
    if port is not None and not 1 <= port <= 65535:
        raise Refusal(f"--port: {port} is not in 1 ... 65535")
    rest = {"steps": max_steps, "seconds": max_seconds, "upload": max_upload * 1_000_000}
    Limits(**rest)  # what is wrong is said before the model is loaded
    model = restore(checkpoint, weights, pick_device(device))
    usual = JETS if model.space.modality == "jets" else PICTURES
    limits = Limits(count=usual if max_count is None else max_count, **rest)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="ldm-demo-") as folder:
        prepare(folder, limits)
        from ldm.checkpoints.checkpoint import find

        file = find(checkpoint)
        page = serve(model, file.resolve().parent.name, limits, host, port, file)
        say(
            f"{checkpoint}: step {model.step}, {weights} weights\npage: {page.local_url} (Ctrl-C ends it)"
        )
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)
