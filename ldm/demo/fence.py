"""Who may talk to the page, by which routes and how much, checked before Gradio sees a request."""

import ipaddress
import re
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from ldm.demo.limits import Limits
from ldm.errors import say

Message = MutableMapping[str, Any]

# a browser then loads nothing from elsewhere, whatever Gradio's page asks for
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
# routes by which Gradio fetches for others, works past its queue, or does what this page has no use
# for
CLOSED = re.compile(
    r"(/gradio_api)?/((proxy=|file[=/]https?:)|"
    r"(run|api|runs|run-history|process_recording|vibe-\w+|undo-vibe-edit|dev|"
    r"deep_link|monitoring|profiling|custom_component)(/|$))"
)
SENDING = ("/gradio_api/upload", "/gradio_api/component_server")  # files and strokes
LOCAL = ("localhost", "127.0.0.1", "::1")
HOUR = 3600 + 600  # s after which Gradio has taken a file away


def own_names(host: str) -> tuple[set[str], bool]:
    """What this page is called by those who may reach it at `host`, and whether by any address too.

    A name of somebody else's that leads here (DNS rebinding) is none of them; an address cannot be
    one.
    """
    everywhere = host in ("0.0.0.0", "::", "")
    names = {*LOCAL} if everywhere or host in LOCAL else {host.lower()}
    return names | (
        {socket.gethostname().lower(), socket.getfqdn().lower()} if everywhere else set()
    ), everywhere


class Uploads:
    """How much was sent in the last hour, by each visitor and by all."""

    def __init__(self, session: int, total: int, now: Callable[[], float] = time.monotonic):
        self.session, self.total, self.now = session, total, now
        self.sent: deque[tuple[float, str, int]] = deque()

    def take(self, visitor: str, size: int) -> str:
        """Count it; or say, in one line, why it is not taken."""
        while self.sent and self.sent[0][0] < self.now() - HOUR:
            self.sent.popleft()
        mine = sum(s for _, who, s in self.sent if who == visitor)
        for what, sent, most in (
            ("you", mine, self.session),
            ("all visitors", sum(s for *_, s in self.sent), self.total),
        ):
            if sent + size > most:
                said = f"upload: {what} sent {sent / 1e6:.0f} MB in the last hour"
                return f"{said}, at most {most / 1e6:.0f} MB are taken"
        self.sent.append((self.now(), visitor, size))
        return ""


class Fence:
    """ASGI middleware: own names alone, bounded bodies, open routes, the policy on all answers.

    Whatever a request makes Gradio raise is one line of the log and an answer of 400.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], host: str, limits: Limits):
        self.app, self.limits = app, limits
        self.names, self.addresses = own_names(host)
        self.uploads = Uploads(limits.session, limits.total)

    async def __call__(
        self, scope: Message, receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, why = self.refusal(scope)
        if status:
            return await answer(send, status, why)
        begun = False

        async def marked(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                more = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
                message["headers"] = [
                    *message.get("headers", []),
                    *more,
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        try:
            await self.app(scope, receive, marked)
        except (
            Exception
        ) as error:  # of Gradio, about a request that its own page would not have sent
            say(
                f"page: {scope['path']:.100}: {type(error).__name__}: "
                f"{' '.join(str(error).split()):.200}"
            )
            if not begun:
                await answer(send, 400, "this is no request of the page's")

    def refusal(self, scope: Message) -> tuple[int, str]:
        """A status and a line where a request is not taken; 0 where it is."""
        headers = [(key.lower(), value.decode("latin-1")) for key, value in scope["headers"]]
        hosts = [value for key, value in headers if key == b"host"]
        if len(hosts) != 1 or not self.own(f"//{hosts[0]}"):
            return 403, "this page is not of that name"
        if any(key == b"origin" and urlsplit(value).netloc != hosts[0] for key, value in headers):
            return 403, "this page answers to itself alone"
        if CLOSED.match(scope["path"]):
            return 403, "this route is closed"
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return 0, ""
        return self.too_much(scope, dict(headers))

    def own(self, url: str) -> bool:
        try:
            name = urlsplit(url).hostname or ""
            return name in self.names or (self.addresses and bool(ipaddress.ip_address(name)))
        except ValueError:
            return False

    def too_much(self, scope: Message, headers: dict[bytes, str]) -> tuple[int, str]:
        """A status and a line for a body too large or of unknown length; else 0."""
        length = headers.get(b"content-length", "0" if b"transfer-encoding" not in headers else "")
        if not length.isdecimal():
            return 411, "say how long it is"
        keeps = scope["path"].startswith(SENDING)
        most = self.limits.upload + 100_000 if keeps else self.limits.body
        if int(length) > most:
            return (
                413,
                f"{int(length) / 1e6:.1f} MB are too much, at most {most / 1e6:.1f} MB are taken",
            )
        why = self.uploads.take((scope.get("client") or ("",))[0], int(length)) if keeps else ""
        return (429, why) if why else (0, "")


async def answer(send: Callable[..., Any], status: int, line: str) -> None:
    """A whole answer of one line."""
    body = line.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
