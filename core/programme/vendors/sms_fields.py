"""The fields of Twilio's requests, and the form of each.

Twilio signs names and values without separators, so the same signature also fits fields whose boundaries are moved. No
two sets of known fields, each in its form, have the same text: a moved boundary makes an unknown or malformed field.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

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
