"""From SendGrid's answers to what they mean (`jobdeck.core.clients.messaging_errors`)."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.clients.http import RETRY_AFTER_CAP, parse_retry_after
from jobdeck.core.clients.messaging_errors import (
    MessagingError,
    OutcomeUnknown,
    PayloadRefused,
    ProviderConfigError,
    ProviderDown,
    RateLimited,
    RecipientRefused,
    TooLarge,
)
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PAUSE: Final = 30.0
"""Seconds to stay away after a 429 that does not say how long."""

DOWN: Final = frozenset({408, 425, 500, 502, 503})
"""Answers that say the request was not taken; every other 5xx leaves that open."""

_PLACE: Final = re.compile(r"personalizations[.\[](\d{1,6})", re.ASCII)
_MESSAGE_ID: Final = re.compile(r"[\w.+=/-]{1,200}", re.ASCII)
PROBLEMS_TOLD: Final = 3


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that a provider has taken. `segments` is of text messages."""

    provider_message_id: str | None
    http_status: int
    segments: int | None = None


def sent_from(response: Any, *, sandbox: bool) -> Sent:
    """Reads the answer to a request that SendGrid did not refuse.

    Raises:
        OutcomeUnknown: it is not the answer that a taken message gets: 202, or 200 in sandbox mode.
    """
    status = int(response.status_code)
    if status != (200 if sandbox else 202):
        expected = "200 (SENDGRID_SANDBOX_MODE is on)" if sandbox else "202"
        raise OutcomeUnknown(
            f"SendGrid answered {status}, where a message that is taken gets {expected}. It may have been sent and is "
            "not repeated. Check SENDGRID_API_BASE_URL.",
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
            "SendGrid does not let this key send from this sender (403). Verify SENDGRID_FROM_EMAIL with SendGrid, and "
            "give SENDGRID_API_KEY the right to send mail.",
            code=code,
        )
    if status == 429:
        return RateLimited(
            _pause(headers or {}, now), "SendGrid answered 429: too many requests. The pause it asked for is kept.",
            code=code,
        )  # fmt: skip
    if status in DOWN:
        return ProviderDown(f"SendGrid cannot answer now ({status}); the message was not taken.", code=code)
    if status >= 500:
        return OutcomeUnknown(
            f"SendGrid answered {status}: whether the message was taken is not known. It is not repeated.", code=code
        )
    if status == 413:
        return TooLarge("SendGrid answered 413: the request is too large.", code=code)
    if status == 400:
        return _bad_request(content)
    return ProviderConfigError(
        f"SendGrid answered {status}, which its API does not do. Check SENDGRID_API_BASE_URL.", code=code
    )


def _bad_request(content: Any) -> MessagingError:
    problems = _problems(content)
    told = "; ".join(f"{field or 'request'}: {message}" for field, message in problems[:PROBLEMS_TOLD])
    sentence = safe_error(f"SendGrid refused the request (400): {told or 'without a reason'}", 400)
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
