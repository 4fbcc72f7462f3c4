"""Webhooks of SendGrid and Twilio: verifies the signature, stores each delivery event once, answers after the commit.

Events are applied later by `apply_batch`, in another thread, so that a provider never waits for it.
"""

from __future__ import annotations

import json
import logging
import math
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from jobdeck.core.errors import ConfigurationError, JobdeckError
from jobdeck.core.http.clients.proof import is_placeholder
from jobdeck.core.http.endpoints import Answer, Call, Declined, Endpoint, Host
from jobdeck.core.http.openapi import COUNT, REFUSED, responses
from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import LOST
from jobdeck.core.programme.events import hand_on
from jobdeck.core.programme.messaging import erased, outbox
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors import email_wire, sms_wire
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from jobdeck.core.http.counters import Counters
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.settings import Settings

Json = dict[str, Any]

log = logging.getLogger(__name__)

SENDGRID_PATH: Final = "/api/sendgrid/events"
SENDGRID_BYTES: Final = 2 * 1024 * 1024
"""SendGrid sends up to 768 kB at a time (its documentation, "Event Webhook")."""
TWILIO_PATH: Final = "/api/twilio/status"
TWILIO_BYTES: Final = 64 * 1024
FIELDS: Final = 200
FUTURE_SECONDS: Final = 300.0
"""Tolerance, in seconds, for a provider's clock that is ahead of ours."""
EARLIEST: Final = 946_684_800.0
"""The year 2000 in unix seconds; older events are ignored."""
EMPTY_TWIML: Final = '<?xml version="1.0" encoding="UTF-8"?><Response/>'
APPLYING: Final = "applying delivery events"
BATCH: Final = 5000
APPLY_SECONDS: Final = 60.0


def endpoints(host: Host) -> list[Endpoint]:
    """The webhooks of both providers.

    Raises:
        ConfigurationError: events would be handed on to this server itself.
    """
    settings = host.settings.of(CompetitionSettings)
    inbox = Inbox(host.database, host.counters, settings, host.wake)
    sendgrid = SendGrid(
        settings, inbox, own=f"{host.settings.door_url}{SENDGRID_PATH}" if host.settings.door_url else ""
    )
    twilio = Twilio(settings, host.settings.door_url, inbox)
    return [
        Endpoint(SENDGRID_PATH, ("POST",), SENDGRID_BYTES, sendgrid.admit, sendgrid.handle, host.lane, sendgrid.prove),
        Endpoint(TWILIO_PATH, ("POST",), TWILIO_BYTES, twilio.admit, twilio.handle, host.lane, twilio.prove),
    ]


def apply_batch(conn: psycopg.Connection[Any], settings: Settings) -> bool:
    """Applies events that were kept, in the order in which they happened; answers whether more are left."""
    counts = outbox.apply_events(conn, limit=BATCH)
    outbox.note_applied(conn, settings.of(CompetitionSettings), every_seconds=APPLY_SECONDS)
    if counts["failed"]:
        event(log, logging.ERROR, "delivery events could not be applied", events=counts["failed"])
    return bool(counts["seen"] == BATCH and counts["seen"] > counts["failed"])


class Inbox:
    """Stores events in the database. `wake` starts the upkeep that applies them."""

    def __init__(
        self, database: Database, counters: Counters, settings: CompetitionSettings, wake: Callable[[str], None]
    ) -> None:
        self._database = database
        self._counters = counters
        self._settings = settings
        self._wake = wake

    def keep(
        self, provider: str, events: list[Json], *, ignored: int, request: hand_on.SignedRequest | None = None
    ) -> int:
        """Stores events, each once, and the request if it is to be handed on; returns the number of new events.

        Raises:
            Declined: 503, the database does not answer; the provider sends them again.
        """
        try:
            new, refused = self._record(events, request) if events or request else (0, 0)
        except (*LOST, JobdeckError) as error:
            event(log, logging.ERROR, "events could not be kept", provider=provider, error=safe_error(str(error)))
            raise Declined(503, "The events could not be kept. Send them again.", Retry_After="30") from None
        self._counters.received(provider, new=new, known=len(events) - new - refused, ignored=ignored + refused)
        if new:
            self._wake(APPLYING)
        if request is not None:
            self._wake(hand_on.HANDING_ON)
        return new

    def _record(self, events: list[Json], request: hand_on.SignedRequest | None) -> tuple[int, int]:
        with self._database.connection() as conn, conn.transaction():
            if request is not None:
                hand_on.keep(conn, request)
            events = erased.hidden(conn, self._settings, events)
            return hand_on.store(conn, events, lambda some: outbox.record_events(conn, some))


