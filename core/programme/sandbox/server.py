"""The sandbox vendors as an HTTP server on localhost, which fails requests by configurable rules."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from jobdeck.core.programme.sandbox import messaging_sample, sample, sendgrid, twilio
from jobdeck.core.programme.sandbox.metactf import PREFIX, MetaCtf
from jobdeck.core.programme.sandbox.rules import Rule, Rules, Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TOKEN: Final = "sandbox-token"  # noqa: S105 -- valid in the sandbox only
LARGEST_REQUEST: Final = 64 * 1024
FROM_EMAIL: Final = "dashboard@example.org"
UNSUBSCRIBE_GROUP: Final = 4711
CODES: Final = {401: 20003, 403: 20403, 404: 20404, 429: 20429}

Reply = tuple[int, Any, dict[str, str]]


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
        self.sendgrid = sendgrid.SendGrid(clock)
        self.twilio = twilio.Twilio(clock)
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
        base = f"http://127.0.0.1:{self.port}"
        return {
            "GAME_PLATFORM_API_TOKEN": TOKEN,
            "GAME_PLATFORM_API_BASE_URL": self.metactf_url,
            "GAME_PLATFORM_INTEGRATION_ENABLED": "true",
            "SENDGRID_API_KEY": sendgrid.KEY,
            "SENDGRID_API_BASE_URL": base,
            "SENDGRID_FROM_EMAIL": FROM_EMAIL,
            "SENDGRID_UNSUBSCRIBE_GROUP_ID": str(UNSUBSCRIBE_GROUP),
            "SENDGRID_EVENT_WEBHOOK_PUBLIC_KEY": self.sendgrid.public_key,
            "SMS_PROVIDER": "twilio",
            "TWILIO_ACCOUNT_SID": twilio.ACCOUNT,
            "TWILIO_AUTH_TOKEN": twilio.TOKEN,
            "TWILIO_FROM_NUMBER": twilio.SENDER,
            "TWILIO_API_BASE_URL": base,
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
        if _serves_messages(self):
            return
        fields = dict(parse_qsl(urlsplit(self.path).query))
        self._serve(fields)

    def do_POST(self) -> None:
        if _serves_messages(self):
            return
        length = int(self.headers.get("Content-Length") or 0)
        if length > LARGEST_REQUEST:
            self.close_connection = True
            _send(self, (413, {"detail": "Request body too large"}, {}))
            return
        try:
            fields = json.loads(self.rfile.read(length) or b"{}")
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            problem = {"loc": ["body"], "msg": "JSON decode error", "type": "json_invalid"}
            _send(self, (422, {"detail": [problem]}, {}))
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
        vendor = partial(self._vendor, path, fields)
        _answer(self, rule, vendor, _failed, malformed, about=(path.removeprefix(PREFIX), user))

    def _vendor(self, path: str, fields: dict[str, Any]) -> Reply:
        if not path.startswith(PREFIX):
            return 404, {"detail": "Not Found"}, {}
        path = path.removeprefix(PREFIX) or "/"
        if path != "/" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"detail": "Invalid authentication credentials"}, {}
        reply = self.server.sandbox.metactf.answer(self.command, path, fields)
        return reply.status, reply.body, {}


def _failed(rule: Rule, status: int) -> Reply:
    return status, {"detail": rule.message}, {}


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: dict[str, str]
    content: bytes
    authorization: str | None

    @property
    def is_mail(self) -> bool:
        return self.path.startswith(sendgrid.PREFIX)

    @property
    def about(self) -> str | None:
        """The recipient's number or address; None for a mail to several people."""
        if not self.is_mail:
            return dict(parse_qsl(self.content.decode(errors="replace"))).get("To")
        with suppress(ValueError, LookupError, TypeError):
            people = json.loads(self.content)["personalizations"]
            return str(people[0]["to"][0]["email"]) if len(people) == 1 else None
        return None


