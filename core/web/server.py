"""The server: it lets nobody in without the token, and connects each page with a dashboard of its own.

The page with the terminal loads nothing from other servers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from aiohttp import WSCloseCode, WSMsgType, web

from jobdeck.core.errors import ConfigurationError
from jobdeck.core.logs import bound, event
from jobdeck.core.web.gate import COOKIE, Gate, Strangers
from jobdeck.core.web.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from importlib.resources.abc import Traversable

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 20.0
"""How often a page is asked whether it is still there."""
LONGEST_MESSAGE: Final = 1_048_576
"""Maximum size of a message from a page in bytes. What is pasted is one message."""
LINGER_SECONDS: Final = 2.0
"""How long the rest of a request is read that was answered before its end."""
LOGGERS: Final = ("asyncio", "aiohttp.server")
"""What strangers can make write into the log."""
HOST: Final = re.compile(r"[\w.\[\]:-]{1,100}", re.ASCII)
NO_TERMINAL: Final = "No terminal could be made on this server."

FILES: Final = {
    "textual.js": ("js/textual.js", "text/javascript"),
    "xterm.css": ("css/xterm.css", "text/css"),
    "mono.ttf": ("fonts/RobotoMono-VariableFont_wght.ttf", "font/ttf"),
}
"""Files of textual-serve by their names on this server, with their places in its `static` folder and their types."""

STYLE: Final = """
@font-face { font-family: "Roboto Mono"; src: url("mono.ttf"); font-weight: 100 700; }
html, body { margin: 0; height: 100%; overflow: hidden; background: #0c0c0c; color: #e0e0e0; }
body { font: 16px "Roboto Mono", monospace; }
.textual-terminal { width: 100vw; height: 100vh; }
.message { display: none; position: absolute; inset: 0; z-index: 20; background: #0c0c0c; padding: 20vh 10vw; }
body:not(.-first-byte) .starting, body.-closed .closed { display: block; }
body.-closed .starting { display: none; }
a { color: #8ab4f8; }
"""

SCRIPT: Final = """
addEventListener("load", () => document.querySelector(".xterm-helper-textarea").focus());
"""
"""Gives the keys to the terminal. The load handler of textual.js, which makes it, was added before."""

OWN: Final = {"style.css": (STYLE, "text/css"), "page.js": (SCRIPT, "text/javascript")}

PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Jobdeck</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="xterm.css">
<link rel="stylesheet" href="style.css">
<script src="textual.js"></script>
<script src="page.js"></script>
</head>
<body>
<div class="message starting">Starting the dashboard…</div>
<div class="message closed">The dashboard has ended, or no more can be opened. <a href="?">Open it again</a></div>
<div id="terminal" class="textual-terminal" data-session-websocket-url="%s" data-font-size="15"></div>
</body>
</html>
"""

ENTERED: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Jobdeck</title>
<meta http-equiv="refresh" content="0; url=%s">
</head>
<body><a href="%s">Open the dashboard</a></body>
</html>
"""
"""The answer to the token. It leads to the page as a page of this server, so that the browser sends the cookie."""

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; img-src data:; "
    "connect-src 'self' ws://%s; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The terminal's script makes style elements of its own, so styles in the page are allowed. Nothing else is."""


@dataclass
class Dashboards:
    """How the dashboards of the pages are started: the command, changes of its environment, how many at a time.

    A dashboard whose page is gone has `patience` seconds to end.
    """

    command: Sequence[str]
    environ: Mapping[str, str]
    most: int = 4
    patience: float = 30.0


@dataclass
class Site:
    """One server. `shown` is called with each address that a person can open; it has a secret in it."""

    gate: Gate
    dashboards: Dashboards
    shown: Callable[[str], None]
    _open: int = 0
    _strangers: Strangers = field(init=False)
    _pages: set[web.WebSocketResponse] = field(default_factory=set)

    async def serve(self, host: str, port: int, stopped: Callable[[], Awaitable[object]]) -> None:
        """Serves until what `stopped` returns is over, then ends all dashboards.

        Raises:
            ConfigurationError: the address cannot be used.
        """
        for name in LOGGERS:
            bound(name)
        runner = web.AppRunner(
            self._application(), access_log=None, shutdown_timeout=self.dashboards.patience + 5,
            lingering_time=LINGER_SECONDS,
        )  # fmt: skip
        await runner.setup()
        assert runner.server is not None  # noqa: S101 -- it is there after setup
        self._strangers = Strangers(runner.server)
        listening: asyncio.Server | None = None
        try:
            listening = await self._listening(host, port)
            self.gate.listens_at(listening.sockets[0].getsockname()[1])
            self.shown(self.gate.address)
            await stopped()
        finally:
            if listening is not None:
                listening.close()
            await runner.cleanup()

    async def _listening(self, host: str, port: int) -> asyncio.Server:
        try:
            return await asyncio.get_running_loop().create_server(self._strangers, host, port)
        except OSError as error:
            reason = error.strerror or "the address cannot be used"
            raise ConfigurationError(f"Nothing can listen at {host}:{port} ({reason}). Give another --port.") from None

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard], client_max_size=0)
        place = self.gate.place
        application.router.add_get(place, self._page)
        application.router.add_get(f"{place}socket", self._socket)
        application.router.add_get(f"{place}{{name}}", self._file)
        application.on_response_prepare.append(_protect)
        application.on_shutdown.append(self._close_pages)
        return application

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuses a request without the token or the cookie before it reads the path."""
        refusal = self.gate.refusal(request.headers)
        if refusal is not None:
            return _refused(refusal)
        if self._enters(request):
            self._strangers.knows(request.protocol)
            return self._entered()
        if not self.gate.knows(request.cookies.get(COOKIE, "")):
            return _refused("Open the address that `jobdeck web` shows.")
        self._strangers.knows(request.protocol)
        try:
            return await handler(request)
        except web.HTTPException as error:
            return web.Response(status=error.status, text=f"{error.reason}\n")

    def _enters(self, request: web.Request) -> bool:
        here = request.method == "GET" and request.path == self.gate.place
        return here and self.gate.spends(request.query.get("token", ""))

    def _entered(self) -> web.Response:
        self.shown(self.gate.address)
        place = self.gate.place
        response = web.Response(text=ENTERED % (place, place), content_type="text/html")
        response.set_cookie(COOKIE, self.gate.cookie, path=place, httponly=True, samesite="Strict")
        return response

    async def _page(self, request: web.Request) -> web.Response:
        address = f"ws://{request.headers['Host']}{self.gate.place}socket"
        return web.Response(text=PAGE % address, content_type="text/html")

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name in OWN:
            text, kind = OWN[name]
            return web.Response(text=text, content_type=kind)
        if name not in FILES:
            raise web.HTTPNotFound
        path, kind = FILES[name]
        return web.Response(body=_static().joinpath(path).read_bytes(), content_type=kind)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if not self.gate.is_from_our_page(request.headers):
            return web.Response(status=403, text="Only the page of this server may connect.\n")
        if self._open >= self.dashboards.most:
            return web.Response(status=503, text=f"{self._open} dashboards are open; close one first.\n")
        self._open += 1
        page = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS, max_msg_size=LONGEST_MESSAGE)
        self._pages.add(page)
        try:
            await page.prepare(request)
            await self._connect(page, _number(request.query.get("width"), 80), _number(request.query.get("height"), 24))
        finally:
            self._pages.discard(page)
            self._open -= 1
        return page

    async def _connect(self, page: web.WebSocketResponse, width: int, height: int) -> None:
        """Runs a dashboard for the page until one of both ends."""
        known = self.dashboards
        try:
            terminal = await Terminal.start(known.command, known.environ, width=width, height=height)
        except OSError as error:
            event(log, logging.ERROR, "a dashboard could not be started", reason=error.strerror)
            await page.close(code=WSCloseCode.TRY_AGAIN_LATER, message=NO_TERMINAL.encode())
            return
        event(log, logging.INFO, "a page was opened", pid=terminal.process.pid)
        parts = [asyncio.ensure_future(_show(page, terminal)), asyncio.ensure_future(_type(page, terminal))]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await asyncio.shield(self._end(page, terminal))

    async def _end(self, page: web.WebSocketResponse, terminal: Terminal) -> None:
        closing = asyncio.ensure_future(page.close())
        await terminal.end(self.dashboards.patience)
        with suppress(OSError):
            await closing
        event(log, logging.INFO, "a page was closed", pid=terminal.process.pid, code=terminal.process.returncode)

    async def _close_pages(self, _application: web.Application) -> None:
        for page in list(self._pages):
            await page.close(code=WSCloseCode.GOING_AWAY)


def _refused(sentence: str) -> web.Response:
    """The last response of a connection to a stranger."""
    response = web.Response(status=403, text=f"{sentence}\n")
    response.force_close()
    return response


async def _protect(request: web.Request, response: web.StreamResponse) -> None:
    """Adds the headers that protect the page; no response names the server's software."""
    response.headers.pop("Server", None)
    response.headers.update(HEADERS)
    host = request.headers.get("Host", "")
    if HOST.fullmatch(host):
        response.headers["Content-Security-Policy"] = POLICY % host


async def _show(page: web.WebSocketResponse, terminal: Terminal) -> None:
    """Sends the page what the dashboard writes, no faster than the page takes it."""
    while written := await terminal.read():
        await page.send_bytes(written)


async def _type(page: web.WebSocketResponse, terminal: Terminal) -> None:
    """Hands the dashboard what the page sends. A message that is none of the page's ends the connection."""
    async for message in page:
        try:
            if message.type is not WSMsgType.TEXT:
                raise TypeError  # noqa: TRY301 -- handled like every other malformed message
            kind, *rest = json.loads(message.data)
            if kind == "stdin":
                await terminal.write(str(rest[0]).encode("utf-8", "replace"))
            elif kind == "resize":
                terminal.resize(int(rest[0]["width"]), int(rest[0]["height"]))
            elif kind == "ping":
                await page.send_json(["pong", rest[0]])
        except (ValueError, TypeError, KeyError, IndexError, OverflowError):
            await page.close(code=WSCloseCode.POLICY_VIOLATION, message=b"The message cannot be read.")
            return


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 5 else otherwise


def _static() -> Traversable:
    return files("textual_serve") / "static"
