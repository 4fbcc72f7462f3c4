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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from jobdeck.core.programme.sandbox import messaging_sample, sample, sendgrid, twilio
from jobdeck.core.programme.sandbox.metactf import PREFIX, MetaCtf
from jobdeck.core.programme.sandbox.rules import Reply, Rule, Rules, Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TOKEN: Final = "sandbox-token"  # noqa: S105 -- valid in the sandbox only
LARGEST_REQUEST: Final = 64 * 1024
FROM_EMAIL: Final = "dashboard@example.org"
UNSUBSCRIBE_GROUP: Final = 4711
CODES: Final = {401: 20003, 403: 20403, 404: 20404, 429: 20429}


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
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        """Logs nothing: a query may contain a person's id."""

    def _serve(self) -> None:
        """Answers a request as its vendor does, or as a rule changes that."""
        sandbox, parts = self.server.sandbox, urlsplit(self.path)
        vendor = next(one for one in VENDORS if parts.path.startswith(one.prefix))
        length = int(self.headers.get("Content-Length") or 0)
        if vendor.largest is not None and length > vendor.largest:
            self.close_connection = True
            self._send((413, {"detail": "Request body too large"}, {}))
            return
        content = self.rfile.read(length) if length else b""
        query = dict(parse_qsl(parts.query))
        request = _Request(self.command, parts.path, query, content, self.headers.get("Authorization"))
        about = vendor.about(request)
        reply = _reply(sandbox, vendor, request, sandbox.rules.strike(request.method, request.path, about))
        # Before the answer is sent, so that a client with the answer finds the request in the list.
        person = about if vendor is PLATFORM else None
        sandbox.note(Seen(request.method, request.path.removeprefix(PREFIX), person, reply[0] if reply else None))
        if reply is None:
            self.close_connection = True
        else:
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        """Sends an answer; a client that has closed the connection is ignored."""
        status, body, headers = reply
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
        with suppress(ConnectionError):
            self.send_response(status)
            for name, value in sent.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: dict[str, str]
    content: bytes
    authorization: str | None

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.content.decode(errors="replace")))

    @property
    def json(self) -> Any:
        """The content; None if it is not JSON."""
        with suppress(ValueError):
            return json.loads(self.content)
        return None


@dataclass(frozen=True, slots=True)
class _Vendor:
    """How the server speaks for a vendor.

    `about` is the person, number or address of a request, `failed` the answer for the status of a rule. `malformed` is
    a body, with a status if not the vendor's.
    """

    prefix: str
    about: Callable[[_Request], str | None]
    answer: Callable[[Sandbox, _Request], Reply]
    failed: Callable[[Sandbox, _Request, Rule, int], Reply]
    malformed: tuple[int | None, bytes]
    largest: int | None = None


def _reply(sandbox: Sandbox, vendor: _Vendor, request: _Request, rule: Rule | None) -> Reply | None:
    """The answer, or None to cut the connection."""
    if rule is None:
        return vendor.answer(sandbox, request)
    if rule.status is not None:
        status, body, headers = vendor.failed(sandbox, request, rule, rule.status)
        return status, body, headers | _retry_after(sandbox, rule)
    if rule.fault == "cut-before":
        return None
    if rule.fault == "slow":
        sandbox.closing.wait(rule.seconds)
    reply = vendor.answer(sandbox, request)
    code, body = vendor.malformed
    broken: dict[str, Reply | None] = {
        "cut-after": None,
        "malformed": (code or reply[0], body, {}),
        "schema": (reply[0], {"unexpected": True}, {}),
    }
    return broken.get(rule.fault, reply)


def _retry_after(sandbox: Sandbox, rule: Rule) -> dict[str, str]:
    if rule.retry_after is None:
        return {}
    at = datetime.fromtimestamp(sandbox.clock(), UTC) + timedelta(seconds=rule.retry_after)
    return {"Retry-After": format_datetime(at, usegmt=True) if rule.retry_after_as_date else str(rule.retry_after)}


def _fields(request: _Request) -> Any:
    if request.method == "GET":
        return request.query
    return request.json if request.content else {}


def _about_player(request: _Request) -> str | None:
    fields = _fields(request)
    return fields.get("syned_user_id") if isinstance(fields, dict) else None


def _play(sandbox: Sandbox, request: _Request) -> Reply:
    fields = _fields(request)
    if not isinstance(fields, dict):
        return 422, {"detail": [{"loc": ["body"], "msg": "JSON decode error", "type": "json_invalid"}]}, {}
    if not request.path.startswith(PREFIX):
        return 404, {"detail": "Not Found"}, {}
    path = request.path.removeprefix(PREFIX) or "/"
    if path != "/" and request.authorization != f"Bearer {TOKEN}":
        return 401, {"detail": "Invalid authentication credentials"}, {}
    return *sandbox.metactf.answer(request.method, path, fields), {}


def _about_mail(request: _Request) -> str | None:
    """The address; None for a mail to several people."""
    with suppress(LookupError, TypeError):
        people = request.json["personalizations"]
        return str(people[0]["to"][0]["email"]) if len(people) == 1 else None
    return None


def _mail(sandbox: Sandbox, request: _Request) -> Reply:
    key = (request.authorization or "").removeprefix("Bearer ")
    path = request.path.removeprefix(sendgrid.PREFIX)
    return sandbox.sendgrid.answer(request.method, path, request.query, request.content, key)


def _mail_failed(sandbox: Sandbox, request: _Request, rule: Rule, status: int) -> Reply:
    if request.path.endswith("/logs"):
        reply = sendgrid.refused_log(status, rule.message)
    else:
        about_sender = status == 403 and request.path.endswith("mail/send")
        reply = sendgrid.refused(status, rule.message, "from" if about_sender else None)
    if status == 429 and rule.retry_after is None:
        reset = str(int(sandbox.clock()) + 60)
        return status, reply[1], {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
    return reply


def _text(sandbox: Sandbox, request: _Request) -> Reply:
    fields = request.form if request.method == "POST" else request.query
    return sandbox.twilio.answer(
        request.method, request.path.removeprefix(twilio.PREFIX), fields, request.authorization
    )


def _text_failed(sandbox: Sandbox, _request: _Request, rule: Rule, status: int) -> Reply:
    detail = rule.detail or ""
    code = int(detail) if detail.isdecimal() else CODES.get(status, 20000 + status)
    return sandbox.twilio.refused(status, code, rule.message)


PLATFORM: Final = _Vendor(
    "", _about_player, _play, lambda _, __, rule, status: (status, {"detail": rule.message}, {}),
    (None, b'{"syned_user_id": "c-1", "challenge_so'), LARGEST_REQUEST,
)  # fmt: skip
VENDORS: Final = (
    _Vendor(sendgrid.PREFIX, _about_mail, _mail, _mail_failed, (200, b"<html>It works")),
    _Vendor(twilio.PREFIX, lambda request: request.form.get("To"), _text, _text_failed, (None, b"<html>It works")),
    PLATFORM,
)
"""The first whose prefix a path has answers it."""
