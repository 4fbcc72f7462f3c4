"""Twilio's requests to us: whether they are Twilio's, and what they say in the outbox's words.

Twilio signs the address it calls together with the form's fields (Twilio, "Webhooks Security"); the SDK's validator is
used. One address serves both status callbacks and messages that people send, such as STOP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.clients.sms_answers import OPTED_OUT, UNUSABLE_LATER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Json = dict[str, Any]

SIGNATURE: Final = "x-twilio-signature"
STOP: Final = frozenset({"stop", "stopall", "unsubscribe", "cancel", "end", "quit", "revoke", "optout"})
START: Final = frozenset({"start", "yes", "unstop"})
_OUTCOMES: Final = {"delivered": "delivered", "undelivered": "bounced", "failed": "bounced"}
_LONGEST: Final = 64


def verified(token: str, addresses: Iterable[str], fields: Mapping[str, str], signature: str) -> bool:
    """Whether a request carries Twilio's signature, made for one of these addresses of ours."""
    from twilio.request_validator import RequestValidator  # noqa: PLC0415 -- imported on first use

    validator = RequestValidator(token)
    return any(validator.validate(address, dict(fields), signature) for address in addresses)


def read(fields: Mapping[str, str], at: float) -> list[Json]:
    """The events in one request; none where it says nothing that matters. `at` is unix seconds."""
    sid = (fields.get("MessageSid") or fields.get("SmsSid") or "")[:_LONGEST]
    if not sid:
        return []
    status = (fields.get("MessageStatus") or fields.get("SmsStatus") or "").strip().lower()
    made = _answered(fields) if status in {"received", ""} else _delivered(fields, status)
    return [
        {"provider": "twilio", "event_key": f"{sid}{suffix}", "event": event, "occurred_at": at, **facts}
        for event, suffix, facts in made
    ]


def _answered(fields: Mapping[str, str]) -> list[tuple[str, str, Json]]:
    """What somebody wrote to us. Pulling knows a message by its id as well, so the two do not count it twice."""
    word = (fields.get("OptOutType") or fields.get("Body") or "").strip().lower()
    event = "stop" if word in STOP else "start" if word in START else None
    sender = (fields.get("From") or "")[:_LONGEST]
    return [(event, "", {"address": sender})] if event and sender else []


def _delivered(fields: Mapping[str, str], status: str) -> list[tuple[str, str, Json]]:
    """What became of a message of ours. It may not be known yet; pulling tells it again, by a key of its own."""
    event = _OUTCOMES.get(status)
    if event is None:
        return []
    code = (fields.get("ErrorCode") or "")[:_LONGEST]
    reason = f"Twilio {status} {code}".strip() if event == "bounced" else None
    shared: Json = {"message_key": fields.get("MessageSid") or fields.get("SmsSid"), "reason": reason}
    made = [(event, f":callback:{status}", {**shared, "payload": {"code": code} if code else {}})]
    if code in UNUSABLE_LATER:
        made.append(("unusable", ":callback:unusable", shared))
    if code == str(OPTED_OUT):
        made.append(("stop", ":callback:stop", {**shared, "address": (fields.get("To") or "")[:_LONGEST]}))
    return made
