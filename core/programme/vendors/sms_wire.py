"""Twilio's wire format: errors (only codes are reported, never texts), webhook signatures and events."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.programme.vendors.errors import (
    MessagingError,
    OutcomeUnknown,
    PayloadRefused,
    ProviderConfigError,
    ProviderDown,
    RateLimited,
    RecipientRefused,
)
from jobdeck.core.programme.vendors.http import RETRYABLE_STATUSES, parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


DEFAULT_PAUSE: Final = 30.0

# Codes of Twilio's error dictionary.
OPTED_OUT: Final = 21610
UNUSABLE: Final = frozenset({21211, 21214, 21217, 21265, 21401, 21407, 21408, 21421, 21612, 21614, 21635})
"""Numbers that are invalid, unreachable, not permitted or a landline."""
CONFIG: Final = frozenset(
    {20003, 20005, 20403, 20404, 21212, 21603, 21606, 21608, 21618, 21659, 21660, 21701, 21703, 21704, 21705}
)
"""Credentials, permissions, sender or messaging service."""
BUSY: Final = frozenset({20429, 14107, 21611})
TEXT: Final = frozenset({21602, 21605, 21617, 21619})

UNUSABLE_LATER: Final = frozenset({"30005", "30006"})
"""Delivery errors for an unknown number or a landline."""
NOT_REGISTERED: Final = "30034"
"""The delivery error for a sender that is not registered with carriers."""


def refusal(error: Any, retry_after: str | None, now: float) -> MessagingError:
    """The error for one of Twilio's exceptions, in either of its two formats; `now` is unix seconds."""
    status, code = _number(getattr(error, "status", None)), _number(getattr(error, "code", None))
    label = str(code or status)
    if status == 429 or code in BUSY:
        wait = parse_retry_after(retry_after, now)
        return RateLimited(
            DEFAULT_PAUSE if wait is None else wait,
            f"Twilio answered {label}: too many requests. Sending pauses as long as it asked.",
            code=label,
        )
    if code == OPTED_OUT:
        return RecipientRefused(
            "The recipient has answered STOP (21610). No more messages are sent to this number.",
            reason="opted_out",
            code=label,
        )
    if code in CONFIG or status in {401, 403}:
        return ProviderConfigError(
            f"Twilio does not accept the account or the sender ({label}). Correct TWILIO_ACCOUNT_SID, "
            "TWILIO_AUTH_TOKEN, and TWILIO_MESSAGING_SERVICE_SID or TWILIO_FROM_NUMBER.",
            code=label,
        )
    if status >= 500 or status in RETRYABLE_STATUSES:
        return _down(status, label)
    return _refused(error, status, code, label)


def _down(status: int, label: str) -> MessagingError:
    if status in {500, 502, 503} or status in RETRYABLE_STATUSES:
        return ProviderDown(f"Twilio is unavailable ({label}). The message was not accepted.", code=label)
    return OutcomeUnknown(
        f"Twilio answered {label}. The message may have been accepted and is not repeated.", code=label
    )


def _refused(error: Any, status: int, code: int, label: str) -> MessagingError:
    # Twilio changes its codes, so also look for a mention of the recipient's number in the text.
    about_recipient = re.search(r"'?\bto\b'? (?:phone )?number|'To'", _texts(error), re.IGNORECASE)
    if code in UNUSABLE or (about_recipient and code not in TEXT and 400 <= status < 500):
        return RecipientRefused(
            f"Twilio will not send to this number ({label}). Correct it on the profile.",
            reason="number_unusable",
            code=label,
        )
    if 400 <= status < 500 and status != 404:
        return PayloadRefused(
            f"Twilio refused the message ({label}). Correct its text or the sender's settings.", code=label
        )
    return ProviderConfigError(
        f"Twilio answered {label}, which is not part of its API. Check TWILIO_API_BASE_URL and TWILIO_ACCOUNT_SID.",
        code=label,
    )


def _texts(error: Any) -> str:
    return " ".join(str(getattr(error, name, "") or "") for name in ("msg", "title", "detail"))


def _number(value: Any) -> int:
    text = str(value if value is not None else "")
    return int(text) if text.isascii() and text.isdecimal() else 0


Json = dict[str, Any]

SIGNATURE: Final = "x-twilio-signature"
STOP: Final = frozenset({"stop", "stopall", "unsubscribe", "cancel", "end", "quit", "revoke", "optout"})
START: Final = frozenset({"start", "yes", "unstop"})
_OUTCOMES: Final = {"delivered": "delivered", "undelivered": "bounced", "failed": "bounced"}

# Twilio signs names and values without separators, so the same signature also fits fields whose boundaries are moved.
# A moved boundary makes an unknown or malformed field, so only known fields are accepted, each in its form.
ACCOUNT: Final = r"AC[0-9a-f]{32}"
MESSAGE: Final = r"(SM|MM)[0-9a-f]{32}"
NUMBER: Final = r"\+[1-9][0-9]{6,14}"
OURS: Final = rf"{NUMBER}|[0-9]{{3,8}}|[A-Za-z0-9 _&-]{{1,11}}"
"""A number, a short code, or the name of a sender."""
STATUS: Final = r"[a-z_]{0,20}"
_PLACE: Final = r"([^\W\d_]|[ .,'()/&-]){0,64}"
_COUNT: Final = r"[0-9]{0,4}"