class SendGrid:
    """`POST /api/sendgrid/events`: SendGrid's Event Webhook, signed."""

    def __init__(
        self, settings: CompetitionSettings, inbox: Inbox, *, own: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        """`own` is the address of this endpoint as the public sees it, if that is known.

        Raises:
            ConfigurationError: events would be handed on to this address.
        """
        self._hands_on = settings.sendgrid_event_forward_url is not None
        if settings.sendgrid_event_forward_url is not None:
            hand_on.check(settings.sendgrid_event_forward_url, own)
        self._key = (settings.sendgrid_event_webhook_public_key or "").strip()
        self._age = settings.sendgrid_event_max_age_seconds
        self._group = settings.sendgrid_unsubscribe_group_id
        self._inbox = inbox
        self._clock = clock

    def admit(self, call: Call) -> None:
        """Refuses a request without a signature or with a timestamp that is too old or in the future.

        Raises:
            Declined: 401, or 503 if no key is set.
        """
        if not self._key:
            raise Declined(503, "Delivery events are not set up here.")
        stamp = call.headers.get(email_wire.TIMESTAMP.lower(), "")
        if not call.headers.get(email_wire.SIGNATURE.lower()) or not (stamp.isascii() and stamp.isdecimal()):
            raise _unsigned()
        age = self._clock() - int(stamp[:12])
        if age > self._age or age < -FUTURE_SECONDS or len(stamp) > 12:
            raise Declined(401, "The signature is too old or in the future. Nothing was kept.")

    def prove(self, call: Call) -> None:
        """Checks the signature.

        Raises:
            Declined: 401, or 503 if the key is not a key.
        """
        try:
            if not email_wire.verified(self._key, call.headers, call.body):
                raise _unsigned()
        except ConfigurationError as error:
            event(log, logging.ERROR, "delivery events cannot be checked", error=str(error))
            raise Declined(503, "Delivery events are not set up here.") from None

    def handle(self, call: Call) -> Answer:
        """Stores the events of one proven request; the status is the same for new, known and ignored ones."""
        events, ignored = _read_mail(call.body)
        ours = [one for one in events if not hand_on.of_another_group(one, self._group)]
        fit = [one for made in ours if (one := _fit(made, self._clock())) is not None]
        ignored += len(events) - len(fit)
        new = self._inbox.keep("sendgrid", fit, ignored=ignored, request=self._for_the_other(call))
        return Answer(200, {"ok": True, "processed": len(fit), "new": new, "ignored": ignored})

    def _for_the_other(self, call: Call) -> hand_on.SignedRequest | None:
        if not self._hands_on or hand_on.HANDED_ON.lower() in call.headers:
            return None
        signature, stamp = (call.headers[name.lower()] for name in (email_wire.SIGNATURE, email_wire.TIMESTAMP))
        return hand_on.wanted(call.body, signature, stamp)


class Twilio:
    """`POST /api/twilio/status`: Twilio's signed status callbacks and people's replies."""

    def __init__(
        self, settings: CompetitionSettings, address: str, inbox: Inbox, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Without `address`, the server's own as the public sees it, nothing is taken.

        It is part of what Twilio signs, and the address in a request is whatever its sender wrote.
        """
        token = settings.twilio_auth_token
        self._token = token.get_secret_value().strip() if token is not None else ""
        self._account = (settings.twilio_account_sid or "").strip() or None
        self._base = address
        self._ready = bool(self._token and address) and not is_placeholder(self._token)
        if self._token and not self._ready:
            lacking = "TWILIO_AUTH_TOKEN is a placeholder" if address else "JOBDECK_DOOR_URL is not set"
            event(log, logging.WARNING, f"every request of Twilio is refused: {lacking}")
        self._inbox = inbox
        self._clock = clock

    def admit(self, call: Call) -> None:
        """Refuses a request without a signature.

        Raises:
            Declined: 401, or 503 if the token or the public address is not set.
        """
        if not self._ready:
            raise Declined(503, "Text messages are not set up here.")
        if not call.headers.get(sms_wire.SIGNATURE):
            raise _unsigned()

    def prove(self, call: Call) -> None:
        """Checks the signature.

        Raises:
            Declined: 401, or 400 if the body is not a form.
        """
        signature = call.headers[sms_wire.SIGNATURE]
        if not sms_wire.verified(self._token, f"{self._base}{call.target}", dict(_form(call.body)), signature):
            raise _unsigned()

    def handle(self, call: Call) -> Answer:
        """Stores the events of one proven request; answers with an empty TwiML document, so that nothing is sent."""
        given = _form(call.body)
        problems = sms_wire.problems(given, self._account)
        if problems:
            event(log, logging.WARNING, "a request of Twilio has fields that are not expected", fields=problems)
            raise Declined(400, "The fields are not those of a text message of this account. Nothing was kept.")
        fields = dict(given)
        made = sms_wire.read(fields, self._clock())
        events = [one for each in made if (one := _fit(each, self._clock())) is not None]
        self._inbox.keep("twilio", events, ignored=int(not events))
        return Answer(200, EMPTY_TWIML, "text/xml")


def _form(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS)
    except ValueError:
        raise Declined(400, "The body is not a form. Nothing was kept.") from None


def _unsigned() -> Declined:
    return Declined(401, "The signature is missing or wrong. Nothing was kept.")


def _read_mail(body: bytes) -> tuple[list[Json], int]:
    try:
        return email_wire.read(body)
    except email_wire.EventRefused as error:
        raise Declined(400, str(error)) from None
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        # One entry is malformed; the others must not be lost with it.
        return _read_singly(body)


def _read_singly(body: bytes) -> tuple[list[Json], int]:
    content = json.loads(body)
    entries = content if isinstance(content, list) else [content]
    events: list[Json] = []
    ignored = 0
    for entry in entries:
        try:
            made, none = email_wire.read(json.dumps([entry]).encode())
        except (JobdeckError, TypeError, ValueError, ArithmeticError, RecursionError):
            made, none = [], 1
        events += made
        ignored += none
    return events, ignored


def _fit(made: Json, now: float) -> Json | None:
    """The event with its texts cleaned for the database; None if its time is implausible."""
    at = made["occurred_at"]
    if not math.isfinite(at) or not EARLIEST <= at <= now + FUTURE_SECONDS + 86_400:
        return None
    return hand_on.cleaned(made)


def describe() -> Json:
    """The path item of each webhook."""
    return {SENDGRID_PATH: {"post": _sendgrid()}, TWILIO_PATH: {"post": _twilio()}}


def _sendgrid() -> Json:
    event = {
        "type": "object",
        "required": ["event", "timestamp"],
        "properties": {
            "event": {"type": "string"},
            "timestamp": {"type": "integer"},
            "email": {"type": "string"},
            "sg_event_id": {"type": "string"},
            "sg_message_id": {"type": "string"},
            "type": {"type": "string"},
            "reason": {"type": "string"},
        },
    }
    answer = {
        "type": "object",
        "required": ["ok", "processed", "new", "ignored"],
        "properties": {"ok": {"const": True}, "processed": COUNT, "new": COUNT, "ignored": COUNT},
    }
    return {
        "summary": "Delivery events from SendGrid's Event Webhook",
        "operationId": "sendgridEvents",
        "parameters": [
            {"name": name, "in": "header", "required": True, "schema": {"type": "string"}}
            for name in (email_wire.SIGNATURE, email_wire.TIMESTAMP)
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"type": "array", "items": event}}},
        },
        "responses": responses("Kept, each once.", answer, 400, 401, 408, 413, 414, 503),
    }


def _twilio() -> Json:
    form = {
        "type": "object",
        "required": list(sms_wire.REQUIRED),
        "properties": {name: {"type": "string", "pattern": f"^({form})$"} for name, form in sms_wire.FORMS.items()},
        "additionalProperties": False,
    }
    return {
        "summary": "Status callbacks and answers from Twilio",
        "operationId": "twilioStatus",
        "parameters": [{"name": "X-Twilio-Signature", "in": "header", "required": True, "schema": {"type": "string"}}],
        "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": form}}},
        "responses": {
            "200": {"description": "Kept; there is nothing to send back.", "content": {"text/xml": {}}},
            **{str(status): REFUSED for status in (400, 401, 408, 413, 414, 503)},
        },
    }
