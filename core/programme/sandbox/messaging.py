"""The HTTP side of the sandbox's mail and text vendors: routing, faults by rule, and settings."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qsl, urlsplit

from jobdeck.core.programme.sandbox import sendgrid, twilio
from jobdeck.core.programme.sandbox.rules import Seen

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from http.server import BaseHTTPRequestHandler

    from jobdeck.core.programme.sandbox.rules import Rule, Rules

Reply = tuple[int, Any, dict[str, str]]

FROM_EMAIL: Final = "dashboard@example.org"
UNSUBSCRIBE_GROUP: Final = 4711
CODES: Final = {401: 20003, 403: 20403, 404: 20404, 429: 20429}


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


class Vendors(Protocol):
    """What of the sandbox its mail and text vendors need."""

    rules: Rules
    sendgrid: sendgrid.SendGrid
    twilio: twilio.Twilio
    clock: Callable[[], float]
    closing: threading.Event

    @property
    def port(self) -> int:
        """Where it listens."""

    def note(self, seen: Seen) -> None:
        """Keeps a request in the list of those received."""


def settings_env(sandbox: Vendors) -> dict[str, str]:
    """The environment variables that make Jobdeck send mail and text messages to this sandbox."""
    base = f"http://127.0.0.1:{sandbox.port}"
    return {
        "SENDGRID_API_KEY": sendgrid.KEY,
        "SENDGRID_API_BASE_URL": base,
        "SENDGRID_FROM_EMAIL": FROM_EMAIL,
        "SENDGRID_UNSUBSCRIBE_GROUP_ID": str(UNSUBSCRIBE_GROUP),
        "SENDGRID_EVENT_WEBHOOK_PUBLIC_KEY": sandbox.sendgrid.public_key,
        "SMS_PROVIDER": "twilio",
        "TWILIO_ACCOUNT_SID": twilio.ACCOUNT,
        "TWILIO_AUTH_TOKEN": twilio.TOKEN,
        "TWILIO_FROM_NUMBER": twilio.SENDER,
        "TWILIO_API_BASE_URL": base,
    }


def serves(handler: BaseHTTPRequestHandler, sandbox: Vendors) -> bool:
    """Answers a request for the mail or text vendor; returns False for others, without reading them."""
    parts = urlsplit(handler.path)
    if not parts.path.startswith((sendgrid.PREFIX, twilio.PREFIX)):
        return False
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
    reply = respond(sandbox, rule, partial(_vendor, sandbox, request), partial(_failed, sandbox, request), malformed)
    # Before the answer is sent, so that a client with the answer finds the request in the list.
    sandbox.note(Seen(request.method, request.path, None, reply[0] if reply else None))
    if reply is None:
        handler.close_connection = True
    else:
        send(handler, reply)
    return True


def respond(
    sandbox: Vendors,
    rule: Rule | None,
    vendor: Callable[[], Reply],
    failed: Callable[[Rule, int], Reply],
    malformed: tuple[int | None, bytes],
) -> Reply | None:
    """The vendor's answer as the rule changes it, or None to cut the connection.

    `failed` makes the answer for the rule's status. `malformed` is a body, with a status if not the vendor's.
    """
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


def _retry_after(sandbox: Vendors, rule: Rule) -> dict[str, str]:
    if rule.retry_after is None:
        return {}
    at = datetime.fromtimestamp(sandbox.clock(), UTC) + timedelta(seconds=rule.retry_after)
    return {"Retry-After": format_datetime(at, usegmt=True) if rule.retry_after_as_date else str(rule.retry_after)}


def _vendor(sandbox: Vendors, request: _Request) -> Reply:
    if request.is_mail:
        key = (request.authorization or "").removeprefix("Bearer ")
        path = request.path.removeprefix(sendgrid.PREFIX)
        return sandbox.sendgrid.answer(request.method, path, request.query, request.content, key)
    fields = dict(parse_qsl(request.content.decode(errors="replace"))) if request.method == "POST" else request.query
    path = request.path.removeprefix(twilio.PREFIX)
    return sandbox.twilio.answer(request.method, path, fields, request.authorization)


def _failed(sandbox: Vendors, request: _Request, rule: Rule, status: int) -> Reply:
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


def send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    """Sends an answer; a client that has closed the connection is ignored."""
    status, body, headers = reply
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with suppress(ConnectionError):
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)
