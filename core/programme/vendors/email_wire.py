"""SendGrid's wire format: answers, errors, webhook signatures and events."""

from __future__ import annotations

import binascii
import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from jobdeck.core.errors import ConfigurationError, Refused
from jobdeck.core.programme.vendors.errors import (
    MessagingError,
    OutcomeUnknown,
    PayloadRefused,
    ProviderConfigError,
    ProviderDown,
    RateLimited,
    RecipientRefused,
    TooLarge,
)
from jobdeck.core.programme.vendors.http import RETRY_AFTER_CAP, parse_retry_after
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PAUSE: Final = 30.0
"""Pause in seconds after a 429 without a duration."""

DOWN: Final = frozenset({408, 425, 500, 502, 503})
"""Statuses which mean that the request was not accepted; every other 5xx leaves that open."""

_PLACE: Final = re.compile(r"personalizations[.\[](\d{1,6})", re.ASCII)
_MESSAGE_ID: Final = re.compile(r"[\w.+=/-]{1,200}", re.ASCII)
MAX_PROBLEMS: Final = 3


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that a provider accepted; `segments` is set for text messages."""

    provider_message_id: str | None
    http_status: int
    segments: int | None = None


def sent_from(response: Any, *, sandbox: bool) -> Sent:
    """Reads a success answer of SendGrid.

    Raises:
        OutcomeUnknown: the status is not 202, or 200 in sandbox mode.
    """
    status = int(response.status_code)
    if status != (200 if sandbox else 202):
        expected = "200 (SENDGRID_SANDBOX_MODE is on)" if sandbox else "202"
        raise OutcomeUnknown(
            f"SendGrid answered {status} instead of {expected}. The message may have been sent and is not repeated. "
            "Check SENDGRID_API_BASE_URL.",
            code=str(status),
        )
    found = str(response.headers.get("X-Message-Id") or "")
    return Sent(found if _MESSAGE_ID.fullmatch(found) else None, status)


def refusal(status: int, content: Any, headers: Mapping[str, str] | None, now: float) -> MessagingError:  # noqa: PLR0911 -- one way out per class
    """The error for an answer outside 2xx; `now` is unix seconds."""
    code = str(status)
    if status == 401:
        return ProviderConfigError(
            "SendGrid does not accept the key (401). Correct SENDGRID_API_KEY, then retry.", code=code
        )
    if status == 403:
        return ProviderConfigError(
            "SendGrid does not allow this key to send from this sender (403). Verify SENDGRID_FROM_EMAIL with "
            "SendGrid, and give SENDGRID_API_KEY the right to send mail.",
            code=code,
        )
    if status == 429:
        return RateLimited(
            _pause(headers or {}, now), "SendGrid answered 429: too many requests. Sending pauses as long as it asked.",
            code=code,
        )  # fmt: skip
    if status in DOWN:
        return ProviderDown(f"SendGrid is unavailable ({status}). The message was not accepted.", code=code)
    if status >= 500:
        return OutcomeUnknown(
            f"SendGrid answered {status}. The message may have been accepted and is not repeated.", code=code
        )
    if status == 413:
        return TooLarge("SendGrid answered 413: the request is too large.", code=code)
    if status == 400:
        return _bad_request(content)
    return ProviderConfigError(
        f"SendGrid answered {status}, which is not part of its API. Check SENDGRID_API_BASE_URL.", code=code
    )


def _bad_request(content: Any) -> MessagingError:
    problems = _problems(content)
    reasons = "; ".join(f"{field or 'request'}: {message}" for field, message in problems[:MAX_PROBLEMS])
    sentence = safe_error(f"SendGrid refused the request (400): {reasons or 'no reason given'}", 400)
    places = [int(found[1]) for field, _ in problems if (found := _PLACE.search(field))]
    if places:
        return RecipientRefused(sentence, reason="address_refused", code="400", indexes=tuple(sorted(set(places))))
    if any(field.startswith(("personalizations", "to")) for field, _ in problems):
        return RecipientRefused(sentence, reason="address_refused", code="400")
    return PayloadRefused(f"{sentence.rstrip('.')}. Correct the message or the sender's settings.", code="400")


def _problems(content: Any) -> list[tuple[str, str]]:
    try:
        body = json.loads(content)
    except (ValueError, TypeError, RecursionError):
        return []
    errors = body.get("errors") if isinstance(body, dict) else None
    if not isinstance(errors, list):
        return []
    return [
        (str(entry.get("field") or ""), str(entry.get("message") or "refused").rstrip("."))
        for entry in errors
        if isinstance(entry, dict)
    ]


def _pause(headers: Mapping[str, str], now: float) -> float:
    asked = parse_retry_after(headers.get("Retry-After"), now)
    if asked is not None:
        return asked
    try:
        reset = float(headers.get("X-RateLimit-Reset") or "")
    except ValueError:
        return DEFAULT_PAUSE
    return min(max(reset - now, 0.0), RETRY_AFTER_CAP) if math.isfinite(reset) else DEFAULT_PAUSE


Json = dict[str, Any]

SIGNATURE: Final = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP: Final = "X-Twilio-Email-Event-Webhook-Timestamp"

_IDS: Final = ("outbox_id", "campaign_id", "competitor_id", "agreement_id")
_KEPT: Final = ("type", "status", "attempt", "asm_group_id")
_LONGEST_REASON: Final = 500


class EventRefused(Refused):
    """A request with delivery events is not readable; nothing was stored."""


def verified(public_key: str | None, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a webhook request has SendGrid's signature over its raw body.

    Raises:
        ConfigurationError: `SENDGRID_EVENT_WEBHOOK_PUBLIC_KEY` is missing or invalid.
    """
    from sendgrid.helpers.eventwebhook import EventWebhook  # noqa: PLC0415 -- imported on first use

    if not public_key:
        raise ConfigurationError(
            "Delivery events cannot be verified. Set SENDGRID_EVENT_WEBHOOK_PUBLIC_KEY to the verification key of "
            "SendGrid's Event Webhook."
        )
    try:
        webhook = EventWebhook(public_key)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            "SENDGRID_EVENT_WEBHOOK_PUBLIC_KEY is not a verification key. Copy it again from SendGrid."
        ) from error
    given = {name.lower(): value for name, value in headers.items()}
    signature, timestamp = given.get(SIGNATURE.lower(), ""), given.get(TIMESTAMP.lower(), "")
    try:
        found = webhook.verify_signature(body.decode(), signature, timestamp)
    except (ValueError, binascii.Error):
        return False
    return bool(found)


