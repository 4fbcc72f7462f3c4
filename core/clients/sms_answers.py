"""From Twilio's refusals to what they mean (`messaging_errors`). Only codes are told, never its texts."""

from __future__ import annotations

import re
from typing import Any, Final

from jobdeck.core.clients.http import RETRYABLE_STATUSES, parse_retry_after
from jobdeck.core.clients.messaging_errors import (
    MessagingError,
    OutcomeUnknown,
    PayloadRefused,
    ProviderConfigError,
    ProviderDown,
    RateLimited,
    RecipientRefused,
)

DEFAULT_PAUSE: Final = 30.0

# Codes as Twilio's error dictionary has them.
OPTED_OUT: Final = 21610
UNUSABLE: Final = frozenset({21211, 21214, 21217, 21265, 21401, 21407, 21408, 21421, 21612, 21614, 21635})
"""Bad, unreachable, landline or not permitted numbers."""
CONFIG: Final = frozenset(
    {20003, 20005, 20403, 20404, 21212, 21603, 21606, 21608, 21618, 21659, 21660, 21701, 21703, 21704, 21705}
)
"""Credentials, permissions, sender or messaging service."""
BUSY: Final = frozenset({20429, 14107, 21611})
TEXT: Final = frozenset({21602, 21605, 21617, 21619})

UNUSABLE_LATER: Final = frozenset({"30005", "30006"})
"""Delivery errors that say the number is unknown or a landline."""
NOT_REGISTERED: Final = "30034"
"""The delivery error that says the sender is not registered with carriers."""


def refusal(error: Any, retry_after: str | None, now: float) -> MessagingError:
    """The error for one of Twilio's exceptions, of either of its two formats; `now` is unix seconds."""
    status, code = _number(getattr(error, "status", None)), _number(getattr(error, "code", None))
    told = str(code or status)
    if status == 429 or code in BUSY:
        wait = parse_retry_after(retry_after, now)
        return RateLimited(
            DEFAULT_PAUSE if wait is None else wait,
            f"Twilio answered {told}: too many requests. The pause it asked for is kept.",
            code=told,
        )
    if code == OPTED_OUT:
        return RecipientRefused(
            "The recipient has answered STOP (21610); nothing more is sent to this number.",
            reason="opted_out",
            code=told,
        )
    if code in CONFIG or status in {401, 403}:
        return ProviderConfigError(
            f"Twilio does not accept the account or the sender ({told}). Correct TWILIO_ACCOUNT_SID, "
            "TWILIO_AUTH_TOKEN, and TWILIO_MESSAGING_SERVICE_SID or TWILIO_FROM_NUMBER.",
            code=told,
        )
    if status >= 500 or status in RETRYABLE_STATUSES:
        return _down(status, told)
    return _refused(error, status, code, told)


def _down(status: int, told: str) -> MessagingError:
    if status in {500, 502, 503} or status in RETRYABLE_STATUSES:
        return ProviderDown(f"Twilio cannot answer now ({told}); the message was not taken.", code=told)
    return OutcomeUnknown(
        f"Twilio answered {told}: whether the message was taken is not known. It is not repeated.", code=told
    )


def _refused(error: Any, status: int, code: int, told: str) -> MessagingError:
    # Codes get split and changed; that the fault lies with the recipient also shows in what it is about.
    about_recipient = re.search(r"'?\bto\b'? (?:phone )?number|'To'", _said(error), re.IGNORECASE)
    if code in UNUSABLE or (about_recipient and code not in TEXT and 400 <= status < 500):
        return RecipientRefused(
            f"Twilio will not send to this number ({told}). Have it corrected on the profile.",
            reason="number_unusable",
            code=told,
        )
    if 400 <= status < 500 and status != 404:
        return PayloadRefused(
            f"Twilio refused the message ({told}). Correct its text or the sender's settings.", code=told
        )
    return ProviderConfigError(
        f"Twilio answered {told}, which its API does not do. Check TWILIO_API_BASE_URL and TWILIO_ACCOUNT_SID.",
        code=told,
    )


def _said(error: Any) -> str:
    return " ".join(str(getattr(error, name, "") or "") for name in ("msg", "title", "detail"))


def _number(value: Any) -> int:
    text = str(value if value is not None else "")
    return int(text) if text.isascii() and text.isdecimal() else 0
