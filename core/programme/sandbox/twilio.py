"""Twilio's Messages resource in memory. Its test numbers fail as Twilio documents."""

from __future__ import annotations

import base64
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from jobdeck.core.programme.sandbox.rules import AcceptanceLog, Reply
from jobdeck.core.programme.vendors.sms import segments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Json = dict[str, Any]

ACCOUNT: Final = "AC00000000000000000000000000000000"
TOKEN: Final = "sandbox-token"  # noqa: S105 -- valid in the sandbox only
SENDER: Final = "+15005550006"
PREFIX: Final = "/2010-04-01/"

TO: Final = {
    "+15005550001": (21211, "The 'To' number is not a valid phone number."),
    "+15005550002": (21612, "The 'To' phone number is not currently reachable using the 'From' phone number."),
    "+15005550003": (21408, "Permission to send an SMS has not been enabled for the region of the 'To' number."),
    "+15005550004": (21610, "Attempt to send to unsubscribed recipient"),
    "+15005550009": (21614, "The 'To' number is not a valid mobile number."),
}
FROM: Final = {
    "+15005550001": (21212, "The 'From' number is not a valid phone number."),
    "+15005550007": (21606, "The 'From' phone number is not a valid, SMS-capable number for this account."),
    "+15005550008": (21611, "This 'From' number has exceeded the maximum number of queued messages"),
}
"""Twilio's magic numbers (its documentation, "Test Credentials")."""


@dataclass(slots=True)
class Message:
    sid: str
    to: str = field(repr=False)
    sender: str = field(repr=False)
    body: str = field(repr=False)
    direction: str
    at: float
    status: str
    error_code: int | None = None


class Twilio:
    """The vendor. Thread-safe; `clock` returns unix seconds.

    `fates` maps numbers to the outcome of their texts: a status (default `delivered`) or a delivery error such as
    30007. With `problem_details`, refusals have the format of RFC 9457.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.accepted = AcceptanceLog()
        self.fates: dict[str, str | int] = {}
        self.problem_details = False
        self.account_status = "active"
        self._stopped: set[str] = set()
        self._messages: dict[str, Message] = {}
        self._clock = clock
        self._lock = threading.RLock()

    def answer(self, method: str, path: str, fields: Mapping[str, str], authorization: str | None) -> Reply:
        """Answers one request; `path` has no prefix."""
        if authorization != f"Basic {base64.b64encode(f'{ACCOUNT}:{TOKEN}'.encode()).decode()}":
            return self.refused(401, 20003, "Authenticate")
        if method == "GET" and path == f"Accounts/{ACCOUNT}.json":
            return 200, {"sid": ACCOUNT, "status": self.account_status, "friendly_name": "Sandbox"}, {}
        resource = path.removeprefix(f"Accounts/{ACCOUNT}/")
        if resource == "Messages.json":
            return self._create(fields) if method == "POST" else self._list(fields)
        if method == "GET" and resource.startswith("Messages/") and resource.endswith(".json"):
            with self._lock:
                found = self._messages.get(resource.removeprefix("Messages/").removesuffix(".json"))
                return (200, self._json(found), {}) if found else self.refused(404, 20404, "Not found")
        return self.refused(404, 20404, "The requested resource was not found")

    def stop(self, number: str) -> None:
        """Simulates the answer STOP, after which texts to this number are refused."""
        self._inbound(number, "STOP")
        self._stopped.add(number)

    def start(self, number: str) -> None:
        """Simulates the answer START, which ends the effect of STOP."""
        self._inbound(number, "START")
        self._stopped.discard(number)

    def _inbound(self, number: str, body: str) -> None:
        with self._lock:
            sid = f"SM{uuid4().hex}"
            self._messages[sid] = Message(sid, SENDER, number, body, "inbound", self._clock(), "received")

    def _create(self, fields: Mapping[str, str]) -> Reply:
        to, body = fields.get("To", ""), fields.get("Body", "")
        sender = fields.get("From") or fields.get("MessagingServiceSid") or ""
        problem = self._problem(to, sender, body)
        if problem is not None:
            return self.refused(429 if problem[0] == 21611 else 400, *problem)
        with self._lock:
            sid = f"SM{uuid4().hex}"
            fate = self.fates.get(to, "delivered")
            status = fate if isinstance(fate, str) else "undelivered"
            code = fate if isinstance(fate, int) else None
            message = Message(sid, to, sender, body, "outbound-api", self._clock(), status, code)
            self._messages[sid] = message
            self.accepted.add(sid, to, self._clock(), text=body, request=dict(fields))
            return 201, self._json(message) | {"status": "queued", "error_code": None}, {}

    def _problem(self, to: str, sender: str, body: str) -> tuple[int, str] | None:
        checks = (
            (not to, (21604, "A 'To' phone number is required.")),
            (not sender, (21603, "A 'From' phone number is required.")),
            (not body, (21602, "Message body is required.")),
            (len(body) > 1600, (21617, "The concatenated message body exceeds the 1600 character limit")),
            (sender in FROM, FROM.get(sender)),
            (to in self._stopped, TO["+15005550004"]),
            (not re.fullmatch(r"\+[1-9]\d{7,14}", to, re.ASCII), TO["+15005550001"]),
        )
        return next((problem for holds, problem in checks if holds), TO.get(to))

    def _list(self, fields: Mapping[str, str]) -> Reply:
        with self._lock:
            found = [
                self._json(one)
                for one in reversed(self._messages.values())
                if fields.get("To") in {None, one.to} and fields.get("From") in {None, one.sender}
            ]
        return 200, {"messages": found, "next_page_uri": None, "page": 0, "page_size": len(found)}, {}

    def _json(self, message: Message) -> Json:
        at = format_datetime(datetime.fromtimestamp(message.at, UTC))
        return {
            "account_sid": ACCOUNT,
            "api_version": "2010-04-01",
            "body": message.body,
            "date_created": at,
            "date_sent": at,
            "date_updated": at,
            "direction": message.direction,
            "error_code": message.error_code,
            "error_message": None,
            "from": message.sender,
            "messaging_service_sid": None,
            "num_media": "0",
            "num_segments": str(segments(message.body)),
            "price": None,
            "price_unit": "USD",
            "sid": message.sid,
            "status": message.status,
            "subresource_uris": {},
            "to": message.to,
            "uri": f"{PREFIX}Accounts/{ACCOUNT}/Messages/{message.sid}.json",
        }

    def refused(self, status: int, code: int, message: str) -> Reply:
        """A refusal in the vendor's format."""
        more = f"https://www.twilio.com/docs/errors/{code}"
        if self.problem_details:
            return status, {"type": more, "title": message, "status": status, "code": code, "detail": message}, {}
        return status, {"code": code, "message": message, "more_info": more, "status": status}, {}
