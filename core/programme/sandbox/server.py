"""The sandbox vendors as an HTTP server on localhost, which fails requests by configurable rules."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from jobdeck.core.programme.sandbox import messaging, messaging_sample, sample
from jobdeck.core.programme.sandbox.metactf import PREFIX, MetaCtf
from jobdeck.core.programme.sandbox.rules import Rule, Rules, Seen
from jobdeck.core.programme.sandbox.sendgrid import SendGrid
from jobdeck.core.programme.sandbox.twilio import Twilio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TOKEN: Final = "sandbox-token"  # noqa: S105 -- valid in the sandbox only
LARGEST_REQUEST: Final = 64 * 1024


class Sandbox:
    """The sandbox vendors on 127.0.0.1. As a context manager it serves from entry to exit.

    Args:
        port: 0 picks a free port.
        rules: faults that are active from the start, as text or `Rule`.
        people: whether the sample's accounts exist, with new activity at each poll.
        clock: returns unix seconds, for new activity and for HTTP dates.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        rules: Iterable[Rule | str] = (),
        people: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.rules = Rules(rules)
        self.metactf = MetaCtf(clock)
        self.sendgrid = SendGrid(clock)
        self.twilio = Twilio(clock)
        self.clock = clock
        self.closing = threading.Event()
        self._seen: list[Seen] = []
        self._lock = threading.Lock()
        if people:
            sample.populate(self.metactf)
            messaging_sample.populate(self.sendgrid, self.twilio)
        self._server = _Server(("127.0.0.1", port), self)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="sandbox", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the server and closes all connections."""
        self.closing.set()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.hang_up()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def metactf_url(self) -> str:
        """The value of `GAME_PLATFORM_API_BASE_URL` for this sandbox."""
        return f"http://127.0.0.1:{self.port}{PREFIX}"

    def settings_env(self) -> dict[str, str]:
        """The environment variables that point Jobdeck at this sandbox."""
        return {
            "GAME_PLATFORM_API_TOKEN": TOKEN,
            "GAME_PLATFORM_API_BASE_URL": self.metactf_url,
            "GAME_PLATFORM_INTEGRATION_ENABLED": "true",
            **messaging.settings_env(self),
        }

    @property
    def requests(self) -> list[Seen]:
        """All requests since the start or the last `forget`, oldest first, without bodies."""
        with self._lock:
            return list(self._seen)

    def forget(self) -> None:
        with self._lock:
            self._seen.clear()

    def note(self, seen: Seen) -> None:
        with self._lock:
            self._seen.append(seen)


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs nothing: tests close connections on purpose."""

    def hang_up(self) -> None:
        """Closes every connection, so that threads waiting for a request end."""
        with self._open_lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "sandbox"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        if messaging.serves(self, self.server.sandbox):
            return
        fields = dict(parse_qsl(urlsplit(self.path).query))
        self._serve(fields)

    def do_POST(self) -> None:
        if messaging.serves(self, self.server.sandbox):
            return
        length = int(self.headers.get("Content-Length") or 0)
        if length > LARGEST_REQUEST:
            self.close_connection = True
            messaging.send(self, (413, {"detail": "Request body too large"}, {}))
            return
        try:
            fields = json.loads(self.rfile.read(length) or b"{}")
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            problem = {"loc": ["body"], "msg": "JSON decode error", "type": "json_invalid"}
            messaging.send(self, (422, {"detail": [problem]}, {}))
            return
        self._serve(fields)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        """Logs nothing: a query may contain a person's id."""

    def _serve(self, fields: dict[str, Any]) -> None:
        sandbox = self.server.sandbox
        path = urlsplit(self.path).path
        user = fields.get("syned_user_id")
        rule = sandbox.rules.strike(self.command, path, user)
        malformed = (None, b'{"syned_user_id": "c-1", "challenge_so')
        reply = messaging.respond(sandbox, rule, partial(self._vendor, path, fields), _failed, malformed)
        # Before the answer is sent, so that a client with the answer finds the request in the list.
        sandbox.note(Seen(self.command, path.removeprefix(PREFIX), user, reply[0] if reply else None))
        if reply is None:
            self.close_connection = True
        else:
            messaging.send(self, reply)

    def _vendor(self, path: str, fields: dict[str, Any]) -> messaging.Reply:
        if not path.startswith(PREFIX):
            return 404, {"detail": "Not Found"}, {}
        path = path.removeprefix(PREFIX) or "/"
        if path != "/" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"detail": "Invalid authentication credentials"}, {}
        reply = self.server.sandbox.metactf.answer(self.command, path, fields)
        return reply.status, reply.body, {}


def _failed(rule: Rule, status: int) -> messaging.Reply:
    return status, {"detail": rule.message}, {}
