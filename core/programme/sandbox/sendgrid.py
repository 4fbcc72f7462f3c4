"""SendGrid in memory: `mail/send` with its published rules, delivery results, and signed events.

Formats and limits follow SendGrid's public reference (v3 Mail Send, Email Logs, suppressions, Event Webhook).
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from jobdeck.core.programme.sandbox.rules import AcceptanceLog, Accepted, Problem, Reply, problems_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

Json = dict[str, Any]

KEY: Final = "SG.sandbox.key-that-is-good-for-nothing-else"
PREFIX: Final = "/v3/"
LARGEST_REQUEST: Final = 30 * 1024 * 1024
ALLOWED_PER_MINUTE: Final = 600

FATES: Final = {
    "delivered": ("delivered", {"response": "250 OK"}),
    "bounce": ("bounce", {"type": "bounce", "reason": "550 5.1.1 The account does not exist", "status": "5.1.1"}),
    "blocked": ("bounce", {"type": "blocked", "reason": "421 Try again later", "status": "4.2.1"}),
    "dropped": ("dropped", {"reason": "Bounced Address"}),
    "dropped-unsubscribed": ("dropped", {"reason": "Unsubscribed Address"}),
    "dropped-complaint": ("dropped", {"reason": "Spam Reporting Address"}),
    "dropped-invalid": ("dropped", {"reason": "Invalid"}),
    "dropped-content": ("dropped", {"reason": "Spam Content"}),
    "dropped-header": ("dropped", {"reason": "Invalid SMTPAPI header"}),
    "dropped-quota": ("dropped", {"reason": "Recipient List over Package Quota"}),
}
_LISTS: Final = {
    "bounces": "bounce",
    "blocks": "blocked",
    "spam_reports": "spamreport",
    "unsubscribes": "unsubscribe",
    "invalid_emails": "invalid",
}
_STATUS: Final = {"delivered": "delivered", "bounce": "bounced", "dropped": "dropped"}
_CATEGORY: Final = re.compile(r"categories IN \('([^']+)'\)")
_TIME: Final = re.compile(r'sg_message_id_created_at (>=|<=|>|<) TIMESTAMP "([^"]+)"')
_STATUSES: Final = re.compile(r"status IN \(([^)]*)\)")


class SendGrid:
    """The vendor. Thread-safe; `clock` returns unix seconds, and can be replaced.

    Requests with an address in `refused` are refused. `fates` maps addresses, and `*` for all others, to the outcome of
    their mail: a key of `FATES` (`delivered` is the default), or `none`.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.accepted = AcceptanceLog()
        self.refused: set[str] = set()
        self.fates: dict[str, str] = {}
        self.verified_sender: str | None = None
        self.scopes = ["mail.send", "suppression.read"]
        self.clock = clock
        self._lock = threading.RLock()
        self._listed: list[tuple[str, Json]] = []
        self._groups: list[Json] = []
        self._waiting: list[Json] = []

    def answer(self, method: str, path: str, query: Mapping[str, str], content: bytes, key: str | None) -> Reply:
        """Answers one request; `path` has no prefix, `key` is the bearer token."""
        if key != KEY:
            return refused(401, "The provided authorization grant is invalid, expired, or revoked")
        if method == "POST":
            posted = {"mail/send": self._send, "logs": self._logs}.get(path)
            return posted(content) if posted else refused(404, "not found")
        if path == "scopes":
            return 200, {"scopes": list(self.scopes)}, {}
        if path == "asm/suppressions":
            with self._lock:
                return 200, list(self._groups), {}
        if (group := re.fullmatch(r"asm/groups/(\d{1,9})/suppressions", path)) is not None:
            with self._lock:
                return 200, [one["email"] for one in self._groups if str(one["group_id"]) == group[1]], {}
        return self._suppressions(path.removeprefix("suppression/"), query)

    def _send(self, content: bytes) -> Reply:
        if len(content) > LARGEST_REQUEST:
            return refused(413, "The request body is too large")
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return refused(400, "Bad Request")
        with self._lock:
            found = problems_of(body, self.refused)
            if found:
                return _refused_for(400, found)
            if self.verified_sender not in {None, body["from"]["email"]}:
                return refused(403, "The from address does not match a verified Sender Identity.", "from")
            headers = {
                "X-RateLimit-Limit": str(ALLOWED_PER_MINUTE),
                "X-RateLimit-Remaining": str(ALLOWED_PER_MINUTE - 1),
                "X-RateLimit-Reset": str(int(self.clock()) + 60),
            }
            if body.get("mail_settings", {}).get("sandbox_mode", {}).get("enable") is True:
                return 200, b"", headers
            message_id = base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")
            for place, entry in enumerate(body["personalizations"]):
                self._accept(message_id, place, entry, body)
            return 202, b"", headers | {"X-Message-Id": message_id}

    def _accept(self, message_id: str, place: int, entry: Json, body: Json) -> None:
        parts = {part["type"]: part["value"] for part in body.get("content", [])}
        for to in entry["to"]:
            accepted = self.accepted.add(
                message_id,
                to["email"],
                self.clock(),
                text=parts.get("text/plain", ""),
                html=parts.get("text/html", ""),
                subject=entry.get("subject") or body.get("subject", ""),
                custom_args={**body.get("custom_args", {}), **entry.get("custom_args", {})},
                categories=tuple(body.get("categories", ())),
                group_id=body.get("asm", {}).get("group_id"),
                request={name: value for name, value in body.items() if name != "personalizations"}
                | {"personalization": entry},
            )
            self._report(accepted, place, "processed", {})
            fate = self._fate(to["email"])
            if fate in FATES:
                event, more = FATES[fate]
                self._report(accepted, place, event, more)
                if fate in {"bounce", "blocked"}:
                    self._list(fate, to["email"], str(more["reason"]))

    def _fate(self, address: str) -> str:
        return self.fates.get(address.lower(), self.fates.get("*", "delivered"))

    def report(self, event: str, accepted: Accepted, **more: Any) -> Json:
        """Adds another event to an accepted message, such as `open`, `spamreport` or `group_unsubscribe`."""
        with self._lock:
            if event in {"group_unsubscribe", "group_resubscribe"}:
                more = {"asm_group_id": accepted.group_id, **more}
            made = self._report(accepted, 0, event, more)
            if event in {"spamreport", "unsubscribe"}:
                self._list(event, accepted.address)
            elif event.startswith("group_"):
                self._regroup(accepted.address, more["asm_group_id"], leaves=event == "group_unsubscribe")
            return made

    def _regroup(self, address: str, group: int, *, leaves: bool) -> None:
        """Keeps who left which unsubscribe group, and when."""
        self._groups = [one for one in self._groups if (one["email"], one["group_id"]) != (address, group)]
        if leaves:
            entry = {"email": address, "group_id": group, "group_name": "News", "created_at": int(self.clock())}
            self._groups.append(entry)

    def list_address(
        self, name: str, address: str, reason: str = "Mail domain mentioned in email address is unknown"
    ) -> None:
        """Puts an address on one of the lists of suppressions, such as `invalid_emails`."""
        with self._lock:
            self._list(_LISTS[name], address, reason)

    def _report(self, accepted: Accepted, place: int, event: str, more: Mapping[str, Any]) -> Json:
        made = {
            "email": accepted.address,
            "timestamp": int(self.clock()),
            "event": event,
            "category": list(accepted.categories),
            "sg_event_id": uuid4().hex,
            "sg_message_id": f"{accepted.message_id}.recvd-sandbox-1-{place:X}.{place}",
            **accepted.custom_args,
            **more,
        }
        self._waiting.append(made)
        return made

    def _list(self, name: str, address: str, reason: str = "") -> None:
        told = {"spamreport": {"ip": "192.0.2.1"}, "unsubscribe": {}, "invalid": {"reason": reason}}
        known = told.get(name, {"reason": reason, "status": "5.1.1"})
        self._listed.append((name, {"created": int(self.clock()), "email": address, **known}))

    def _suppressions(self, name: str, query: Mapping[str, str]) -> Reply:
        kind = _LISTS.get(name)
        if kind is None:
            return refused(404, "not found")
        start, end = int(query.get("start_time", 0)), int(query.get("end_time", 2**40))
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 500))
        with self._lock:
            found = [entry for listed, entry in self._listed if listed == kind and start <= entry["created"] <= end]
        return 200, found[offset : offset + limit], {}

    def _logs(self, content: bytes) -> Reply:
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        text, limit = (body.get("query"), body.get("limit", 10)) if isinstance(body, dict) else (None, 10)
        if not isinstance(text, str) or not isinstance(limit, int) or not 1 <= limit <= 1000:
            return refused_log(400, "query is required and limit lies between 1 and 1000")
        category = _CATEGORY.search(text)
        wanted = _STATUSES.search(text)
        statuses = set(re.findall(r"'([^']+)'", wanted[1])) if wanted else None
        found = []
        for one in self.accepted.all:
            fate = self._fate(one.address)
            event, more = FATES.get(fate, ("processed", {}))
            entry = {
                "from_email": one.request["from"]["email"],
                "sg_message_id": f"{one.message_id}.recvd-sandbox-1-0.0",
                "subject": one.subject,
                "to_email": one.address,
                "reason": more.get("reason", ""),
                "status": "blocked" if fate == "blocked" else _STATUS.get(event, "processed"),
                "sg_message_id_created_at": datetime.fromtimestamp(one.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            asked = category is None or category[1] in one.categories
            if asked and _within(one.at, text) and (statuses is None or entry["status"] in statuses):
                found.append(entry)
        return 200, {"messages": found[:limit]}, {}

    @cached_property
    def _signer(self) -> EllipticCurvePrivateKey:
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 -- imported on first use

        return ec.generate_private_key(ec.SECP256R1())

    @cached_property
    def public_key(self) -> str:
        """The value of `SENDGRID_EVENT_WEBHOOK_PUBLIC_KEY` that verifies this vendor's events."""
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 -- imported on first use

        return base64.b64encode(
            self._signer.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        ).decode()

    def signed(self, events: Iterable[Json]) -> tuple[bytes, dict[str, str]]:
        """The body and headers of an Event Webhook request with these events."""
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 -- imported on first use
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 -- imported on first use

        body = json.dumps(list(events)).encode()
        timestamp = str(int(self.clock()))
        signature = self._signer.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        return body, {
            "Content-Type": "application/json",
            "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
            "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
        }

    def take_events(self) -> list[Json]:
        """Removes and returns the waiting events, oldest first."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            return waiting


def _within(at: float, text: str) -> bool:
    for sign, moment in _TIME.findall(text):
        bound = datetime.fromisoformat(moment).timestamp()
        second = int(at)
        if not {">=": second >= bound, "<=": second <= bound, ">": second > bound, "<": second < bound}[sign]:
            return False
    return True


def refused(status: int, message: str, field: str | None = None) -> Reply:
    """A refusal in the vendor's format."""
    return _refused_for(status, [Problem(message, field)])


def refused_log(status: int, message: str) -> Reply:
    """A refusal of the e-mail log, whose errors leave out what the others have as null."""
    return status, {"errors": [{"message": message}]}, {}


def _refused_for(status: int, problems: Iterable[Problem]) -> Reply:
    return status, {"errors": [{"message": one.message, "field": one.field, "help": None} for one in problems]}, {}