def read(body: bytes) -> tuple[list[Json], int]:
    """The events of a request in the outbox's format, and the number of entries that are not events.

    Raises:
        EventRefused: the body is neither an event nor a list of events.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise EventRefused("The request's body is not JSON. Nothing was kept.") from None
    entries = content if isinstance(content, list) else [content]
    if not all(isinstance(entry, dict) for entry in entries):
        raise EventRefused("The request's body is not a list of events. Nothing was kept.")
    events = [event for entry in entries if (event := _event(entry)) is not None]
    return events, len(entries) - len(events)


def address_key(address: str) -> str:
    """A hash that identifies an address without storing it."""
    return hashlib.sha256(address.strip().lower().encode()).hexdigest()[:32]


def reason_text(*candidates: Any) -> str | None:
    """The first of a provider's explanations that is not empty, without addresses and numbers; else None.

    Values that are neither text nor a number are ignored.
    """
    texts = (str(one) for one in candidates if isinstance(one, str | int | float) and not isinstance(one, bool))
    said = next((text for text in texts if text), None)
    return safe_error(said, _LONGEST_REASON) if said is not None else None


def _event(entry: Json) -> Json | None:
    name, at = str(entry.get("event") or "").strip().lower(), entry.get("timestamp")
    if not name or isinstance(at, bool) or not isinstance(at, int | float):
        return None
    if name == "bounce":
        name = "blocked" if entry.get("type") == "blocked" else "bounced"
    elif name == "open" and entry.get("sg_machine_open") is True:
        name = "machine_open"
    given = entry.get("custom_args")
    custom = given if isinstance(given, dict) else {}
    key = str(entry.get("sg_event_id") or "") or hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
    return {
        "provider": "sendgrid",
        "event_key": key[:200],
        "event": name[:40],
        "occurred_at": float(at),
        "message_key": str(entry["sg_message_id"])[:300] if entry.get("sg_message_id") else None,
        **{name: _uuid(entry.get(name, custom.get(name))) for name in _IDS},
        "address": str(entry["email"])[:254] if entry.get("email") else None,
        "reason": reason_text(entry.get("reason"), entry.get("response"), entry.get("status")),
        "payload": {name: str(entry[name])[:100] for name in _KEPT if entry.get(name)},
    }


def _uuid(value: Any) -> str | None:
    try:
        return str(UUID(str(value))) if value else None
    except ValueError:
        return None
