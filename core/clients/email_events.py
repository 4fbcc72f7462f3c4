"""SendGrid's delivery events: whether they are SendGrid's, and what they say in the outbox's words.

The Event Webhook signs timestamp and raw body with ECDSA (SendGrid, "Event Webhook Security Features"); the SDK's
verifier is used. An event names its message by the ids that went out with it.
"""

from __future__ import annotations

import binascii
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from jobdeck.core.errors import ConfigurationError, Refused
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]

SIGNATURE: Final = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP: Final = "X-Twilio-Email-Event-Webhook-Timestamp"

_IDS: Final = ("outbox_id", "campaign_id", "competitor_id", "agreement_id")
_LONGEST_REASON: Final = 500


class EventRefused(Refused):
    """A request with delivery events is not SendGrid's, or not readable; nothing was kept."""


def verified(public_key: str | None, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a request to the webhook's receiver carries SendGrid's signature over its raw body.

    Raises:
        ConfigurationError: `SENDGRID_EVENT_WEBHOOK_PUBLIC_KEY` is missing or no key.
    """
    from sendgrid.helpers.eventwebhook import EventWebhook  # noqa: PLC0415 -- imported on first use

    if not public_key:
        raise ConfigurationError(
            "Delivery events cannot be checked. Set SENDGRID_EVENT_WEBHOOK_PUBLIC_KEY to the verification key of "
            "SendGrid's Event Webhook."
        )
    try:
        webhook = EventWebhook(public_key)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            "SENDGRID_EVENT_WEBHOOK_PUBLIC_KEY is no verification key. Copy it again from SendGrid."
        ) from error
    given = {name.lower(): value for name, value in headers.items()}
    signature, timestamp = given.get(SIGNATURE.lower(), ""), given.get(TIMESTAMP.lower(), "")
    try:
        found = webhook.verify_signature(body.decode(), signature, timestamp)
    except (ValueError, binascii.Error):
        return False
    return bool(found)


def read(body: bytes) -> tuple[list[Json], int]:
    """The events of a request in the outbox's words, and how many entries were none.

    Raises:
        EventRefused: the body is neither an event nor a list of them.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise EventRefused("The request's body is not JSON. Nothing was kept.") from None
    entries = content if isinstance(content, list) else [content]
    if not all(isinstance(entry, dict) for entry in entries):
        raise EventRefused("The request's body is no list of events. Nothing was kept.")
    events = [event for entry in entries if (event := _event(entry)) is not None]
    return events, len(entries) - len(events)


def address_key(address: str) -> str:
    """A mark by which an address is known again without being kept."""
    return hashlib.sha256(address.strip().lower().encode()).hexdigest()[:32]


def reason_text(*candidates: Any) -> str | None:
    """The first of a provider's explanations that says something, without addresses and numbers; None where none does.

    What is neither text nor number is passed over.
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
        "payload": {name: str(entry[name])[:100] for name in ("type", "status", "attempt") if entry.get(name)},
    }


def _uuid(value: Any) -> str | None:
    try:
        return str(UUID(str(value))) if value else None
    except ValueError:
        return None