FORMS: Final[dict[str, str]] = {
    "AccountSid": ACCOUNT,
    "ApiVersion": r"[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "Body": r"[\s\S]*",
    "ErrorCode": r"[0-9]{0,6}",
    "ErrorMessage": r"[\w .,:;'()/-]{0,200}",
    "From": OURS,
    "FromCity": _PLACE,
    "FromCountry": r"[A-Z]{0,2}",
    "FromState": _PLACE,
    "FromZip": r"[A-Z0-9 -]{0,12}",
    "MessageSid": MESSAGE,
    "MessageStatus": STATUS,
    "MessagingServiceSid": r"(MG[0-9a-f]{32})?",
    "NumMedia": _COUNT,
    "NumSegments": _COUNT,
    "OptOutType": r"STOP|START|HELP",
    "RawDlrDoneDate": r"[0-9]{0,14}",
    "SmsMessageSid": MESSAGE,
    "SmsSid": MESSAGE,
    "SmsStatus": STATUS,
    "To": OURS,
    "ToCity": _PLACE,
    "ToCountry": r"[A-Z]{0,2}",
    "ToState": _PLACE,
    "ToZip": r"[A-Z0-9 -]{0,12}",
    **{f"MediaContentType{number}": r"[a-z]{1,20}/[a-z0-9.+-]{1,80}" for number in range(10)},
    **{f"MediaUrl{number}": r"https://[a-z.]{1,40}/[A-Za-z0-9/._-]{1,250}" for number in range(10)},
}
REQUIRED: Final = ("AccountSid", "From", "MessageSid", "To")
"""Fields of every request, so that none of them can be hidden in the text of a message."""
RECEIVED: Final = ("", "received", "receiving")
"""The statuses of a message to us."""


def verified(token: str, address: str, fields: Mapping[str, str], signature: str) -> bool:
    """Whether a request has Twilio's signature for this URL of ours."""
    from twilio.request_validator import RequestValidator  # noqa: PLC0415 -- imported on first use

    return bool(RequestValidator(token).validate(address, dict(fields), signature))


def problems(given: Sequence[tuple[str, str]], account: str | None) -> list[str]:
    """The names of fields that are missing, repeated, malformed or of another account; `unknown` for others.

    `account` is our account, or None when it is not known here.
    """
    fields = dict(given)
    found = ["unknown" for name in fields if name not in FORMS]
    found += [name for name in REQUIRED if name not in fields]
    found += [name for name in FORMS if sum(one == name for one, _ in given) > 1]
    found += [name for name, form in FORMS.items() if name in fields and not re.fullmatch(form, fields[name])]
    person = "From" if (fields.get("MessageStatus") or fields.get("SmsStatus") or "") in RECEIVED else "To"
    if not re.fullmatch(NUMBER, fields.get(person, "")):
        found.append(person)
    if account and fields.get("AccountSid") != account:
        found.append("AccountSid")
    return sorted(set(found))


def read(fields: Mapping[str, str], at: float) -> list[Json]:
    """The events in one request, whose fields have their forms; empty if none matters. `at` is unix seconds."""
    sid = fields["MessageSid"]
    status = fields.get("MessageStatus") or fields.get("SmsStatus") or ""
    made = _answered(fields) if status in RECEIVED else _delivered(fields, status)
    return [
        {"provider": "twilio", "event_key": f"{sid}{suffix}", "event": event, "occurred_at": at, **facts}
        for event, suffix, facts in made
    ]


def wish(text: str) -> str | None:
    """What somebody asks for with a text to us: `stop`, `start`, or nothing that matters."""
    word = text.strip().lower()
    return "stop" if word in STOP else "start" if word in START else None


def outcomes(status: str, code: str | None) -> list[tuple[str, str, Json]]:
    """The events of a message that we sent: name, the end of its key, and facts; none before its status is final."""
    event = _OUTCOMES.get(status)
    if event is None:
        return []
    reason = f"Twilio {status} {code or ''}".strip() if event == "bounced" else None
    made: list[tuple[str, str, Json]] = [(event, status, {"reason": reason, "payload": {"code": code} if code else {}})]
    if code in UNUSABLE_LATER:
        made.append(("unusable", "unusable", {"reason": reason}))
    return made


def _answered(fields: Mapping[str, str]) -> list[tuple[str, str, Json]]:
    """The event of a message to us. Its key is the message id, as in `pull`, so that it is not counted twice."""
    event = wish(fields.get("OptOutType") or fields.get("Body") or "")
    return [(event, "", {"address": fields["From"]})] if event else []


def _delivered(fields: Mapping[str, str], status: str) -> list[tuple[str, str, Json]]:
    """The events of a message that we sent. `pull` reports the same outcome again under another key."""
    code = fields.get("ErrorCode") or ""
    shared: Json = {"message_key": fields["MessageSid"]}
    made = [(event, f":callback:{end}", {**shared, **facts}) for event, end, facts in outcomes(status, code)]
    if made and code == str(OPTED_OUT):
        made.append(("stop", ":callback:stop", {**shared, "reason": made[0][2]["reason"], "address": fields["To"]}))
    return made