def _serves_messages(handler: _Handler) -> bool:
    """Answers a request for the mail or text vendor; returns False for others, without reading them."""
    parts = urlsplit(handler.path)
    if not parts.path.startswith((sendgrid.PREFIX, twilio.PREFIX)):
        return False
    sandbox = handler.server.sandbox
    length = int(handler.headers.get("Content-Length") or 0)
    request = _Request(
        handler.command,
        parts.path,
        dict(parse_qsl(parts.query)),
        handler.rfile.read(length) if length else b"",
        handler.headers.get("Authorization"),
    )
    rule = sandbox.rules.strike(request.method, request.path, request.about)
    malformed = (200 if request.is_mail else None, b"<html>It works")
    vendor, failed = partial(_message_vendor, sandbox, request), partial(_message_failed, sandbox, request)
    _answer(handler, rule, vendor, failed, malformed, about=(request.path, None))
    return True


def _answer(
    handler: _Handler,
    rule: Rule | None,
    vendor: Callable[[], Reply],
    failed: Callable[[Rule, int], Reply],
    malformed: tuple[int | None, bytes],
    *,
    about: tuple[str, str | None],
) -> None:
    """Answers a request as the vendor does, or as the rule changes that; `about` is its path and person.

    `failed` makes the answer for the rule's status. `malformed` is a body, with a status if not the vendor's.
    """
    sandbox = handler.server.sandbox
    reply = _reply(sandbox, rule, vendor, failed, malformed)
    # Before the answer is sent, so that a client with the answer finds the request in the list.
    sandbox.note(Seen(handler.command, *about, reply[0] if reply else None))
    if reply is None:
        handler.close_connection = True
    else:
        _send(handler, reply)


def _reply(
    sandbox: Sandbox,
    rule: Rule | None,
    vendor: Callable[[], Reply],
    failed: Callable[[Rule, int], Reply],
    malformed: tuple[int | None, bytes],
) -> Reply | None:
    """The answer, or None to cut the connection."""
    if rule is None:
        return vendor()
    if rule.status is not None:
        status, body, headers = failed(rule, rule.status)
        return status, body, headers | _retry_after(sandbox, rule)
    if rule.fault == "cut-before":
        return None
    if rule.fault == "slow":
        sandbox.closing.wait(rule.seconds)
    reply = vendor()
    broken: dict[str, Reply | None] = {
        "cut-after": None,
        "malformed": (malformed[0] or reply[0], malformed[1], {}),
        "schema": (reply[0], {"unexpected": True}, {}),
    }
    return broken.get(rule.fault, reply)


def _retry_after(sandbox: Sandbox, rule: Rule) -> dict[str, str]:
    if rule.retry_after is None:
        return {}
    at = datetime.fromtimestamp(sandbox.clock(), UTC) + timedelta(seconds=rule.retry_after)
    return {"Retry-After": format_datetime(at, usegmt=True) if rule.retry_after_as_date else str(rule.retry_after)}


def _message_vendor(sandbox: Sandbox, request: _Request) -> Reply:
    if request.is_mail:
        key = (request.authorization or "").removeprefix("Bearer ")
        path = request.path.removeprefix(sendgrid.PREFIX)
        return sandbox.sendgrid.answer(request.method, path, request.query, request.content, key)
    fields = dict(parse_qsl(request.content.decode(errors="replace"))) if request.method == "POST" else request.query
    path = request.path.removeprefix(twilio.PREFIX)
    return sandbox.twilio.answer(request.method, path, fields, request.authorization)


def _message_failed(sandbox: Sandbox, request: _Request, rule: Rule, status: int) -> Reply:
    if request.is_mail:
        field = "from" if status == 403 and request.path.endswith("mail/send") else None
        _, body, headers = (
            sendgrid.refused_log(status, rule.message)
            if request.path.endswith("/logs")
            else sendgrid.refused(status, rule.message, field)
        )
        if status == 429 and rule.retry_after is None:
            headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(sandbox.clock()) + 60)}
        return status, body, headers
    detail = rule.detail or ""
    code = int(detail) if detail.isdecimal() else CODES.get(status, 20000 + status)
    return sandbox.twilio.refused(status, code, rule.message)


def _send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    """Sends an answer; a client that has closed the connection is ignored."""
    status, body, headers = reply
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with suppress(ConnectionError):
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)
